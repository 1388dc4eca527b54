"""Waits for work until a deadline, by one timer for all who wait. Nearly every wait ends in time,
and a timer of its own would cost each request more than the rest of its waiting.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any


class Deadlines:
    """Who waits on one event loop, and until when."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._latest: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    async def wait(self, work: asyncio.Future[Any], latest: float) -> None:
        """Until the work is done or the loop's clock says `latest`; the work goes on either way."""
        over = self._loop.create_future()

        def end(_: object) -> None:
            if not over.done():
                over.set_result(None)

        self._latest[over] = latest
        if latest < self._timer_at:
            self._set_timer(latest)
        work.add_done_callback(end)
        try:
            await over
        finally:
            del self._latest[over]
            work.remove_done_callback(end)

    def __len__(self) -> int:
        return len(self._latest)

    def close(self) -> None:
        """Stop the timer; for when nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self, instant: float) -> None:
        self.close()
        self._timer = self._loop.call_at(instant, self._send_away)
        self._timer_at = instant

    def _send_away(self) -> None:
        """End the waits whose time is over, and see to the next ones."""
        now = max(self._timer_at, self._loop.time())  # a timer may be a little early
        self._timer_at = math.inf
        for over, latest in self._latest.items():
            if latest <= now and not over.done():
                over.set_result(None)
        if later := [latest for latest in self._latest.values() if latest > now]:
            self._set_timer(min(later))
