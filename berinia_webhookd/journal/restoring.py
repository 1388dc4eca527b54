"""Replaces a SQLite journal by a copy, or discards a saved copy. Data that the journal has and the
copy lacks is merged into the copy first: events, digests, consents, erasures, guards' counts.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from berinia_webhookd import secret_files
from berinia_webhookd.errors import CannotStart, NotFound
from berinia_webhookd.findings import joined
from berinia_webhookd.journal import actions, erase, order, sql
from berinia_webhookd.journal.access import UNKNOWN
from berinia_webhookd.journal.actions import Actor
from berinia_webhookd.journal.backing_up import KEPT_KEY, take_key
from berinia_webhookd.journal.consents_key import FILE_NAME, ConsentsKey, require_fit
from berinia_webhookd.journal.database import Transaction, in_batches, stored
from berinia_webhookd.journal.lock import STOP_IT, OwnerLock, real_path
from berinia_webhookd.journal.migrate import SCHEMA_VERSION
from berinia_webhookd.journal.saved_copies import RESTORING, flush, saved_copies
from berinia_webhookd.journal.sqlite import (
    SqliteTransaction,
    companions,
    damage,
    orphaned_wal,
    run,
)

BATCH: Final = 200
# Indexes by name: they have no effect. Tables by their columns, of which some may be computed.
# Without what SQLite makes; the name alone does not prove that: a schema may be edited.
SCHEMA: Final = (
    "SELECT type, name, CASE WHEN type IN ('view', 'trigger') THEN sql WHEN type = 'table' THEN "
    "(SELECT group_concat(name || ' ' || type || ' ' || hidden) FROM pragma_table_xinfo(one.name)) "
    "END FROM sqlite_master AS one WHERE NOT (type = 'index' AND sql IS NULL) "
    "AND NOT (type = 'table' AND name IN ('sqlite_sequence', 'sqlite_stat1', 'sqlite_stat4'))"
)
# What is stored in columns of a declared type; SQLite itself would store anything.
STORED_AS: Final = {
    "INTEGER": "integer",
    "BIGINT": "integer",
    "TEXT": "text",
    "BYTEA": "blob",
    "DOUBLE PRECISION": "real",
}
_NUMBER: Final = "{column} + (SELECT number FROM behind)"
_PLACE: Final = "{column} + (SELECT place FROM behind)"
_CONVERSATION: Final = "(SELECT ours FROM conversation_of WHERE theirs = {column})"
_UNLESS_USED: Final = (
    "CASE WHEN {column} IN (SELECT {column} FROM main.deliveries WHERE {column} IS NOT NULL) "
    "THEN NULL ELSE {column} END"
)
_OF_TAKEN: Final = "event IN (SELECT number FROM taken_events)"
# Entries that may have acted are not made ready: the next start finds them lost.
_BEGINS_AGAIN: Final = "state = 'running' AND began_at IS NULL"
# The rows to take of a table, and its columns that refer to renumbered rows.
TAKEN: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "conversations": (
        "id IN (SELECT theirs FROM conversation_of, behind WHERE ours > conversation)",
        {"id": _CONVERSATION},
    ),
    "deliveries": (
        "number IN (SELECT number FROM taken_deliveries)",
        {"number": _NUMBER, "replay_key": _UNLESS_USED, "once_key": _UNLESS_USED},
    ),
    "events": (
        "number IN (SELECT number FROM taken_events)",
        {"number": _PLACE, "delivery": _NUMBER, "place": _PLACE, "conversation": _CONVERSATION},
    ),
    "authors": (_OF_TAKEN, {"event": _PLACE}),
    "entries": (
        _OF_TAKEN,
        {
            "place": _PLACE,
            "event": _PLACE,
            "conversation": _CONVERSATION,
            "gathered_into": f"CASE WHEN {_BEGINS_AGAIN} THEN NULL ELSE {_PLACE} END",
            "startable_at": "NULL",
            "state": f"CASE WHEN {_BEGINS_AGAIN} THEN 'ready' ELSE state END",
        },
    ),
    "attempts": (
        f"entry IN (SELECT place FROM present.entries WHERE {_OF_TAKEN})",  # noqa: S608 # nosec B608
        {"entry": _PLACE},
    ),
    "replies": (_OF_TAKEN, {"event": _PLACE}),
}


@dataclass(frozen=True, slots=True)
class Restored:
    """The result: events in the journal now, how many of them the copy lacked, how many were erased
    in it, where an unreadable journal was moved, where the copy's key of the register of consents
    was put, and removed leftovers of killed restores.
    """

    events: int
    taken: int
    erased: int
    set_aside: Path | None
    key_file: Path | None
    removed: Path | None


def restore_journal(
    journal: Path,
    file: Path,
    now: datetime,
    *,
    key: ConsentsKey | None = None,
    key_file: Path | None = None,
    actor: Actor = UNKNOWN,
) -> Restored:
    """Replace the journal by a copy; a saved copy is deleted then. The key finds people erased in
    the journal in the copy's register of consents. Without one, a backup's key is put into the key
    file beside the journal, or at `key_file`.

    Raises:
        NotFound: there is no such copy. CannotStart: the copy is damaged, of another version, or
        has another key. CannotStartNow: the journal is in use.
    """
    journal, file = real_path(journal), real_path(file)
    if not file.is_file() or file == journal:
        raise NotFound(f"there is no copy of the journal at {file}")
    fresh = journal.with_name(journal.name + RESTORING)
    removed = fresh if fresh.exists() else None
    with _alone(journal), _removed(fresh):
        orphan = orphaned_wal(journal)  # which SQLite deletes when it opens the file
        fresh.touch(mode=0o600, exist_ok=False)
        _give_to_owner_of_folder(fresh)
        set_aside = put = None
        with _explained(file), closing(sqlite3.connect(fresh, isolation_level=None)) as copy:
            _fill(copy, file)
            in_it = take_key(copy)
            _require_same(key, in_it)
            readable = None if orphan else _attach(copy, journal)
            before = _count(copy)
            copy.execute("BEGIN")
            transaction = SqliteTransaction(copy, stored(now))
            erased = run(_take(transaction, key or in_it)) if readable else 0
            if in_it is not None:
                run(require_fit(transaction, in_it))
            run(_put_in_order(transaction))
            total = _count(copy)
            about = {"events": total, "taken": total - before, "erased": erased}
            run(actions.note(transaction, actor, "journal restore", about))
            copy.execute("COMMIT")
            if any(name == "present" for _, name, _ in copy.execute("PRAGMA database_list")):
                copy.execute("DETACH present")
            copy.execute("PRAGMA journal_mode = DELETE")
        flush(fresh)
        if key is None and in_it is not None:
            put = _put(in_it, key_file or journal.with_name(FILE_NAME))
        if readable is False:
            set_aside = _set_aside(journal, now)
        if orphan is not None:
            set_aside = _set_aside(orphan, now)
        for left in companions(journal):
            left.unlink(missing_ok=True)
        fresh.rename(journal)
        flush(journal.parent)
        if file in saved_copies(journal):
            file.unlink()
    return Restored(total, total - before, erased, set_aside, put, removed)


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Say of a copy that is sound, and not as ours are, what does not fit."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
        raise CannotStart(f"{file} cannot be put in the journal's place: {error}") from error


def _set_aside(file: Path, now: datetime) -> Path:
    return file.rename(file.with_name(f"{file.name}.damaged-{now:%Y%m%dT%H%M%SZ}"))


def discard_copy(journal: Path, file: Path) -> None:
    """Delete a copy that was saved.

    Raises:
        NotFound: the file is not a saved copy.
    """
    file = real_path(file)
    if file not in saved_copies(real_path(journal)):
        raise NotFound(
            f"{file} is no copy that was saved of the journal",
            hint=f"they lie beside it: {journal}.saved-…",
        )
    file.unlink()
    flush(file.parent)


@contextlib.contextmanager
def _alone(journal: Path) -> Iterator[None]:
    lock = OwnerLock(journal)
    lock.take(hint=STOP_IT)
    try:
        yield
    finally:
        # The lock may have created the file: an empty one would be taken for a new journal.
        if journal.exists() and not journal.stat().st_size:
            journal.unlink()
        lock.release()


@contextlib.contextmanager
def _removed(file: Path) -> Iterator[None]:
    """Remove a temporary file with its companions, before and after."""

    def remove() -> None:
        for leftover in (file, *companions(file)):
            leftover.unlink(missing_ok=True)

    remove()
    try:
        yield
    finally:
        remove()


def _fill(copy: sqlite3.Connection, file: Path) -> None:
    """Copy the given file, which stays unchanged until the restore has succeeded."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as given:
            given.backup(copy)
        found = damage(copy, "quick_check")
        versions = [version for (version,) in copy.execute("SELECT version FROM schema")]
    except sqlite3.Error as error:
        raise CannotStart(f"{file} is no journal that can be read: {error}") from error
    if found is not None:
        raise CannotStart(f"{file} is damaged: {found}")
    if versions != [SCHEMA_VERSION]:
        found = joined(map(str, versions)) if versions else "of no version"
        raise CannotStart(f"{file} has schema {found}, and this program {SCHEMA_VERSION}")
    strangers, missing = _strangers(copy)
    if strangers:
        raise CannotStart(
            f"{file} has what no journal has: {', '.join(strangers)}",
            hint="it would act in every write of the daemon: find out who made this file",
        )
    if missing:
        raise CannotStart(f"{file} lacks what each journal has: {', '.join(missing)}")
    if misfits := list(_misfits(copy)):
        raise CannotStart(
            f"{file} holds values of a type that no journal holds, in {', '.join(misfits)}",
            hint="the daemon could not read them: find out who changed this file",
        )
    copy.execute("PRAGMA secure_delete = ON")
    copy.row_factory = sqlite3.Row


def _strangers(copy: sqlite3.Connection) -> tuple[list[str], list[str]]:
    """Return objects in a copy's schema that no journal or backup has; and missing ones."""
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(sql.sqlite_schema())
        needed = set(ours.execute(SCHEMA))
        ours.execute(KEPT_KEY)
        known = set(ours.execute(SCHEMA))
    there = set(copy.execute(SCHEMA))
    return _named(there - known), _named(needed - there)


def _named(some: Iterable[tuple[str, str, str | None]]) -> list[str]:
    return sorted(f"{kind} {name}" for kind, name, _ in some)


def _misfits(copy: sqlite3.Connection) -> Iterator[str]:
    """Yield the columns of a copy with a value of another type than is declared."""
    tables = [name for kind, name, _ in copy.execute(SCHEMA) if kind == "table"]
    for table in tables:
        columns = copy.execute("SELECT name, type FROM pragma_table_info(?)", (table,)).fetchall()
        wrong = ", ".join(
            f"max(typeof({name}) NOT IN ('{STORED_AS[declared]}', 'null'))"
            for name, declared in columns
        )
        (found,) = copy.execute(f"SELECT {wrong} FROM {table}")  # noqa: S608 # nosec B608
        yield from (
            f"{table}.{name}"
            for (name, _), is_wrong in zip(columns, found, strict=True)
            if is_wrong
        )


def _require_same(key: ConsentsKey | None, in_it: ConsentsKey | None) -> None:
    if key is not None and in_it is not None and key.name != in_it.name:
        raise CannotStart(
            "the backup has another consents.key than this installation; nothing was changed",
            hint=f"unset consents.key, or move the file {FILE_NAME} away, if no erased person's "
            "opt-out of the present journal needs it; then restore again",
        )


def _put(key: ConsentsKey, file: Path) -> Path:
    """Write the key file unless there is one."""
    secret_files.put(file, key.reveal())
    _give_to_owner_of_folder(file)
    return file


def _give_to_owner_of_folder(file: Path) -> None:
    if os.geteuid() == 0:
        owner = file.parent.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def _attach(copy: sqlite3.Connection, journal: Path) -> bool | None:
    """Attach the journal; returns whether it can be read, None if it is empty."""
    try:
        copy.execute("ATTACH ? AS present", (str(journal),))
        if not copy.execute("SELECT 1 FROM present.sqlite_master LIMIT 1").fetchone():
            return None
        ((found,),) = copy.execute("PRAGMA present.quick_check(1)")
        ((version,),) = copy.execute("SELECT version FROM present.schema")
    except sqlite3.Error:
        return False
    return bool(found == "ok" and version == SCHEMA_VERSION)


def _count(copy: sqlite3.Connection) -> int:
    ((total,),) = copy.execute("SELECT count(*) FROM main.events")
    return int(total)


async def _take(transaction: Transaction, key: ConsentsKey | None) -> int:
    """Merge data that the copy lacks; returns how many events were erased."""
    for name in ("taken_events", "taken_deliveries", "behind", "conversation_of"):
        await _keep(transaction, name)
    for table, (which, ours) in TAKEN.items():
        columns = [name for (name,) in await transaction.execute("table_columns", table=table)]
        values = ", ".join(ours.get(column, column).format(column=column) for column in columns)
        await transaction.execute(
            f"INSERT INTO main.{table} ({', '.join(columns)}) "  # noqa: S608 # nosec B608
            f"SELECT {values} FROM present.{table} WHERE {which}"
        )
    for name in ("seen", "pauses", "agents", "runs", "consents", "actions"):
        await transaction.execute(f"restore_{name}")
    await _name_as_the_journal(transaction, key)
    return await _erase(transaction)


async def _name_as_the_journal(transaction: Transaction, key: ConsentsKey | None) -> None:
    """Resolve people with both an address and a digest: keep the row that the journal has."""
    digests = {address for (address,) in await transaction.execute("restore_digests")}
    if key is None or not digests:
        return
    for row in await transaction.execute("restore_named"):
        if (digest := key.digest(row["address"])) in digests:
            gone = digest if row["present"] else row["address"]
            await transaction.execute("restore_forget", address=gone)


async def _erase(transaction: Transaction) -> int:
    """Erase the events that were erased in the journal."""
    rows = await transaction.execute("restore_erased")
    for some in in_batches(rows, BATCH):
        await erase.blank(transaction, [row["number"] for row in some])
        conversations = [row["conversation"] for row in some]
        for name in ("erase_runs", "erase_parties"):
            await transaction.execute(name, conversations=conversations)
    await transaction.execute("restore_erased_deliveries")
    return len(rows)


async def _put_in_order(transaction: Transaction) -> None:
    """Compute again which entries are next, and count all entries."""
    rows = await transaction.execute("restore_conversations")
    for some in in_batches(rows, BATCH):
        await order.advance_all(transaction, [row["conversation"] for row in some])
    await transaction.execute("forget_tallies")
    await transaction.execute("recount")


async def _keep(transaction: Transaction, name: str) -> None:
    """Store the rows of a statement in a temporary table."""
    text = sql.text_of("sqlite", f"restore_{name}")
    await transaction.script(f"CREATE TEMP TABLE {name} AS {text}")
