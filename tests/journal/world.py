"""A journal in a folder of its own, a clock that tests turn, and events to put into it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from berinia_webhookd.journal.contract import Claimed, Lane, Settled
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Conversation,
    Entry,
    EntryKind,
    EntryState,
    Event,
    Outcome,
    OutcomeKind,
    Receipt,
    Settlement,
    VerifiedDelivery,
)

AGENT = AgentName("ResponseListenerAgent")
SMS = ChannelName("sms")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOLD = timedelta(seconds=300)

_numbers = itertools.count(1)


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def an_event(text: str = "", *, sender: str = "+33639980001", **changes: Any) -> Event:
    """A fresh event; one with the same text is the same event, one without text is new."""
    body = text or f"message {next(_numbers)}"
    channel = changes.pop("channel", SMS)
    plain = Event(
        channel=channel,
        agent=AGENT,
        conversation=Conversation(channel, sender, "+33639980000"),
        digest=hashlib.sha256(f"{sender} {body}".encode("utf-8", "surrogatepass")).digest(),
        received_at=START,
        sender=sender,
        recipient="+33639980000",
        body=body,
        raw={"Body": body, "From": sender},
    )
    return replace(plain, **changes)


def a_delivery(event: Event, *, replay_key: bytes | None = None) -> VerifiedDelivery:
    """What an event came with."""
    return VerifiedDelivery(
        channel=event.channel,
        content_type_header="application/x-www-form-urlencoded",
        body=f"From={event.sender}&Body={event.body}".encode("utf-8", "surrogatepass"),
        received_at=event.received_at,
        replay_key=replay_key,
    )


@dataclass
class World:
    """One journal as its users see it."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    journals: list[SqlJournal] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "journal.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    async def open(self, **options: Any) -> SqlJournal:
        journal = SqlJournal(self.url, node="here", clock=self.clock, **options)
        self.journals.append(journal)
        await journal.open()
        return journal

    async def reopen(self, **options: Any) -> SqlJournal:
        """As after a restart."""
        await self.journals.pop().close()
        return await self.open(**options)

    @property
    def journal(self) -> SqlJournal:
        return self.journals[-1]

    async def accept(self, text: str = "", **changes: Any) -> Receipt:
        event = an_event(text, **changes)
        return await self.journal.accept(a_delivery(event), event)

    async def claim(self, limit: int = 100, *agents: AgentName) -> Sequence[Entry]:
        return (await self.claimed(limit, *agents)).entries

    async def claimed(self, limit: int = 100, *agents: AgentName) -> Claimed:
        lane = Lane(EntryKind.AGENT, frozenset(agents or (AGENT,)), limit)
        return await self.journal.claim([lane])

    async def claim_bodies(self, limit: int = 100) -> list[str]:
        return [entry.event.body for entry in await self.claim(limit)]

    async def settle(self, entry: Entry, **changes: Any) -> Settled:
        return await self.journal.settle(self.settlement(entry, **changes))

    def settlement(self, entry: Entry, **changes: Any) -> Settlement:
        """A success, unless changed."""
        plain = Settlement(
            entry=entry,
            outcome=Outcome(OutcomeKind.SUCCESS),
            started_at=self.clock.now,
            ended_at=self.clock.now,
            state=EntryState.DONE,
        )
        return replace(plain, **changes)

    async def fail(self, entry: Entry, *, retry_in: float, hold: timedelta = HOLD) -> Settled:
        """An attempt that failed, to be tried again."""
        return await self.settle(
            entry,
            outcome=Outcome(OutcomeKind.EXCEPTION, error="broken"),
            state=EntryState.WAITING,
            retries=entry.retries + 1,
            due_at=self.clock.now + timedelta(seconds=retry_in),
            hold_until=entry.hold_until or self.clock.now + hold,
        )

    async def states(self) -> dict[str, int]:
        """How many entries are in each state, without those that none is in."""
        backlog = await self.journal.backlog()
        return {state.value: count for state, count in backlog.entries.items() if count}
