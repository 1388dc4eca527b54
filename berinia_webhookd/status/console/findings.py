"""The findings of `doctor` that need no probe, computed in a thread at most every half minute,
however many people look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from berinia_webhookd.findings import Finding

KEPT_SECONDS: Final = 30.0


class Findings:
    """The findings of one process."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, Sequence[Finding]]]) -> None:
        self._look = look
        self._turn = asyncio.Lock()
        self._found: Sequence[Finding] = ()
        self._until = 0.0

    async def __call__(self) -> Sequence[Finding]:
        """Return the findings, the worst last."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            if loop.time() >= self._until:
                self._found = await asyncio.to_thread(lambda: asyncio.run(self._look()))
                self._until = loop.time() + KEPT_SECONDS
            return self._found
