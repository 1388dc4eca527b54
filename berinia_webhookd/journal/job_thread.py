"""A thread that does one job after another for the event loop.

Not an executor, because handing a job to one takes longer than a SQLite transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

from berinia_webhookd.journal.database import Outage, ResultT


class JobThread:
    """One thread, from its first job to `close`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None]
        self._jobs = SimpleQueue()
        self._closed = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        """Queue a job; jobs run in order.

        Raises:
            Outage: the thread is closed.
        """
        if self._closed:
            raise Outage("the connection is closed")
        done: asyncio.Future[ResultT] = self._loop.create_future()
        self._jobs.put((job, done))
        return done

    async def close(self, last: Callable[[], None], seconds: float) -> bool:
        """Run a last job, and end; returns whether it ended in time. A thread that hangs is
        abandoned, and does not delay the end of the process.
        """
        if not self._closed:
            ended = self.do(last)
            self._closed = True
            self._jobs.put(None)
            await asyncio.wait((ended,), timeout=seconds)
            if not ended.done():
                return False
            self._thread.join()
        return True

    def _run(self) -> None:
        while given := self._jobs.get():
            job, done = given
            try:
                said = partial(_succeed, done, job())
            except BaseException as error:  # noqa: BLE001 - whoever waits is told
                said = partial(_fail, done, error)
            self._loop.call_soon_threadsafe(said)
            del given, job, done, said  # keep no references while idle


def _succeed(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():  # else the waiting task was cancelled
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
