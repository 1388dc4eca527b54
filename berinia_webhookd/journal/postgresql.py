"""PostgreSQL through asyncpg: connections and their limits, the mapping of errors, and the locks
between nodes. All waits have a timeout: for a server, a network or another session that does not
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import structlog

from berinia_webhookd.clock import doubling_pauses
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.journal import sql
from berinia_webhookd.journal.database import (
    NAMESPACE,
    Changes,
    Database,
    DatabaseError,
    Outage,
    ResultT,
    Row,
    Step,
    Transaction,
)
from berinia_webhookd.journal.migrate import SCHEMA_VERSION, migrate, stored_version

try:
    import asyncpg
except ModuleNotFoundError as _missing:
    raise CannotStart(
        "journal.url is PostgreSQL's, and its driver is not installed",
        hint=f"{sys.prefix}/bin/pip install asyncpg, or use a sqlite:/// journal.url",
    ) from _missing

from berinia_webhookd.journal.notifications import Notifications
from berinia_webhookd.journal.postgresql_errors import BROKEN, translated

logger = structlog.get_logger()

CONNECT_SECONDS: Final = 4.0
CLOSE_SECONDS: Final = 0.5
LOCK_SECONDS: Final = 3
STATEMENT_SECONDS: Final = 5
COMMAND_SECONDS: Final = 6.0  # client-side, for a server that does not answer
PATIENT_SECONDS: Final = 600  # for upgrades and operators' commands
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 5.0
SHARDS: Final = 128  # of tallies: sessions that share one wait for each other's commits

# Settings that must not depend on the database or role.
SESSION: Final = {
    "application_name": "berinia-webhookd",
    "search_path": NAMESPACE,
    "synchronous_commit": "on",  # a commit that returned is on disk
    "default_transaction_isolation": "read committed",  # sees commits made before a lock
    "idle_in_transaction_session_timeout": f"{2 * STATEMENT_SECONDS}s",
    "jit": "off",  # compiling takes longer than any statement of ours
}

OPTIONS_HINT: Final = "see the options in journal.url"

NOW: Final = "(extract(epoch FROM now()) * 1000000)::bigint"
# The subquery hides the count from the planner, which would make a plan for each.
NUMBERS: Final = "SELECT nextval('numbers') FROM generate_series(1, (SELECT $1::bigint))"
TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
TAKE_TURN: Final = "SELECT pg_try_advisory_xact_lock(hashtext($1), hashtext($2))"
WAIT_FOR_TURN: Final = "SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))"


class Prepared:
    """A statement as asyncpg takes it: numbered parameters, and the names of their values."""

    def __init__(self, name: str) -> None:
        self._text = sql.text_of("postgresql", name)
        self.names = sql.names_in(self._text)
        self.has_rows = bool(sql.rows_of(self._text))
        marks = {name: f"${number}" for number, name in enumerate(self.names, 1)}
        self.text = _marked(self._text, marks)
        self._of_rows = ""

    async def of_rows(self, connection: asyncpg.Connection) -> str:
        """Return the SQL for many rows, given as one array for each column: one statement takes a
        fraction of the time that one for each row does.
        """
        if not self._of_rows:
            types = (await connection.prepare(self.text)).get_parameters()
            arrays = ", ".join(f"${n}::{one.name}[]" for n, one in enumerate(types, 1))
            before, row, after = sql.rows_of(self._text)
            columns = {name: f'given."{name}"' for name in self.names}
            given = ", ".join(f'"{name}"' for name in self.names)
            row = f"SELECT {_marked(row[1:-1], columns)} "  # nosec B608
            rows = f"{row}FROM unnest({arrays}) AS given ({given})"
            self._of_rows = f"{before.removesuffix('VALUES ')}{rows}{_marked(after, {})}"
        return self._of_rows


def _marked(text: str, marks: Mapping[str, str]) -> str:
    """Return the text with these in place of the names."""

    def mark(match: Any) -> str:
        name = match["list"] or match["name"]
        if name == "now":
            return NOW
        return f"= ANY({marks[name]})" if match["list"] else marks[name]

    return sql.PARAMETER.sub(mark, text)


@cache
def prepared(name: str) -> Prepared:
    """The statement of this name, prepared once."""
    return Prepared(name)


class PostgresqlTransaction(Transaction):
    """One transaction of a connection."""

    shared = True

    def __init__(self, connection: asyncpg.Connection) -> None:
        super().__init__()
        self._connection = connection

    async def execute(self, name: str, **values: Any) -> Sequence[Row]:
        """See `Transaction`."""
        statement = prepared(name)
        given = [values[key] for key in statement.names]
        found: Sequence[Row] = await self._connection.fetch(statement.text, *given)
        return found

    async def many(self, name: str, rows: Sequence[Any]) -> Sequence[Row]:
        """See `Transaction`."""
        if not rows:
            return ()
        statement, connection = prepared(name), self._connection
        values = sql.values_of(rows, statement.names)
        found: Sequence[Row]
        if len(values) == 1:
            found = await connection.fetch(statement.text, *values[0])
        elif statement.has_rows:
            text = await statement.of_rows(connection)
            found = await connection.fetch(text, *map(list, zip(*values, strict=True)))
        else:
            found = await connection.fetchmany(statement.text, values)
        return found

    async def insert(self, name: str, rows: Sequence[Any]) -> int:
        """See `Transaction`; the statement returns what it inserted."""
        return len(await self.many(name, rows))

    async def insert_numbered(self, name: str, rows: Sequence[Any]) -> Sequence[int]:
        """See `Transaction`; the statement draws and returns them, which spares a round trip."""
        return [number for (number,) in await self.many(name, rows)]

    async def numbers(self, count: int) -> Sequence[int]:
        """See `Transaction`."""
        return [number for (number,) in await self._connection.fetch(NUMBERS, count)]

    async def take_turn(self, work: str) -> bool:
        """See `Transaction`."""
        return bool(await self._connection.fetchval(TAKE_TURN, NAMESPACE, work))

    async def wait_for_turn(self, work: str) -> None:
        """Wait for the advisory lock of a kind of work, held until the end of the transaction."""
        await self._connection.fetchval(WAIT_FOR_TURN, NAMESPACE, work)

    async def tables(self) -> set[str]:
        """See `Transaction`."""
        return {name for (name,) in await self._connection.fetch(TABLES, NAMESPACE)}

    async def script(self, text: str) -> None:
        """See `Transaction`: keys are 64-bit, and texts are compared byte by byte, whatever the
        database's collation.
        """
        script = sql.plain("postgresql", text)
        for ours, theirs in {
            "INTEGER PRIMARY KEY": "BIGINT PRIMARY KEY",
            " TEXT": ' TEXT COLLATE "C"',
        }.items():
            script = script.replace(ours, theirs)
        await self._connection.execute(script)


class PostgresqlDatabase(Database):
    """A journal that any number of processes share. Three or more lasting connections: one writes,
    one listens, and the others read.
    """

    shared = True

    def __init__(self, url: str, *, pool_size: int, patient: bool) -> None:
        self._url = url
        self._patient = patient
        self._notifications = Notifications()
        self._writer: asyncpg.Connection | None = None
        self._readers = asyncio.Semaphore(max(1, pool_size - 2))
        self._idle: list[asyncpg.Connection] = []

    @property
    def listening(self) -> bool:
        """See `Database`."""
        return self._notifications.on

    async def own(self) -> None:
        """See `Database`: there is no single owner."""

    async def prepare(self) -> None:
        """See `Database`."""
        try:
            if (await self._version() or 0) < SCHEMA_VERSION:
                await self._migrate()
        except Outage as error:
            if error.hint is not None:
                raise CannotStart(
                    f"the journal's database refuses us: {error}", hint=error.hint
                ) from error
            raise

    async def _version(self) -> int | None:
        return await self.read(stored_version)

    async def _migrate(self) -> None:
        with translated():
            connection = await self._connect(patient=True)
            try:
                async with connection.transaction():
                    transaction = PostgresqlTransaction(connection)
                    await transaction.wait_for_turn("migrate")
                    # Checked first: a role that may not create it can use one that an operator
                    # created.
                    there = await connection.fetchval("SELECT to_regnamespace($1)", NAMESPACE)
                    if there is None:
                        await connection.execute(f"CREATE SCHEMA {NAMESPACE}")
                    self.created = await migrate(transaction)
            finally:
                await _close(connection)

    async def write(self, step: Step[ResultT]) -> ResultT:
        """See `Database`."""
        with translated():
            if self._writer is None:
                self._writer = await self._connect()
            connection = self._writer
            async with connection.transaction():
                transaction = PostgresqlTransaction(connection)
                result = await step(transaction)
                if transaction.counts:
                    await transaction.write_counts(connection.get_server_pid() % SHARDS)
                told_later = self.listening  # which may end while the commit is on its way
                if not told_later:
                    await self._notifications.notify(connection, transaction.changes)
            if told_later:
                self._notifications.tell(transaction.changes)
            return result

    async def read(self, step: Step[ResultT]) -> ResultT:
        """See `Database`."""
        with translated():
            async with (
                self._readers,
                self._reader() as connection,
                connection.transaction(readonly=True),
            ):
                return await step(PostgresqlTransaction(connection))

    async def look_around(self) -> bool:
        """See `Database`: changes are notified; without notifications, assume some."""
        await self.write(_present)
        return True

    async def listen(self, heard: Callable[[Changes], None], lost: Callable[[], None]) -> None:
        """See `Database`."""
        for pause in doubling_pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS):
            try:
                with translated():
                    connection = await self._connect()
                    try:
                        await self._notifications.exchange(connection, heard)
                    finally:
                        await _close(connection)
            except DatabaseError:
                pass  # the writer logs `journal.degraded`; until then, all poll
            except Exception as error:  # noqa: BLE001 - a mistake of ours ends no listening
                # Neither message nor traceback: both may hold what a stranger notified.
                kind = type(error).__name__
                logger.error("journal.listening_broke", error=kind)  # noqa: TRY400
            lost()
            await asyncio.sleep(pause)

    async def truncate_wal(self) -> bool:
        """See `Database`: the files are the server's."""
        return True

    async def disconnect(self) -> None:
        """See `Database`."""
        idle, self._idle = self._idle, []
        writer, self._writer = self._writer, None
        for connection in (*idle, writer):
            if connection is not None:
                await _close(connection)

    async def close(self) -> None:
        """See `Database`."""
        await self.disconnect()

    @contextlib.asynccontextmanager
    async def _reader(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection for exclusive use; one that failed is not reused."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                break
        else:
            connection = await self._connect()
        try:
            yield connection
        except BaseException:
            await _close(connection)
            raise
        self._idle.append(connection)

    async def _connect(self, *, patient: bool = False) -> asyncpg.Connection:
        """Connect; the URL may have all parameters of libpq, including TLS."""
        patient = patient or self._patient
        own = parse_qs(urlsplit(self._url).query)
        limits = {
            "lock_timeout": f"{PATIENT_SECONDS if patient else LOCK_SECONDS}s",
            "statement_timeout": f"{PATIENT_SECONDS if patient else STATEMENT_SECONDS}s",
        }
        settings = {key: value for key, value in {**SESSION, **limits}.items() if key not in own}
        try:
            return await asyncpg.connect(
                self._url,
                timeout=CONNECT_SECONDS,
                command_timeout=PATIENT_SECONDS if patient else COMMAND_SECONDS,
                server_settings=settings,
            )
        except ValueError as error:
            raise Outage(str(error), passing=False, hint=OPTIONS_HINT) from error


async def _present(transaction: Transaction) -> int:
    ((now,),) = await transaction.execute("present")
    return int(now)


async def _close(connection: asyncpg.Connection) -> None:
    """Terminate a connection at once: a graceful close would wait for the server."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close()
    except (asyncpg.PostgresError, *BROKEN):
        connection.terminate()
