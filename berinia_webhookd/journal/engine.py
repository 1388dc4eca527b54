"""Where a journal is, and how it is connected to: the file with its modes, the pragmas, the driver.
Everything that differs between SQLite and PostgreSQL below the level of statements is in here.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from berinia_webhookd.errors import CannotStart, CannotStartNow
from berinia_webhookd.journal import postgresql, prepared
from berinia_webhookd.journal.schema import EPOCH, MICROSECOND
from berinia_webhookd.journal.wake_ups import News, announce
from berinia_webhookd.journal.writer import AsyncWriter, ThreadWriter, Writer

BUSY_SECONDS: Final = 5.0  # how long to wait for an operator's command that is writing
CONNECTIONS: Final = 5  # one that writes, and readers
STATEMENTS: Final = 1024  # kept ready by the connection that writes: each has many sizes
THEIR_CLOCK: Final = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")

_PASSING: Final = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM),
    }
)

PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # in WAL mode: every commit is flushed to disk
    "PRAGMA secure_delete = ON",  # what is deleted is overwritten
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",  # no personal data in files elsewhere
    "PRAGMA cache_size = -16000",
)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction under way, and the one instant it all happens at."""

    connection: Connection
    now: datetime
    held: set[int] = field(default_factory=set)  # conversations that others cannot change now
    news: News = field(default_factory=News)  # what other processes are told at the commit

    @property
    def locks_rows(self) -> bool:
        """Whether others may write meanwhile; on SQLite one writer has the whole file."""
        return self.connection.dialect.name != "sqlite"


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite journal, absolute; None for PostgreSQL.

    Raises:
        CannotStart: the URL is no journal's.
    """
    hint = "journal.url is sqlite:////absolute/path/journal.db or postgresql://user@host/database"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise CannotStart("journal.url cannot be read", hint=hint) from error
    if parsed.drivername == "postgresql":
        return None
    if parsed.drivername != "sqlite" or parsed.query:
        raise CannotStart(f"journal.url: {parsed.drivername!r} with these options", hint=hint)
    if parsed.database in {None, "", ":memory:"}:
        raise CannotStart("journal.url names no file; a journal in memory keeps nothing", hint=hint)
    return Path(str(parsed.database)).expanduser().absolute()


def prepare_file(path: Path) -> None:
    """Make the journal's file, if need be, and let nobody else read it.

    Raises:
        CannotStart: it cannot be written here.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            if file.exists() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
    except OSError as error:
        raise CannotStart(
            f"the journal {path} cannot be written: {error.strerror}",
            hint="give the daemon's user its folder, or set journal.url",
        ) from error


class Database:
    """The connections to one journal."""

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], datetime],
        pool_size: int = CONNECTIONS,
        patient: bool = False,
    ) -> None:
        """On PostgreSQL at most `pool_size` connections at once; a `patient` one lets statements
        take long.
        """
        self.path = sqlite_path(url)
        self._url = url
        self._clock = clock
        self._inode: int | None = None
        self._companions: tuple[int, ...] = ()  # inodes of the files that go with ours
        self.instance = uuid4().hex  # tells this process from the others
        self.ahead = timedelta(0)  # by how much the database's clock is ahead of ours
        if self.path is None:
            self.engine = postgresql.make_engine(url, pool_size=pool_size, patient=patient)
        else:
            self.engine = _sqlite_engine(self.path)

    def patiently(self) -> Database:
        """The same journal, over connections of its own whose statements may take long."""
        return Database(self._url, clock=self._clock, pool_size=1, patient=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether one process owns this journal."""
        return self.path is not None

    async def connect_writer(self) -> AsyncConnection:
        """A connection whose transactions take the right to write when they begin."""
        connection = await self.engine.connect()
        return await connection.execution_options(writes=True)

    async def open_writer(self) -> Writer:
        """The lasting connection of the one task that writes."""
        if self.path is None:
            return AsyncWriter(await self.connect_writer())
        return ThreadWriter(_sqlite_writing_engine(self.path))

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection with one transaction, to read."""
        return self.engine.begin()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A connection of its own with one transaction, to write; the daemon has a lasting one."""
        connection = await self.connect_writer()
        try:
            async with connection.begin():
                yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def outside_transactions(self) -> AsyncIterator[AsyncConnection]:
        """A connection without a transaction, for what SQLite refuses to do inside one."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(bare=True)

    @contextlib.asynccontextmanager
    async def driver_connection(self) -> AsyncIterator[Any]:
        """A connection as the driver has it, for what SQLAlchemy has no words for."""
        connection = await self.engine.connect()
        try:
            yield (await connection.get_raw_connection()).driver_connection
        finally:
            with contextlib.suppress(SQLAlchemyError, OSError):
                await connection.invalidate()
            await connection.close()

    def transaction(self, connection: Connection) -> Transaction:
        """What the steps of a commit work with; the clock is the database's where it is shared."""
        if self.is_sqlite:
            return Transaction(connection, self._clock())
        now = EPOCH + connection.execute(THEIR_CLOCK).scalar_one() * MICROSECOND
        self.ahead = now - self._clock()
        return Transaction(connection, now)

    def announce(self, transaction: Transaction) -> None:
        """Let other processes know of a transaction; SQLite lets them see that by itself."""
        if not self.is_sqlite:
            announce(transaction.connection, transaction.news, self.instance)

    def check_file(self) -> None:
        """Notice a file that was removed or replaced under us: what is written then is lost.

        Raises:
            OSError: it is not the file we have open.
        """
        if self.path is None:
            return
        inode = self.path.stat().st_ino
        if self._inode is None:
            self._inode = inode
        if inode != self._inode:
            self._inode = None
            raise FileNotFoundError("the journal's file was replaced")

    def check_companions(self) -> None:
        """Notice that the WAL, where the latest commits are, or its index is no longer the one we
        have open: who opens the journal next would not see it. Closing our connections saves it.

        Raises:
            OSError: it is not.
        """
        if self.path is None:
            return
        files = [self.path.with_name(self.path.name + end) for end in ("-wal", "-shm")]
        companions = tuple(file.stat().st_ino if file.exists() else 0 for file in files)
        self._companions = self._companions or companions
        if companions != self._companions:
            raise FileNotFoundError("the journal's -wal or -shm file was replaced")

    async def close(self) -> None:
        """Close all connections; on SQLite the last one writes the WAL back."""
        self._companions = ()
        await self.engine.dispose()


def is_outage(error: BaseException) -> bool:
    """Whether the database, and not what was to be written, is why it failed."""
    if isinstance(error, OSError | PoolTimeoutError | CannotStart | CannotStartNow):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if postgresql.sqlstate(error) or isinstance(error, InterfaceError):
        return postgresql.is_away(error)
    return isinstance(error, OperationalError)


def is_passing(error: BaseException) -> bool:
    """Whether SQLite failed for a reason that may be gone later, and not for what the file is."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _PASSING


def _sqlite_engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        f"sqlite+aiosqlite://{_file_name(path)}",
        connect_args={"isolation_level": None, "timeout": BUSY_SECONDS},
        pool_size=CONNECTIONS,
        max_overflow=0,
        hide_parameters=True,  # an error's message must not hold what was to be stored
    )
    _set_up(engine.sync_engine)
    return engine


def _sqlite_writing_engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite://{_file_name(path)}",
        connect_args={
            "isolation_level": None,
            "timeout": BUSY_SECONDS,
            "cached_statements": STATEMENTS,
        },
        poolclass=NullPool,
        hide_parameters=True,
    )
    _set_up(engine)
    return engine


def _file_name(path: Path) -> str:
    # mode=rw: connecting never makes a file; only `prepare_file` does, with the right mode.
    return f"/file:{quote(str(path))}?mode=rw&uri=true"


def _set_up(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get("bare", False):
            writes = options.get("writes", False)
            prepared.run(connection, "BEGIN IMMEDIATE" if writes else "BEGIN")
