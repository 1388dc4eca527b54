"""The WhatsApp bot's `POST /send`, on a port of its own: remembers what it is told to post."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from .daemon import PATIENCE_SECONDS


class Bot:
    """A small aiohttp server in a thread.

    Args:
        statuses: what it answers, one after the other; 200 when they are used up.
    """

    def __init__(self, statuses: Sequence[int] = ()) -> None:
        self.posted: list[Any] = []
        self._statuses = list(statuses)
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._runner = self._loop.run_until_complete(self._start())
        self.port = int(self._runner.addresses[0][1])
        self.url = f"http://127.0.0.1:{self.port}/send"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _start(self) -> web.AppRunner:
        application = web.Application()
        application.router.add_post("/send", self._send)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _send(self, request: web.Request) -> web.Response:
        message = await request.json()
        with self._news:
            self.posted.append(message)
            status = self._statuses.pop(0) if self._statuses else 200
            self._news.notify_all()
        return web.json_response({"success": status == 200}, status=status)

    def wait_for(self, count: int) -> list[Any]:
        """The messages, once there are so many."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._news:
            while len(self.posted) < count:
                left = deadline - time.monotonic()
                assert self._news.wait(left), f"only {self.posted} posted"
            return list(self.posted)

    def close(self) -> None:
        """Stop listening."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(
            PATIENCE_SECONDS
        )
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()
