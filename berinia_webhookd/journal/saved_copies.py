"""Copies of a journal that was lost while it was open: `journal.db.saved-<time>`, beside it. An
operator must restore or discard each one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from berinia_webhookd.journal import sql
from berinia_webhookd.journal.deliveries import EVENTS_EACH

MARK: Final = ".saved-"
UNFINISHED: Final = ".unfinished"  # SQLite may put files beside it
RESTORING: Final = ".restoring"
MISSES: Final = 10_000  # consecutive misses, with growing steps: over half a million numbers
# No process reads the file before it is flushed.
FAST: Final = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA cache_size = -64000",
)
SPARSE: Final = ("events", "entries", "replies")  # numbered by their deliveries
NOT_KEPT: Final = {"schema"}  # filled when the tables are created


class NotSaved(Exception):
    """The copy could not be made; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy, and how much of the journal it has."""

    path: Path
    what: str


def saved_copies(journal: Path) -> list[Path]:
    """Return the copies beside a journal, oldest first."""
    return _beside(journal, MARK)


def remove_unfinished(journal: Path) -> None:
    """Remove leftovers of processes that ended while saving or restoring."""
    for file in (*_beside(journal, UNFINISHED), *_beside(journal, RESTORING)):
        file.unlink()


def save(connection: sqlite3.Connection, journal: Path, now: datetime, *, intact: bool) -> Saved:
    """Write the state of an open connection to a file beside the journal, which gets its name when
    it is complete, sound and flushed. If the open file is not `intact` (only moved or removed), the
    readable rows are saved: all of them only if they are in memory.

    Raises:
        NotSaved: the disk is full, or nothing can be read.
    """
    target = journal.with_name(f"{journal.name}{MARK}{now:%Y%m%dT%H%M%SZ}")
    unfinished = journal.with_name(journal.name + UNFINISHED)
    try:
        with _roomy_cache(connection) as fits:
            what = "all that it held"
            if not ((intact or fits) and _copied_whole(connection, unfinished, intact=intact)):
                unfinished.unlink(missing_ok=True)
                what = _copy_readable(connection, unfinished)
        flush(unfinished)
        unfinished.rename(target)
        flush(target.parent)
    except (OSError, sqlite3.Error, MemoryError) as error:
        raise NotSaved(str(error)) from error
    finally:
        remove_unfinished(journal)
    return Saved(target, what)


@contextlib.contextmanager
def _roomy_cache(connection: sqlite3.Connection) -> Iterator[bool]:
    """Enlarge the cache, so that reading evicts no cached pages, which may be the only copy. Yields
    whether all pages fit into memory.
    """
    fits = fits_into_memory(connection)
    ((pages,),) = connection.execute("PRAGMA page_count")
    ((usual,),) = connection.execute("PRAGMA cache_size")
    connection.execute(f"PRAGMA cache_size = {pages + 1000}")
    try:
        yield fits
    finally:
        connection.execute(f"PRAGMA cache_size = {usual}")


def fits_into_memory(connection: sqlite3.Connection) -> bool:
    """Whether a connection has room for all pages of its file."""
    ((pages,),) = connection.execute("PRAGMA page_count")
    ((page_size,),) = connection.execute("PRAGMA page_size")
    ((usual,),) = connection.execute("PRAGMA cache_size")  # in KiB, below zero
    return bool(pages * page_size <= -usual * 1024)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(journal: Path, mark: str) -> list[Path]:
    try:
        found = list(journal.parent.iterdir())
    except FileNotFoundError:
        return []
    return sorted(file for file in found if file.name.startswith(journal.name + mark))


def create(path: Path) -> int:
    """Create a private file; returns its descriptor."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)


def new_copy(path: Path) -> sqlite3.Connection:
    """Create a private file, and connect to it."""
    os.close(create(path))
    return connect_fast(path)


def connect_fast(path: Path) -> sqlite3.Connection:
    """Connect to an empty file that no other process uses yet."""
    copy = sqlite3.connect(path, isolation_level=None)
    for pragma in FAST:
        copy.execute(pragma)
    return copy


def _copied_whole(connection: sqlite3.Connection, target: Path, *, intact: bool) -> bool:
    check = "quick_check" if intact else "integrity_check"
    with closing(new_copy(target)) as copy:
        try:
            connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            ((found,),) = copy.execute(f"PRAGMA {check}(1)")
        except sqlite3.DatabaseError as error:
            cut = error.sqlite_errorcode == sqlite3.SQLITE_IOERR_SHORT_READ
            if isinstance(error, sqlite3.OperationalError) and not cut:
                raise
            return False
    return bool(found == "ok")


def _copy_readable(connection: sqlite3.Connection, target: Path) -> str:
    """Copy the readable rows, except those that refer to unreadable ones."""
    with closing(new_copy(target)) as copy:
        copy.executescript(sql.sqlite_schema())
        copy.execute("BEGIN")
        tables = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
        for table, text in copy.execute(tables).fetchall():
            if table not in NOT_KEPT:
                _copy_table(connection, copy, table, has_rowid="WITHOUT ROWID" not in text)
        ((counted,),) = copy.execute(sql.text_of("sqlite", "save_counted"))
        for table in ("events", "entries", "attempts", "replies", "authors"):
            copy.execute(sql.text_of("sqlite", f"save_whole_{table}"))
        copy.execute("COMMIT")
        ((entries,),) = copy.execute("SELECT count(*) FROM entries")
    if not entries:
        raise NotSaved("no event of it can be read any more")
    return f"what can be read of it, {entries} entries of {counted},"


def _copy_table(
    connection: sqlite3.Connection, copy: sqlite3.Connection, table: str, *, has_rowid: bool
) -> None:
    described = copy.execute(f"PRAGMA table_info({table})").fetchall()
    columns = [row[1] for row in described]
    keys = ["rowid"] if has_rowid else [row[1] for row in described if row[5]]
    insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) "
    insert += f"VALUES ({', '.join('?' * len(columns))})"
    # Which entries are next is computed again; pages of different states may disagree.
    read = ["NULL" if column == "startable_at" else column for column in columns]
    select = f"SELECT {', '.join(read)}, {keys[0]} FROM {table}"  # noqa: S608 # nosec B608
    for direction in ("ASC", "DESC"):
        scan = Scan(connection, select, keys, direction, numbered=has_rowid)
        copy.executemany(insert, scan.rows())
        if scan.complete:
            break


class Scan:
    """The rows of a table in the order of keys until one cannot be read; with numeric keys, also
    the rows after it.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        select: str,
        keys: Sequence[str],
        direction: str,
        *,
        numbered: bool,
    ) -> None:
        self._connection = connection
        self._select = select
        self._key = keys[0]
        self._order = ", ".join(f"{key} {direction}" for key in keys)
        self._numbered = numbered
        apart = EVENTS_EACH if select.endswith(SPARSE) else 1
        self._step, self._compare = (apart, ">") if direction == "ASC" else (-apart, "<")
        self.complete = False  # whether all rows could be read

    def rows(self) -> Iterator[Sequence[Any]]:
        """Yield the rows. After an unreadable row, skip ahead by number."""
        at = 0 if self._numbered and self._step > 0 else None
        misses = behind = 0
        while misses < MISSES:
            where = "" if at is None else f"WHERE {self._key} {self._compare} {at}"
            try:
                query = f"{self._select} {where} ORDER BY {self._order}"
                for *row, number in self._connection.execute(query):
                    misses = 0
                    if self._numbered:
                        at = number
                    if not any(map(_is_cut, row)):
                        yield row
            except sqlite3.DatabaseError:
                if at is None:
                    return
                misses += 1
                behind += 1
                at += self._step * (1 + misses // 100)
            else:
                self.complete = not behind
                return


def _is_cut(value: Any) -> bool:
    """Whether a page at the end of a value is missing: SQLite reads zeros there."""
    return isinstance(value, str | bytes) and value[-1:] in {"\0", b"\0"}
