"""At most once in a while: for what a flood of requests must not repeat."""

from __future__ import annotations

import asyncio


class Pace:
    """Says yes once per interval, and how many were told no since."""

    def __init__(self, interval_seconds: float = 1.0) -> None:
        self._interval_seconds = interval_seconds
        self._next = 0.0
        self.skipped = 0

    def due(self) -> bool:
        """Whether it is time again; after a yes, `skipped` counts from zero."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            self.skipped += 1
            return False
        self._next = now + self._interval_seconds
        return True

    def take_skipped(self) -> int:
        """How many were told no since this was last asked."""
        skipped, self.skipped = self.skipped, 0
        return skipped
