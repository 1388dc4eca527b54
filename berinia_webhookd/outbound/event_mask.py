"""Hides the people of one event in what its agent says: prints, raises, or returns as an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from berinia_webhookd.logs.event_values import masker
from berinia_webhookd.model import Entry, Outcome

LONG_BYTES: Final = 8192  # of an event as it is stored: what a longer one takes is felt by callers


class EventMask:
    """Made ready only when something is said, that of a long event by `prepare`; `wanted` tells
    whether people are hidden at all.
    """

    def __init__(self, entry: Entry, wanted: Callable[[], bool]) -> None:
        self._entry = entry
        self._wanted = wanted
        self._hide: Callable[[str], str] | None = None

    def __call__(self, text: str) -> str:
        """The text without the event's values."""
        if not text or not self._wanted():
            return text
        if self._hide is None:
            self._hide = self._made()
        return self._hide(text)

    async def prepare(self) -> None:
        """Make that of a long event ready in a thread: it has thousands of lines to look for."""
        if self._entry.size_bytes > LONG_BYTES and self._wanted():
            self._hide = await asyncio.to_thread(self._made)

    async def outcome(self, outcome: Outcome) -> Outcome:
        """The outcome, its error without the event's values; a reply is for whoever wrote."""
        if outcome.error is None:
            return outcome
        await self.prepare()
        return replace(outcome, error=self(outcome.error))

    def _made(self) -> Callable[[str], str]:
        event = self._entry.event
        parts = (event.sender, event.recipient, event.body, event.subject, event.profile_name)
        files = [attachment.file_name for attachment in event.attachments]
        return masker((*parts, event.group, files, event.raw, event.raw_multi))
