"""Time: the wall clock in UTC, waiting for an event with a timeout, pauses that double."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any


def now() -> datetime:
    """Return the current time as an aware datetime in UTC."""
    return datetime.now(UTC)


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until the event is set, at most `seconds` (None: for ever); return whether it was."""
    if event.is_set():  # without a timer
        return True
    try:
        async with asyncio.timeout(None if seconds is None else max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Deadlines:
    """Waits for futures, each until an instant of its own, and cancels nothing: every message waits
    so for its commit. All share one timer, as that would be the largest part of a wait.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[None], float] = {}
        self._next = math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, when: float, future: asyncio.Future[Any]) -> None:
        """Wait for a future, at most until this instant of the loop's clock."""
        waiter = self._loop.create_future()
        wake = partial(_wake, waiter)
        self._waiting[waiter] = when
        if when < self._next:
            self._wait_until(when)
        future.add_done_callback(wake)
        try:
            await waiter
        finally:
            del self._waiting[waiter]
            if not future.done():
                future.remove_done_callback(wake)

    def _look(self) -> None:
        now = self._loop.time()
        for waiter, when in self._waiting.items():
            if when <= now:
                _wake(waiter)
        later = (when for when in self._waiting.values() if when > now)
        self._wait_until(min(later, default=math.inf))

    def _wait_until(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = when
        self._timer = None if when == math.inf else self._loop.call_at(when, self._look)


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


def doubling_pauses(first_seconds: float, longest_seconds: float) -> Iterator[float]:
    """Yield the pauses between retries, in seconds, for ever."""
    pause = first_seconds
    while True:
        yield pause
        pause = min(2 * pause, longest_seconds)
