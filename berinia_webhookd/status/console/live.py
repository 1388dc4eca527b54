"""The live log, by server-sent events. Each watcher reads the file at its own pace: one that does
not read costs no memory, and one whose login ends is disconnected.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from berinia_webhookd import json_text
from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.logs.personal_data import HIDDEN, OWN_KEYS
from berinia_webhookd.logs.reading import Follower
from berinia_webhookd.status.console.access import Refused
from berinia_webhookd.status.console.request import LOGIN

WATCHERS: Final = 16
EACH: Final = 8  # of one person
PAUSE_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 10.0  # between checks whether the login is still valid
LINES_AT_ONCE: Final = 100
BEFORE: Final = 50
BUFFER_BYTES: Final = 64 * 1024
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Accel-Buffering": "no",  # nginx must not buffer
}


class Live:
    """The watchers of the log."""

    def __init__(self, log: Path, still: Callable[[web.Request], Awaitable[bool]]) -> None:
        self._log = log
        self._still = still
        self._watchers = Counter[str]()  # by watcher
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Disconnect all watchers."""
        self._stopping.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Send each line added to the log, until the watcher disconnects or is logged out."""
        name = request[LOGIN].person.name
        if self._watchers.total() >= WATCHERS or self._watchers[name] >= EACH:
            raise Refused(503, "Too many people are watching.")
        self._watchers[name] += 1
        try:
            return await self._watch(request)
        except TimeoutError:  # it does not read: buffer nothing more for it
            if request.transport is not None:
                request.transport.abort()
            raise
        finally:
            self._watchers[name] -= 1

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        viewer = request[LOGIN].person.viewer
        response = web.StreamResponse(headers=HEADERS)
        await response.prepare(request)
        with Follower(self._log) as follower:
            last = await asyncio.to_thread(follower.last, BEFORE)
            await _send(response, last, viewer=viewer)
            lines = follower.added()
            look_at = asyncio.get_running_loop().time() + LOOK_SECONDS
            while not self._stopping.is_set():
                some = await asyncio.to_thread(_taken, lines)
                await _send(response, some, viewer=viewer)
                if asyncio.get_running_loop().time() >= look_at:
                    if not await self._still(request):
                        break
                    await response.write(b": still there\n\n")
                    look_at = asyncio.get_running_loop().time() + LOOK_SECONDS
                if len(some) < LINES_AT_ONCE:
                    lines = follower.added()
                    await wait_for_event(self._stopping, PAUSE_SECONDS)
        return response


def _taken(lines: Iterator[str]) -> list[str]:
    return list(islice(lines, LINES_AT_ONCE))


async def _send(response: web.StreamResponse, lines: list[str], *, viewer: bool) -> None:
    for line in lines:
        async with asyncio.timeout(LOOK_SECONDS):
            await response.write(_event(line, viewer=viewer))


def _masked(name: str, value: Any) -> Any:
    """Return a value as shown to a viewer, masked: output of agents may contain personal data."""
    if name in OWN_KEYS or value is None or isinstance(value, int | float):
        return value
    return HIDDEN


def _event(line: str, *, viewer: bool) -> bytes:
    """Return a line of the log as a server-sent event: JSON on one line. A line that is none of
    ours is one text, also where a browser could not read its JSON.
    """
    try:
        told = json_text.decode(line)
        values = told if isinstance(told, dict) else {"line": line}
        if viewer:
            values = {name: _masked(name, value) for name, value in values.items()}
        event = json.dumps(values, allow_nan=False)
    except (ValueError, RecursionError):
        event = json.dumps({"line": HIDDEN if viewer else line})
    return f"data: {event}\n\n".encode("ascii")
