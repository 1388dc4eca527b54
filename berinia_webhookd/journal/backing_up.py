"""Writes a SQLite journal, in use or not, into one backup file, with the key of the register of
consents in it. The file gets its name only after it was flushed, opened and checked. The pages are
read in one transaction, so that writes to the journal neither change nor restart the backup. They
are flushed a few at a time, since a flush of the journal may have to wait for earlier writes to
other files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from berinia_webhookd.errors import CannotStart, NotFound, WebhookdError
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.copying import TABLES
from berinia_webhookd.journal.database import DatabaseError, stored
from berinia_webhookd.journal.lock import real_path
from berinia_webhookd.journal.migrate import SCHEMA_VERSION
from berinia_webhookd.journal.saved_copies import UNFINISHED, connect_fast, create, flush
from berinia_webhookd.journal.sqlite import companions, connect, damage, require_journal

PAGES_AT_ONCE: Final = 4096
ROOM_LEFT: Final = 64 * 1024 * 1024  # bytes left free for other writers, such as the journal
LEFT: Final = re.compile(rf".+\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}")
KEPT_KEY: Final = "CREATE TABLE backup (made_at BIGINT NOT NULL, consents_key TEXT)"


@dataclass(frozen=True, slots=True)
class BackedUp:
    """The result of a backup: its size in bytes, its number of events, whether it has a key, and
    the leftovers of killed backups that were removed.
    """

    size: int
    events: int
    has_key: bool
    removed: Sequence[Path]


def back_up(
    journal: Path, file: Path, now: datetime, *, key: ConsentsKey | None = None
) -> BackedUp:
    """Write the journal, as it is now, into a new file.

    Raises:
        NotFound: there is no journal. CannotStart: it is no journal of this version. WebhookdError:
        the file exists, the disk is full, or the journal is damaged; nothing is left of the backup.
    """
    journal = real_path(journal)
    if not journal.is_file():
        raise NotFound(f"there is no journal at {journal}")
    _require_free_place(file)
    with _explained(file):
        removed = _remove_left(file.parent)
    with _explained(file), _unfinished(file) as (fresh, descriptor):
        require_journal(journal)
        with closing(connect(journal)) as source:
            counts = _copy(source, fresh, descriptor, now, key)
        flush(fresh)
        _check(fresh, counts)
        size = fresh.stat().st_size
        _require_free_place(file)
        fresh.rename(file)
        flush(file.parent)
    return BackedUp(size, counts["events"], key is not None, removed)


def take_key(copy: sqlite3.Connection) -> ConsentsKey | None:
    """Remove the key from a copy of a backup, and return it.

    Raises:
        CannotStart: what is in its place is no key.
    """
    if not copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'backup'").fetchone():
        return None
    kept = [secret for (secret,) in copy.execute("SELECT consents_key FROM backup")]
    if len(kept) != 1 or not isinstance(kept[0], str | None):
        raise CannotStart("the backup's key of the register of consents cannot be read")
    (secret,) = kept
    copy.execute("DROP TABLE backup")
    return None if secret is None else ConsentsKey(secret)


def _require_free_place(file: Path) -> None:
    if os.path.lexists(file):
        raise WebhookdError(
            f"{file} is there already, and was left as it is",
            hint="give another name, or remove it",
        )


@contextlib.contextmanager
def _unfinished(file: Path) -> Iterator[tuple[Path, int]]:
    """Create a temporary file beside it, removed afterwards. A lock on its descriptor marks it as
    in use; the descriptor is closed after SQLite has closed the file.
    """
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(4)}{UNFINISHED}")
    descriptor = create(fresh)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fresh, descriptor
    finally:
        for left in (fresh, *companions(fresh)):
            left.unlink(missing_ok=True)
        os.close(descriptor)


def _remove_left(folder: Path) -> Sequence[Path]:
    """Remove files of killed backups, on which no process has a lock."""
    removed = []
    for left in sorted(folder.iterdir()):
        if LEFT.fullmatch(left.name) and left.is_file() and not left.is_symlink():
            with left.open("rb") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
                removed.append(left)
    return removed


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, DatabaseError) as error:
        full = (
            isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        ) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        why = error.strerror if isinstance(error, OSError) else error
        raise WebhookdError(
            f"no backup was made at {file}: {why}",
            hint=f"make room: df -h {file.parent}" if full else None,
        ) from error


def _copy(
    source: sqlite3.Connection, fresh: Path, descriptor: int, now: datetime, key: ConsentsKey | None
) -> Mapping[str, int]:
    """Copy all pages in one transaction; returns the number of rows of each table."""
    with closing(connect_fast(fresh)) as copy:
        source.execute("BEGIN")
        counts = _count(source)
        _require_room(source, fresh.parent)
        source.backup(
            copy,
            pages=PAGES_AT_ONCE,
            sleep=0,
            progress=lambda _status, _left, _all: os.fdatasync(descriptor),
        )
        source.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute(KEPT_KEY)
        secret = None if key is None else key.reveal()
        copy.execute("INSERT INTO backup VALUES (?, ?)", (stored(now), secret))
    return counts


def _require_room(source: sqlite3.Connection, folder: Path) -> None:
    ((pages,),) = source.execute("PRAGMA page_count")
    ((page_size,),) = source.execute("PRAGMA page_size")
    needed, free = pages * page_size, shutil.disk_usage(folder).free
    if free < needed + ROOM_LEFT:
        raise WebhookdError(
            f"no backup was made: it takes {needed // 2**20} MiB and leaves {ROOM_LEFT // 2**20} "
            f"free, and {folder} has {free // 2**20}",
            hint=f"make room: df -h {folder}",
        )


def _check(fresh: Path, counts: Mapping[str, int]) -> None:
    """Read and check the whole file.

    Raises:
        CannotStart: the journal is not of this version. WebhookdError: it is damaged, or differs
        from the journal.
    """
    with closing(sqlite3.connect(f"{fresh.absolute().as_uri()}?mode=ro", uri=True)) as copy:
        found = damage(copy, "quick_check")
        if found is not None:
            raise WebhookdError(
                f"the journal, or what was written of it, is damaged: {found}",
                hint="see `berinia-webhookd doctor`",
            )
        ((version,),) = copy.execute("SELECT version FROM schema")
        if version != SCHEMA_VERSION:
            raise CannotStart(
                f"the journal has schema {version}, and this program {SCHEMA_VERSION}"
            )
        if _count(copy) != counts:
            raise WebhookdError("what was written has not as many rows as the journal")


def _count(connection: sqlite3.Connection) -> Mapping[str, int]:
    statements = {table.name: table.statement("table_count") for table in TABLES}
    return {name: connection.execute(text).fetchone()[0] for name, text in statements.items()}
