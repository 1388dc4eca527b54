"""The loop that accepts the connections of one listening socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

_log = structlog.get_logger()

_MOST_A_TURN: Final = 256  # so that those who are in are served, too
_PAUSE_SECONDS: Final = 1.0  # when the machine has no descriptor or memory left for a connection


class AcceptLoop:
    """Accepts the connections of one listening socket. An event loop on libuv accepts one a turn,
    and under load a turn takes long: callers would wait in the kernel's queue for many seconds,
    where no deadline of ours reaches them. Here each turn accepts all that wait.

    Args:
        connection: makes the protocol of a new connection.
        listener: bound and listening; `stop` closes it.
    """

    def __init__(self, connection: Callable[[], asyncio.Protocol], listener: socket.socket) -> None:
        self._connection = connection
        self._listener = listener
        self._event_loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._event_loop.add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Take in who has come by now, whom closing would cut off without a word; then nobody."""
        self._stopping = True
        if self._pause is not None:
            self._pause.cancel()
        self._event_loop.remove_reader(self._listener)
        self._accept()
        self._listener.close()
        if self._beginning:
            await asyncio.wait(self._beginning)

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
            task = self._event_loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._event_loop.connect_accepted_socket(self._connection, connection)
        except OSError as error:
            connection.close()
            _log.debug("connection.failed", reason=type(error).__name__)

    def _wait_for_better_times(self, error: OSError) -> None:
        _log.error("connection.failed", reason=error.strerror or str(error))
        self._event_loop.remove_reader(self._listener)
        if self._stopping:
            return
        self._pause = self._event_loop.call_later(
            _PAUSE_SECONDS, self._event_loop.add_reader, self._listener, self._accept
        )
