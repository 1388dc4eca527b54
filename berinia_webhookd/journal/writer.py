"""The one connection that writes, and how a whole transaction gets to it. On SQLite it costs one
hop to a thread of its own, whatever is done there; on PostgreSQL each statement travels by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from berinia_webhookd.journal.prepared import run

ResultT = TypeVar("ResultT")


class Writer(Protocol):
    """One connection; its transactions take the right to write when they begin."""

    async def transact(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """Do `work` in one transaction; when this returns, it is committed and flushed.

        Raises:
            SQLAlchemyError, OSError: it was not committed.
        """

    async def close(self) -> None:
        """Let go of the connection, whatever state it is in."""


class AsyncWriter:
    """A connection of an asynchronous driver."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def transact(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """See `Writer`."""
        async with self._connection.begin():
            return await self._connection.run_sync(work)

    async def close(self) -> None:
        """See `Writer`."""
        with contextlib.suppress(SQLAlchemyError, OSError):
            await self._connection.invalidate()
        with contextlib.suppress(SQLAlchemyError, OSError):
            await self._connection.close()


class ThreadWriter:
    """A connection of SQLite's own driver, in a thread that does nothing else.

    Where transactions begin and end is between us and the driver: SQLAlchemy takes longer to keep
    its books of one than SQLite to begin it, and knows of a single one that lasts. The thread is
    our own because an executor takes longer to hand a transaction over than SQLite to do it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._jobs = SimpleQueue()
        self._thread = Thread(target=self._run, name="journal writer", daemon=True)
        self._thread.start()

    async def transact(self, work: Callable[[Connection], ResultT]) -> ResultT:
        """See `Writer`."""
        return await self._do(lambda: self._transact(work))

    async def close(self) -> None:
        """See `Writer`."""
        if self._thread.is_alive():
            await self._do(self._close)
            self._jobs.put(None)
            self._thread.join()

    def _do(self, job: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        if not self._thread.is_alive():
            raise ConnectionError("the connection is closed")
        done: asyncio.Future[ResultT] = self._loop.create_future()
        self._jobs.put((job, done))
        return done

    def _run(self) -> None:
        while given := self._jobs.get():
            job, done = given
            try:
                said = partial(_succeed, done, job())
            except BaseException as error:  # noqa: BLE001 - whoever waits is told
                said = partial(_fail, done, error)
            self._loop.call_soon_threadsafe(said)
            del given, job, done, said  # nothing is kept while there is nothing to do

    def _transact(self, work: Callable[[Connection], ResultT]) -> ResultT:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(bare=True)
        connection = self._connection
        run(connection, "BEGIN IMMEDIATE")
        try:
            result = work(connection)
            run(connection, "COMMIT")
        except BaseException:
            # SQLite has rolled back already where it could not write.
            driver: Any = connection.connection.dbapi_connection
            if driver.in_transaction:
                run(connection, "ROLLBACK")
            raise
        return result

    def _close(self) -> None:
        with contextlib.suppress(SQLAlchemyError, OSError):
            if self._connection is not None:
                self._connection.close()
        self._engine.dispose()


def _succeed(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():  # else whoever waited was cancelled
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
