"""Reads the journal's backlog for the status pages: at most once a second for all of them, and with
a timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Backlog, HeldBack
from berinia_webhookd.model import EntryState
from berinia_webhookd.status.durations import counted

DAY_SECONDS: Final = 86_400.0
FRESH_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 2.0
OPEN_STATES: Final = (EntryState.READY, EntryState.RUNNING, EntryState.WAITING)


class BacklogReader:
    """Reads the backlog, and caches it for a second."""

    def __init__(self, ask: Callable[[], Awaitable[Backlog]]) -> None:
        """`ask` reads it from the journal."""
        self._from_journal = ask
        self._asking = asyncio.Lock()
        self._answer: Backlog | JournalUnavailable | None = None
        self._answered_at = 0.0

    async def read(self) -> Backlog:
        """Return the backlog, a second old at most.

        Raises:
            JournalUnavailable: it cannot be read; cached as long as a backlog.
        """
        loop = asyncio.get_running_loop()
        async with self._asking:
            if self._answer is None or loop.time() - self._answered_at >= FRESH_SECONDS:
                self._answer = await self._ask()
                self._answered_at = loop.time()
            answer = self._answer
        if isinstance(answer, JournalUnavailable):
            raise JournalUnavailable(str(answer))
        return answer

    async def in_one_line(self) -> str:
        """Return the number of open entries and their age, for `systemctl status`."""
        try:
            backlog = await self.read()
        except JournalUnavailable as error:
            return f"degraded: {error}"
        depth = sum(backlog.entries.get(state, 0) for state in OPEN_STATES)
        oldest = max(backlog.oldest_ready_seconds.values(), default=None)
        age = "" if oldest is None else f", oldest {oldest:.0f} s"
        return f"{counted(depth, 'entry', 'entries')} open{age}"

    async def _ask(self) -> Backlog | JournalUnavailable:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._from_journal()
        except TimeoutError:
            return JournalUnavailable(f"no answer in {PATIENCE_SECONDS:.0f} seconds")
        except JournalUnavailable as error:
            return error


async def held_for_days(backlog: BacklogReader) -> dict[str, str]:
    """Return a sentence for each guard that holds something for over a day. Its key names the guard
    and the days, so that each further day is reported.
    """
    try:
        held = (await backlog.read()).held
    except JournalUnavailable:
        return {}
    return {
        f"{guard} {one.oldest_seconds // DAY_SECONDS:.0f}": _in_days(guard, one)
        for guard, one in held.items()
        if one.oldest_seconds >= DAY_SECONDS
    }


def _in_days(guard: str, held: HeldBack) -> str:
    are = counted(held.conversations, "conversation is", "conversations are")
    days = counted(round(held.oldest_seconds / DAY_SECONDS), "day")
    return f"{are} held ({guard}), the oldest for {days}"
