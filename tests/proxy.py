"""A small TCP proxy in front of a Unix socket, that a test stalls, cuts, shuts and lets flow again.
It runs in a thread of its own, so that it also serves processes that a test waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ResultT = TypeVar("ResultT")
PATIENCE_SECONDS = 180


class Proxy:
    """Listens on a free port of 127.0.0.1 until it is closed."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._open = True
        self._passes_ends = asyncio.Event()
        self._passes_ends.set()
        self.ends_held = 0
        self._cut_after: list[bytes] = []
        self.cuts = 0  # by `cut_after`
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        self._server = starting.result(PATIENCE_SECONDS)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def stall(self) -> None:
        """Bytes stop, connections stay: a cable that was pulled out."""
        self._do(self._flows.clear)

    def flow(self) -> None:
        """Bytes move again, and new connections are taken."""

        def open_up() -> None:
            self._open = True
            self._flows.set()

        self._do(open_up)

    def hold_ends(self) -> None:
        """What one side says last is passed on, and that it has ended is not, until `pass_ends`."""
        self._do(self._passes_ends.clear)

    def pass_ends(self) -> None:
        """The other side learns of the ends as well."""
        self._do(self._passes_ends.set)

    def cut(self) -> None:
        """End all connections; new ones are taken."""
        self._do(self._end_all)

    def shut(self) -> None:
        """End all connections, and take no new ones until `flow`."""

        def shut() -> None:
            self._open = False
            self._end_all()

        self._do(shut)

    def cut_after(self, *words: bytes) -> None:
        """Once a client has said all this, in this order, the answer to the last of it is lost."""

        def listen() -> None:
            self._cut_after = list(words)

        self._do(listen)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        self._open = False
        self._flows.set()
        self._passes_ends.set()
        self._end_all()
        # One that was just taken serves in a task that another one makes.
        while serving := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(serving, timeout=PATIENCE_SECONDS)
            self._end_all()
        await asyncio.sleep(0)  # transports that were aborted close now

    def _do(self, change: Callable[[], ResultT]) -> ResultT:
        async def on_the_loop() -> ResultT:
            return change()

        return asyncio.run_coroutine_threadsafe(on_the_loop(), self._loop).result(PATIENCE_SECONDS)

    def _end_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open:
            await self._flows.wait()
        if not self._open:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        ways = [
            asyncio.create_task(self._pass_on(reader, back, from_client=True)),
            asyncio.create_task(self._pass_on(there, writer, from_client=False)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            end.transport.abort()
            self._writers.discard(end)
        await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        heard = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
                while from_client and heard < len(self._cut_after):
                    if self._cut_after[heard] not in data:
                        break
                    heard += 1
                    if heard == len(self._cut_after):
                        self._cut_after = []
                        self.cuts += 1
                        return
        if not self._passes_ends.is_set():
            self.ends_held += 1
            await self._passes_ends.wait()
