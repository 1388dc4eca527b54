"""Turns to read and store large bodies: what becomes of one (text, fields, JSON, each a copy, and
each up to four bytes wide for a character) weighs many times the body, so only so many bytes of
large ones are worked on at once. First come, first served; one alone is always let in.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """A semaphore that counts bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.free_bytes = limit_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> int:
        """Wait for room; says how much to `give` back."""
        weight = min(size_bytes, self.limit_bytes)
        if not self._waiting and weight <= self.free_bytes:
            self.free_bytes -= weight
            return weight
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((weight, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(weight)
            else:
                self._waiting.remove((weight, turn))
                self._let_in()
            raise
        return weight

    def give(self, weight: int) -> None:
        """Give back what was taken."""
        self.free_bytes += weight
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            weight, turn = self._waiting.popleft()
            self.free_bytes -= weight
            turn.set_result(None)
