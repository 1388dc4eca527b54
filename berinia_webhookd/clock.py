"""Time: the wall clock in UTC, waiting for an event with a timeout, pauses that double."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any


def now() -> datetime:
    """Return the current time as an aware datetime in UTC."""
    return datetime.now(UTC)


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until the event is set, at most `seconds` (None: for ever); return whether it was."""
    try:
        async with asyncio.timeout(None if seconds is None else max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def wait_until(when: float, future: asyncio.Future[Any]) -> None:
    """Wait for a future, at most until this instant of the loop's clock, and cancel nothing. It is
    `asyncio.wait` for one, at a third of its cost: every message waits so for its commit.
    """
    loop = future.get_loop()
    waiter = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_at(when, wake)
    future.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        future.remove_done_callback(wake)


def doubling_pauses(first_seconds: float, longest_seconds: float) -> Iterator[float]:
    """Yield the pauses between retries, in seconds, for ever."""
    pause = first_seconds
    while True:
        yield pause
        pause = min(2 * pause, longest_seconds)
