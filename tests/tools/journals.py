"""Journals for commands to look at."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import Decoded

from ..journal.world import a_delivery, an_event


def a_journal(file: Path, *texts: str) -> str:
    """Make a journal with an event of each text; returns its URL."""
    url = f"sqlite:///{file}"

    async def make() -> None:
        journal = SqlJournal(url, node="here", clock=lambda: datetime.now(UTC))
        await journal.open()
        for text in texts:
            event = an_event(text, received_at=datetime.now(UTC))
            await journal.accept(a_delivery(event), Decoded((event,)))
        await journal.close()

    asyncio.run(make())
    return url
