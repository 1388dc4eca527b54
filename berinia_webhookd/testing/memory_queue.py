"""The entries of the journal in memory, and the order rule over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import Final

from berinia_webhookd.journal.contract import ClaimRequest
from berinia_webhookd.journal.gather import MOST_MESSAGES
from berinia_webhookd.model import (
    Conversation,
    Entry,
    EntryId,
    EntryKind,
    EntryState,
    Event,
    EventId,
    Member,
    PauseRequest,
)

OPEN: Final = (EntryState.READY, EntryState.WAITING, EntryState.RUNNING)


@dataclass(eq=False)
class Kept:
    """One entry of the journal in memory; times are seconds of the clock."""

    place: int
    event_id: EventId
    event: Event
    kind: EntryKind
    created_at: float
    state: EntryState = EntryState.READY
    attempts: int = 0
    retries: int = 0
    due_at: float = 0
    hold_until: float | None = None
    quiet_at: float | None = None  # None: it gathers nothing, or no longer
    gather_by: float = 0
    gathered_into: Kept | None = None
    members: list[Kept] = field(default_factory=list)
    waiting_until: float | None = None  # for how long a caller waits for the reply
    reply_text: str | None = None
    replied_at: datetime | None = None
    held_until: float = 0  # by a guard
    started_at: int | None = None  # as the journal stores instants
    answered_at: int | None = None

    @property
    def burst(self) -> list[Kept]:
        """All messages of its attempt; its own is the last."""
        return [*self.members, self]

    @property
    def stands_at(self) -> int:
        """Its place in the order."""
        return self.burst[0].place

    @property
    def queue(self) -> tuple[object, ...]:
        """What it is in order with."""
        return self.event.conversation, self.kind, self.event.agent

    def is_awaited(self, now: float) -> bool:
        """Whether a caller waits for its reply."""
        return self.waiting_until is not None and self.waiting_until > now

    def is_meant(self, request: PauseRequest) -> bool:
        """Whether a pause is about its conversation."""
        conversation = self.event.conversation
        return (
            conversation.channel == request.channel
            and request.sender in {None, conversation.sender}
            and request.party in {None, conversation.party}
        )

    def leased(self) -> Entry:
        """Return it as a claim returns it."""
        return Entry(
            id=EntryId(self.place),
            event_id=self.event_id,
            kind=self.kind,
            agent=self.event.agent,
            conversation_id=repr(self.event.conversation),
            attempt=self.attempts,
            retries=self.retries,
            event=self.event,
            reply_text=self.reply_text,
            replied_at=self.replied_at,
            members=tuple(Member(one.event_id, one.event) for one in self.members),
        )


def startable_of(
    entries: Iterable[Kept],
    request: ClaimRequest,
    paused_until: Mapping[Conversation, float],
    now: float,
) -> Iterator[tuple[float, Kept]]:
    """Yield which entry of each queue is next, and from when."""
    queues: dict[tuple[object, ...], list[Kept]] = {}
    for kept in entries:
        wanted = request.agents is None or kept.event.agent in request.agents
        if wanted and kept.kind is request.kind and kept.state in OPEN:
            queues.setdefault(kept.queue, []).append(kept)
    for queue in queues.values():
        if all(kept.state is not EntryState.RUNNING for kept in queue):
            until = paused_until.get(queue[0].event.conversation, 0.0)
            starts_at, kept = next_of(queue, now, until if request.kind is EntryKind.AGENT else 0.0)
            if starts_at < inf:
                yield starts_at, kept


def next_of(queue: Sequence[Kept], now: float, paused_until: float) -> tuple[float, Kept]:
    """Return what of a queue that runs nothing is next, and from when: the order rule."""
    candidates = [
        (starts_at if kept.event.overtakes else max(starts_at, paused_until), kept)
        for some in (queue, [kept for kept in queue if kept.event.overtakes])
        for starts_at, kept in _candidates(some)
    ]
    return min(
        candidates,
        key=lambda one: (max(one[0], now), not one[1].event.overtakes, one[1].place),
    )


def _candidates(queue: Sequence[Kept]) -> Iterator[tuple[float, Kept]]:
    """Yield each entry with when those before it no longer hold it back."""
    held = 0.0
    alone = [kept for kept in queue if kept.gathered_into is None]
    for kept in sorted(alone, key=lambda kept: kept.stands_at):
        if kept.state is EntryState.READY:
            yield max(held, kept.held_until, _gathers_until(kept, queue)), kept
            return
        yield max(held, kept.due_at), kept
        held = max(held, kept.hold_until or 0.0)


def _gathers_until(head: Kept, queue: Sequence[Kept]) -> float:
    if head.quiet_at is None:
        return 0.0
    ready = sorted(e.place for e in queue if e.state is EntryState.READY)[-MOST_MESSAGES:]
    quiet = max(e.quiet_at for e in queue if e.quiet_at is not None and e.place in ready)
    return min(head.gather_by, quiet)


def put_together(head: Kept, queue: Sequence[Kept], now: float) -> Kept:
    """Gather the burst that begins with `head`; return its last entry, whose attempt it is."""
    if head.quiet_at is None:
        return head
    behind = sorted((e for e in queue if e.place > head.place), key=lambda kept: kept.place)
    ready = [e for e in behind if e.state is EntryState.READY][: MOST_MESSAGES - 1]
    limits = [e.place for e in ready if e.event.overtakes]
    limits += [
        e.place for e in behind if e.state is EntryState.WAITING and (e.hold_until or 0) > now
    ]
    limit = min(limits, default=inf)
    burst = [head, *(e for e in ready if e.quiet_at is not None and e.place < limit)]
    last = burst.pop()
    for kept in burst:
        kept.gathered_into = last
    last.members = burst
    return last


def disband(kept: Kept) -> None:
    """Let its members go."""
    for member in kept.members:
        member.gathered_into = None
    kept.members = []
