"""A dispatcher whose leases were lost, because its node was away for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import Entry, Outcome
from berinia_webhookd.outbound import transport_queue

from .test_dispatcher import SUCCESS, _open


class Forgetful(SqlJournal):
    """Says once that every lease was lost, as soon as there are three."""

    forgot = asyncio.Event()

    async def renew(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        lost = await super().renew(entries)
        if len(entries) < 3 or self.forgot.is_set():
            return lost
        self.forgot.set()
        return entries


async def test_what_another_node_took_over_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was claimed ahead and waits for its turn is dropped when its lease is lost."""
    monkeypatch.setattr(
        transport_queue, "CLAIM_AHEAD_SECONDS", 60.0
    )  # however slow this machine is
    gate = asyncio.Event()

    async def wait(_: Entry) -> Outcome:
        await gate.wait()
        return SUCCESS

    async with _open(tmp_path, Forgetful) as world:
        world.transport.capacity, world.lease_seconds = 1, 0.3
        world.transport.behave = wait
        world.start()
        for n in range(3):
            await world.accept(f"slow {n}", sender=f"+3363998{n:04}")
        await Forgetful.forgot.wait()
        gate.set()
        await world.accept("next", sender="+33639989999")
        await world.transport.until(lambda: "next" in world.transport.begun)
        assert world.transport.begun == ["slow 0", "next"]
