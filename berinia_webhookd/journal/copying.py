"""Copying a journal into another database, row by row and in the order of keys: a copy that was
broken off goes on behind the last key that arrived. Neither journal may be in use meanwhile, and a
journal that holds anything else is refused rather than mixed with.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Table,
    func,
    insert,
    literal,
    not_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.exc import SQLAlchemyError

from berinia_webhookd.errors import CannotStart, CannotStartNow, JournalUnavailable, NotFound
from berinia_webhookd.journal.engine import Database, prepare_file
from berinia_webhookd.journal.lock import OwnerLock
from berinia_webhookd.journal.migrate import migrate, stored_version
from berinia_webhookd.journal.operations import utc_now
from berinia_webhookd.journal.schema import (
    SCHEMA_VERSION,
    attempts,
    conversations,
    deliveries,
    delivery_bodies,
    entries,
    events,
    replies,
    seen,
)

PAGE_ROWS: Final = 500
PAGE_BYTES: Final = 8 * 1024 * 1024

# What points to others comes after them. Counts are kept by triggers; why an agent is away is
# found out anew.
TABLES: Final = (
    deliveries,
    delivery_bodies,
    conversations,
    events,
    entries,
    attempts,
    replies,
    seen,
)
# What may be large in a table.
LARGE: Final[dict[str, Column[Any]]] = {
    delivery_bodies.name: delivery_bodies.c.body,
    events.name: events.c.data,
    replies.name: replies.c.text,
}
SEQUENCES: Final = (
    "SELECT setval(pg_get_serial_sequence('conversations', 'id'), max(id)) FROM conversations",
    "SELECT setval('entry_places', greatest(max(place), 1)) FROM entries",
)
IN_USE: Final = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND application_name = 'berinia-webhookd'"
)


@dataclass(frozen=True, slots=True)
class Copied:
    """How many rows of a table there are on either side."""

    table: str
    source: int
    target: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.source == self.target


async def copy_journal(
    source_url: str,
    target_url: str,
    *,
    dry_run: bool = False,
    progress: Callable[[str, int], None] = lambda _table, _rows: None,
) -> list[Copied]:
    """Copy what is missing, and count both sides; `progress` hears of each page.

    Raises:
        NotFound: there is no journal to copy.
        CannotStart: the target holds another journal, or cannot be written.
        CannotStartNow: one of them is in use.
        JournalUnavailable: one of them failed on the way; the next copy goes on from there.
    """
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(_alone(source_url))
        await _require_journal(source)
        if not dry_run or await _is_there(target_url):
            target = await stack.enter_async_context(_alone(target_url, make=not dry_run))
            for table in TABLES:
                await _require_beginning(source, target, table)
                if not dry_run:
                    await _copy(source, target, table, progress)
            if not dry_run:
                await _go_on_counting(target)
            return [await _compare(source, target, table) for table in TABLES]
        return [Copied(table.name, await _count(source, table), 0) for table in TABLES]


@contextlib.asynccontextmanager
async def _alone(url: str, *, make: bool = False) -> AsyncIterator[Database]:
    """One journal that nobody else uses; made, or brought up to date, if wanted."""
    database = Database(url, clock=utc_now, pool_size=1, patient=True)
    lock = OwnerLock(database.path) if database.path is not None else None
    try:
        if database.path is not None:
            if make:
                prepare_file(database.path)
            elif not database.path.exists():
                raise NotFound(f"there is no journal at {database.path}")
        if lock is not None:
            lock.take()
        with _explained():
            if make:
                await migrate(database)
            if not database.is_sqlite and await _read(database, _sessions):
                raise CannotStartNow(
                    "the journal's database is used by other processes of ours",
                    hint="stop every `serve` and `worker` first",
                )
        yield database
    finally:
        await database.close()
        if lock is not None:
            lock.release()


async def _is_there(url: str) -> bool:
    database = Database(url, clock=utc_now, pool_size=1, patient=True)
    try:
        if database.path is not None and not database.path.exists():
            return False
        with _explained():
            return await _read(database, stored_version) is not None
    finally:
        await database.close()


async def _require_journal(source: Database) -> None:
    with _explained():
        version = await _read(source, stored_version)
    if version is None:
        raise NotFound("there is no journal in what is to be copied")
    if version > SCHEMA_VERSION:
        raise CannotStart(
            "the journal to be copied was made by a newer version of this program",
            hint="copy it with that version",
        )
    if version < SCHEMA_VERSION:
        raise CannotStart(
            "the journal to be copied has another schema than this program's",
            hint="start `serve` of this version on it once, and stop it again",
        )


async def _require_beginning(source: Database, target: Database, table: Table) -> None:
    """What the target has of a table must be the beginning of what the source has."""
    last = await _last_key(target, table)
    if last is None:
        return
    if await _count(target, table) != await _count(source, table, not_(_behind(table, last))):
        raise CannotStart(
            "the target holds a journal of its own, which a copy would mix with another",
            hint="give an empty database, or drop the schema berinia_webhookd in it",
        )


async def _copy(
    source: Database, target: Database, table: Table, progress: Callable[[str, int], None]
) -> None:
    last = await _last_key(target, table)
    while rows := await _page(source, table, last):
        with _explained():
            async with target.writing() as connection:
                await connection.execute(insert(table), rows)
        last = tuple(rows[-1][column.name] for column in table.primary_key)
        progress(table.name, len(rows))


async def _page(source: Database, table: Table, last: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The next rows behind a key, as many as are not too large together."""
    behind = true() if last is None else _behind(table, last)
    size = func.length(LARGE[table.name]) if table.name in LARGE else literal(0)
    sizes = (
        select(*table.primary_key, func.coalesce(size, 0))
        .where(behind)
        .order_by(*table.primary_key)
        .limit(PAGE_ROWS)
    )
    found = await _rows(source, sizes)
    total, end = 0, None
    for *key, length in found:
        total += length
        if end is not None and total > PAGE_BYTES:
            break
        end = key
    if end is None:
        return []
    page = select(table).where(behind, not_(_behind(table, end))).order_by(*table.primary_key)
    return [dict(row._mapping) for row in await _rows(source, page)]


async def _go_on_counting(target: Database) -> None:
    """New ids and places begin behind those that were copied."""
    if target.is_sqlite:
        return  # it looks at what is there
    with _explained():
        async with target.writing() as connection:
            for statement in SEQUENCES:
                await connection.execute(text(statement))


async def _compare(source: Database, target: Database, table: Table) -> Copied:
    return Copied(table.name, await _count(source, table), await _count(target, table))


async def _count(database: Database, table: Table, where: ColumnElement[bool] | None = None) -> int:
    statement = select(func.count()).select_from(table)
    (row,) = await _rows(database, statement if where is None else statement.where(where))
    return int(row[0])


async def _last_key(database: Database, table: Table) -> Sequence[Any] | None:
    backwards = [column.desc() for column in table.primary_key]
    rows = await _rows(database, select(*table.primary_key).order_by(*backwards).limit(1))
    return rows[0] if rows else None


def _behind(table: Table, key: Sequence[Any]) -> ColumnElement[bool]:
    """The rows that come after this key."""
    columns = list(table.primary_key)
    values = [literal(value, column.type) for value, column in zip(key, columns, strict=True)]
    if len(columns) == 1:
        return columns[0] > values[0]
    return tuple_(*columns) > tuple_(*values)


def _sessions(connection: Connection) -> int:
    return int(connection.execute(IN_USE).scalar_one())


async def _rows(database: Database, statement: Any) -> Sequence[Any]:
    with _explained():
        async with database.reading() as connection:
            return (await connection.execute(statement)).all()


async def _read(database: Database, look: Callable[[Connection], Any]) -> Any:
    async with database.reading() as connection:
        return await connection.run_sync(look)


@contextlib.contextmanager
def _explained() -> Any:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise JournalUnavailable(
            f"a journal cannot be used: {getattr(error, 'orig', error)}",
            hint="run the same copy again: it goes on where it was broken off",
        ) from error
