"""Copies a journal into another database, row by row and in the order of keys: an interrupted copy
continues after the last key that arrived. Neither journal may be in use meanwhile, and a target
with other data is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from berinia_webhookd.clock import now
from berinia_webhookd.errors import CannotStart, CannotStartNow, JournalUnavailable, NotFound
from berinia_webhookd.journal import actions, sql
from berinia_webhookd.journal.access import UNKNOWN
from berinia_webhookd.journal.actions import Actor
from berinia_webhookd.journal.database import (
    Database,
    DatabaseError,
    Row,
    Transaction,
    instant,
    open_database,
    path_of,
)
from berinia_webhookd.journal.lock import STOP_IT, OwnerLock
from berinia_webhookd.journal.migrate import SCHEMA_VERSION, stored_version

PAGE_ROWS: Final = 500
PAGE_BYTES: Final = 8 * 1024 * 1024
SESSIONS_END_SECONDS: Final = (0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is copied."""

    name: str
    before: Mapping[str, Any]  # its key columns, with values less than all others
    large: str = "''"  # columns that may be large

    def statement(self, name: str, columns: Sequence[str] = ()) -> str:
        """Return one of the statements for all tables, filled in for this one."""
        return sql.text_of("sqlite", name).format(
            table=self.name,
            large=self.large,
            key=", ".join(self.before),
            backwards=", ".join(f"{column} DESC" for column in self.before),
            last=", ".join(f":last_{column}" for column in self.before),
            end=", ".join(f":end_{column}" for column in self.before),
            columns=", ".join(columns),
            values=", ".join(f":{column}" for column in columns),
        )

    def parameters(self, name: str, key: Sequence[Any]) -> dict[str, Any]:
        """Return a key as parameters, `last` or `end`."""
        return {f"{name}_{column}": value for column, value in zip(self.before, key, strict=True)}


# Referenced tables come first. Counts are recomputed; logins, and the reasons of agents that cannot
# be loaded, are not copied.
TABLES: Final = (
    Table("deliveries", {"number": 0}, "body"),
    Table("conversations", {"id": 0}),
    Table("events", {"number": 0}, "data"),
    Table("authors", {"event": 0, "address": ""}),
    Table("entries", {"place": 0}),
    Table("attempts", {"entry": 0, "number": 0}, "error"),
    Table("replies", {"event": 0}, "text"),
    Table("seen", {"digest": b""}),
    Table("consents", {"address": "", "channel": ""}),
    Table("actions", {"number": 0}),
    Table("agents", {"agent": ""}),
    Table("runs", {"sender": "", "agent": "", "started_at": 0, "entry": 0}),
)


@dataclass(frozen=True, slots=True)
class Copied:
    """The number of rows of a table on either side."""

    table: str
    source: int
    target: int

    @property
    def complete(self) -> bool:
        """Whether both sides have the same number."""
        return self.source == self.target


async def copy_journal(
    source_url: str,
    target_url: str,
    *,
    dry_run: bool = False,
    actor: Actor = UNKNOWN,
    progress: Callable[[str, int], None] = lambda _table, _rows: None,
) -> list[Copied]:
    """Copy missing rows, and count both sides; `progress` is called after each page.

    Raises:
        NotFound: there is no journal to copy. CannotStart: the target holds another journal, or
        cannot be written. CannotStartNow: one of them is in use. JournalUnavailable: one of them
        failed; the next copy continues from there.
    """
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(_alone(source_url))
        await _require_journal(source)
        path, target = path_of(target_url), None
        if not dry_run or path is None or path.exists():
            target = await stack.enter_async_context(_alone(target_url, make=not dry_run))
            target = target if await _version(target) is not None else None
        if target is not None:
            moved = False
            for table in TABLES:
                await _require_beginning(source, target, table)
                if not dry_run:
                    if table.name == "actions" and moved:
                        await _note(source, actor)
                    moved |= await _copy(source, target, table, progress)
        if target is not None and not dry_run:
            with _explained():
                await target.write(_finish)
        return [
            Copied(table.name, await _count(source, table), await _count(target, table))
            for table in TABLES
        ]


@contextlib.asynccontextmanager
async def _alone(url: str, *, make: bool = False) -> AsyncIterator[Database]:
    """Open a journal that no other process uses; created or upgraded if wanted."""
    database = open_database(url, clock=now, pool_size=3, patient=True)
    path = path_of(url)
    async with AsyncExitStack() as stack:
        if path is not None and not make:
            if not path.exists():
                raise NotFound(f"there is no journal at {path}")
            lock = OwnerLock(path)
            lock.take(hint=STOP_IT)
            stack.callback(lock.release)
        stack.push_async_callback(database.close)
        with _explained():
            if database.shared and await _is_used(database):
                raise CannotStartNow(
                    "the journal's database is used by other processes of ours",
                    hint="stop every `serve` and `worker` first",
                )
            if make:
                await database.own()
                await database.prepare()
        yield database


async def _is_used(database: Database) -> bool:
    """Return whether other processes of ours stay connected; waits for sessions that may just be
    ending, such as that of an interrupted copy.
    """
    for pause in (0.0, *SESSIONS_END_SECONDS):
        await asyncio.sleep(pause)
        if not await _first(database, "other_sessions"):
            return False
    return True


async def _version(database: Database) -> int | None:
    with _explained():
        return await database.read(stored_version)


async def _require_journal(source: Database) -> None:
    version = await _version(source)
    if version is None:
        raise NotFound("there is no journal in what is to be copied")
    if version != SCHEMA_VERSION:
        raise CannotStart(
            f"the journal to be copied has schema {version}, and this program {SCHEMA_VERSION}",
            hint="copy it with the newer program; `serve` of that one upgrades an older journal",
        )


async def _require_beginning(source: Database, target: Database, table: Table) -> None:
    """Check that the target's rows of a table are the first rows of the source."""
    last = table.parameters("last", await _last_key(target, table))
    row = table.statement("table_row", await _columns(source, table))
    ends = [[dict(one) for one in await _rows(side, row, **last)] for side in (source, target)]
    there = await _first(source, table.statement("table_count_until"), **last)
    if ends[0] != ends[1] or there != await _count(target, table):
        raise await _held_by(target)


async def _held_by(target: Database) -> CannotStart:
    """Return why a target is refused, and the hint for the operator."""
    ((events, newest),) = await _rows(target, "held_in_target")
    count = "1 event" if events == 1 else f"{events:,} events"
    when = "" if newest is None else f", the newest received at {instant(newest):%F %T} UTC"
    empty = "drop the schema berinia_webhookd there" if target.shared else "give another file"
    keep = (
        ' (to keep them: "Move the journal to PostgreSQL" in docs/operating.md)' if events else ""
    )
    return CannotStart(
        f"the target holds a journal of its own: {count}{when}; a copy would mix it with another,"
        " and nothing was copied",
        hint=f"stop what uses it, its socket unit as well; then {empty}{keep}, and copy again",
    )


async def _copy(
    source: Database, target: Database, table: Table, progress: Callable[[str, int], None]
) -> bool:
    """Copy the missing rows of a table; return whether there were any."""
    columns, moved = await _columns(source, table), False
    insert = table.statement("table_insert", columns)
    last = await _last_key(target, table)
    while rows := await _page(source, table, columns, last):

        async def write(transaction: Transaction, rows: Sequence[Row] = rows) -> None:
            await transaction.many(insert, [dict(row) for row in rows])

        with _explained():
            await target.write(write)
        last = [rows[-1][column] for column in table.before]
        progress(table.name, len(rows))
        moved = True
    return moved


async def _page(
    source: Database, table: Table, columns: Sequence[str], last: Sequence[Any]
) -> Sequence[Row]:
    """Return the next rows after a key, up to the size limit."""
    behind = table.parameters("last", last)
    sizes = await _rows(source, table.statement("table_sizes"), **behind, most=PAGE_ROWS)
    total, end = 0, None
    for *key, size in sizes:
        total += size
        if end is not None and total > PAGE_BYTES:
            break
        end = key
    if end is None:
        return []
    until = table.parameters("end", end)
    return await _rows(source, table.statement("table_page", columns), **behind, **until)


async def _note(source: Database, actor: Actor) -> None:
    """Note the copy as an action in the source, so that the target has it, too."""
    events = int(await _first(source, TABLES[2].statement("table_count")))

    async def write(transaction: Transaction) -> None:
        await actions.note(transaction, actor, "journal copy", {"events": events})

    with _explained():
        await source.write(write)


async def _finish(transaction: Transaction) -> None:
    """Recount the copied entries, and set the sequences after the copied numbers."""
    await transaction.execute("forget_tallies")
    await transaction.execute("recount")
    if transaction.shared:  # SQLite takes the next numbers from the tables
        await transaction.execute("continue_numbers")
        await transaction.execute("continue_actions")


async def _columns(database: Database, table: Table) -> list[str]:
    return [name for (name,) in await _rows(database, "table_columns", table=table.name)]


async def _count(database: Database | None, table: Table) -> int:
    return 0 if database is None else int(await _first(database, table.statement("table_count")))


async def _last_key(database: Database, table: Table) -> Sequence[Any]:
    found = await _rows(database, table.statement("table_last_key"))
    return tuple(found[0] if found else table.before.values())


async def _first(database: Database, statement: str, **values: Any) -> Any:
    return (await _rows(database, statement, **values))[0][0]


async def _rows(database: Database, statement: str, **values: Any) -> Sequence[Row]:
    with _explained():
        return await database.read(lambda transaction: transaction.execute(statement, **values))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise JournalUnavailable(
            f"a journal cannot be used: {error}",
            hint="run the same copy again: it goes on where it was broken off",
        ) from error
