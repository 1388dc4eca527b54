"""Where connections come in. An event loop on libuv accepts one a turn, and under load a turn takes
long: callers would wait in the kernel's queue for many seconds, where no deadline of ours reaches
them. Here each turn takes in whoever waits.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

import structlog
from aiohttp import web

_log = structlog.get_logger()

_MOST_A_TURN: Final = 256  # so that those who are in are served, too
_PAUSE_SECONDS: Final = 1.0  # when the machine has no descriptor or memory left for a connection


class ListeningSite(web.BaseSite):
    """Connections of one listening socket.

    Args:
        runner: made by `server.make_runner`, and set up.
        listener: bound and listening; `stop` closes it.
    """

    __slots__ = ("_beginning", "_listener", "_loop", "_pause", "_stopping")

    def __init__(self, runner: web.BaseRunner, listener: socket.socket) -> None:
        super().__init__(runner)
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._stopping = False

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._listener.getsockname())

    async def start(self) -> None:
        """Begin to accept."""
        await super().start()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Take in who has come by now, whom closing would cut off without a word; then nobody."""
        self._stopping = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._accept()
        self._listener.close()
        if self._beginning:
            await asyncio.wait(self._beginning)
        await super().stop()

    def _accept(self) -> None:
        for _ in range(_MOST_A_TURN):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # gone while it waited
            except OSError as error:
                self._wait_for_better_times(error)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        server = cast(web.Server, self._runner.server)
        try:
            await self._loop.connect_accepted_socket(server, connection)
        except OSError as error:
            connection.close()
            _log.debug("connection.failed", reason=type(error).__name__)

    def _wait_for_better_times(self, error: OSError) -> None:
        _log.error("connection.failed", reason=error.strerror or str(error))
        self._loop.remove_reader(self._listener)
        if self._stopping:
            return
        self._pause = self._loop.call_later(
            _PAUSE_SECONDS, self._loop.add_reader, self._listener, self._accept
        )
