"""PostgreSQL through asyncpg: connections and their limits, the mapping of errors, the locks
between nodes, and the notifications by which they wake one another. All waits have a timeout: for a
server, a network or another session that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import orjson

from berinia_webhookd.clock import doubling_pauses, wait_for_event
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
from berinia_webhookd.model import EventId

try:
    import asyncpg
except ModuleNotFoundError as _missing:
    raise CannotStart(
        "journal.url is PostgreSQL's, and its driver is not installed",
        hint=f"{sys.prefix}/bin/pip install asyncpg, or use a sqlite:/// journal.url",
    ) from _missing

from berinia_webhookd.journal.postgresql_errors import BROKEN, translated

CHANNEL: Final = "berinia_webhookd"  # of notifications

CONNECT_SECONDS: Final = 4.0
CLOSE_SECONDS: Final = 0.5
LOCK_SECONDS: Final = 3
STATEMENT_SECONDS: Final = 5
COMMAND_SECONDS: Final = 6.0  # client-side, for a server that does not answer
PATIENT_SECONDS: Final = 600  # for upgrades and operators' commands
HEARTBEAT_SECONDS: Final = 5.0  # a dead connection is noticed within two of these
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 5.0
SHARDS: Final = 128  # of tallies: sessions that share one wait for each other's commits
MOST_REPLIES: Final = 100  # named in one notification, which may have 8,000 bytes

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
NUMBERS: Final = "SELECT nextval('numbers') FROM generate_series(1, $1)"
TABLES: Final = "SELECT tablename FROM pg_tables WHERE schemaname = $1"
TAKE_TURN: Final = "SELECT pg_try_advisory_xact_lock(hashtext($1), hashtext($2))"
WAIT_FOR_TURN: Final = "SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))"


class Prepared:
    """A statement as asyncpg takes it: numbered parameters, and the names of their values."""

    def __init__(self, name: str) -> None:
        text = sql.text_of("postgresql", name)
        self.names = sql.names_in(text)
        self.text = sql.PARAMETER.sub(self._numbered, text)

    def _numbered(self, match: Any) -> str:
        name = match["list"] or match["name"]
        if name == "now":
            return NOW
        number = f"${self.names.index(name) + 1}"
        return f"= ANY({number})" if match["list"] else number


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
        statement = prepared(name)
        values = sql.values_of(rows, statement.names)
        found: Sequence[Row]
        if len(values) == 1:
            found = await self._connection.fetch(statement.text, *values[0])
        else:
            found = await self._connection.fetchmany(statement.text, values)
        return found

    async def insert(self, name: str, rows: Sequence[Any]) -> int:
        """See `Transaction`; the statement returns what it inserted."""
        return len(await self.many(name, rows))

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

    async def announce(self, by: str) -> None:
        """Notify the other processes at the commit; `by` is the sender, which ignores it."""
        changes = self.changes
        if not changes.work and not changes.replies:
            return
        many = len(changes.replies) > MOST_REPLIES
        said = {
            "by": by,
            "work": changes.work,
            "replies": None if many else sorted(changes.replies),
        }
        payload = orjson.dumps(said).decode()
        await self._connection.fetchval("SELECT pg_notify($1, $2)", CHANNEL, payload)


class PostgresqlDatabase(Database):
    """A journal that any number of processes share. Three or more lasting connections: one writes,
    one listens, and the others read.
    """

    shared = True

    def __init__(self, url: str, *, pool_size: int, patient: bool) -> None:
        self._url = url
        self._patient = patient
        self._instance = uuid4().hex  # identifies this process
        self._writer: asyncpg.Connection | None = None
        self._readers = asyncio.Semaphore(max(1, pool_size - 2))
        self._idle: list[asyncpg.Connection] = []

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
                await transaction.announce(self._instance)
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
        """See `Database`. Correctness does not depend on notifications: waiting tasks also poll,
        more often while notifications are interrupted.
        """
        for pause in doubling_pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS):
            try:
                with translated():
                    connection = await self._connect()
                    try:
                        await self._listen(connection, heard)
                    finally:
                        self.listening = False
                        await _close(connection)
            except DatabaseError:
                pass  # the writer logs `journal.degraded`; until then, all poll
            lost()
            await asyncio.sleep(pause)

    async def _listen(
        self, connection: asyncpg.Connection, heard: Callable[[Changes], None]
    ) -> None:
        def on_notification(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            changes = understood(payload, myself=self._instance)
            if changes is not None:
                heard(changes)

        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        await connection.add_listener(CHANNEL, on_notification)
        self.listening = True
        heard(Changes(work=True, all_replies=True))  # notifications may have been missed meanwhile
        while not closed.is_set():
            if not await wait_for_event(closed, HEARTBEAT_SECONDS):
                await connection.execute("SELECT 1")

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


def understood(payload: str, *, myself: str) -> Changes | None:
    """Parse a notification; None for our own. An unreadable one means: everything changed."""
    try:
        said = orjson.loads(payload)
        if said["by"] == myself:
            return None
        replies = said["replies"]
        return Changes(
            bool(said["work"]), {EventId(str(id_)) for id_ in replies or ()}, not replies
        )
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return Changes(work=True, all_replies=True)


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
