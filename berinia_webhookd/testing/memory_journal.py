"""A journal in memory that keeps the contract; a contract test holds it against the real one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from math import inf

from berinia_webhookd.clock import now, wait_for_event
from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.journal import consents, ranks
from berinia_webhookd.journal.contract import (
    Backlog,
    Claimed,
    ClaimRequest,
    Hold,
    ReplayedSignature,
    Reply,
    ReplyRoute,
    Settled,
    Settlement,
)
from berinia_webhookd.journal.database import SECOND, stored
from berinia_webhookd.journal.pause import EVERYBODY
from berinia_webhookd.model import (
    AgentName,
    Conversation,
    Decoded,
    Entry,
    EntryKind,
    EntryState,
    Event,
    EventId,
    PauseRequest,
    Receipt,
    Receipts,
    VerifiedDelivery,
)
from berinia_webhookd.testing.memory_guards import Gate, MemoryGuards
from berinia_webhookd.testing.memory_queue import OPEN, Kept, disband, put_together, startable_of
from berinia_webhookd.testing.memory_replies import MemoryReply, reply_of


@dataclass
class MemoryJournal:
    """The journal's contract in memory, for one process: nothing survives it.

    A test may let it fail by `failure`, and hold commits back by clearing `gate`. It has no leases
    that end, no retention, and no reasons of agents that cannot be loaded.
    """

    clock: Callable[[], datetime] = now
    gathering: Gathering | None = None  # of every agent
    failure: Exception | None = None
    rejected: list[tuple[VerifiedDelivery, Mapping[str, object]]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self._entries: list[Kept] = []
        self._deliveries: dict[EventId, VerifiedDelivery] = {}
        self._seen: dict[bytes, tuple[EventId, AgentName]] = {}
        self._used: dict[bytes, set[EventId]] = {}
        self._replies: dict[EventId, MemoryReply] = {}
        self._ranks: dict[str, int] = {}
        self._consents: dict[consents.Party, consents.Registered] = {}
        self._paused_until: dict[Conversation, float] = {}
        self._guards = MemoryGuards()
        self._work = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def events(self) -> list[Event]:
        """Every event that was accepted, in order."""
        return [kept.event for kept in self._entries if kept.kind is EntryKind.AGENT]

    @property
    def up(self) -> bool:
        """Whether it can be written."""
        return self.failure is None

    async def accept(
        self, delivery: VerifiedDelivery, decoded: Decoded, *, wait_seconds: float | None = None
    ) -> Receipts:
        """Keep what is new of a delivery."""
        await self._commit()
        key = delivery.replay_key
        known = {
            seen[0]
            for event in decoded.events
            if (seen := self._seen.get(event.digest)) is not None
        }
        if key is not None and key in self._used and not known & self._used[key]:
            raise ReplayedSignature("the signature was used with another message")
        receipts = tuple(self._accept(event, delivery, wait_seconds) for event in decoded.events)
        if key is not None:
            self._used.setdefault(key, {receipt.event_id for receipt in receipts})
        self._work.set()
        return receipts

    def _accept(
        self, event: Event, delivery: VerifiedDelivery, wait_seconds: float | None
    ) -> Receipt:
        until = None if wait_seconds is None else self._time() + wait_seconds
        if event.digest in self._seen:
            event_id, agent = self._seen[event.digest]
            for kept in self._of(event_id):
                if until is not None and kept.state in OPEN:
                    kept.waiting_until = max(kept.waiting_until or 0, until)
            first = next(self._of(event_id))
            skipped = first.event.skipped if first.state is EntryState.SKIPPED else None
            return Receipt(event_id, agent, duplicate=True, skipped=skipped)
        event_id = EventId(f"event-{len(self._seen)}")
        self._seen[event.digest] = event_id, event.agent
        self._deliveries[event_id] = delivery
        if event.conversation not in {kept.event.conversation for kept in self._entries}:
            everybody = event.conversation._replace(sender=EVERYBODY)
            paused_until = self._paused_until.get(everybody, 0.0)
            self._paused_until.setdefault(event.conversation, paused_until)
        if ranks.outranked([(event_id, event)] if event.rank is not None else [], self._ranks):
            event = event._replace(skipped=ranks.OUTRANKED)
        elif event.rank is not None:
            self._ranks[ranks.about_of(event)] = event.rank
        heard = self._hear(event_id, event)
        event = (event.as_start or event) if event_id in heard.starts else event
        kept = self._add(event_id, event, EntryKind.AGENT)
        if event.skipped is None:
            kept.waiting_until = until
            if self.gathering is not None and event.gathers:
                kept.quiet_at = self._time() + self.gathering.seconds
                kept.gather_by = self._time() + self.gathering.most_seconds
        else:
            kept.state = EntryState.SKIPPED
        consent = heard.changed.get(event_id)
        return Receipt(event_id, event.agent, False, event.skipped, consent)

    def _hear(self, event_id: EventId, event: Event) -> consents.Heard:
        """Keep the register of consents."""
        if not event.asks_consent:
            return consents.Heard()
        at = None if event.said_at is None else stored(event.said_at)
        about = event.conversation.sender, event.channel, event_id, event.opt_out
        said = consents.Said(*about, at=at, time_unknown=event.time_unknown)
        return consents.listen(self._consents, [said], stored(self.clock()))

    async def reject(self, delivery: VerifiedDelivery, reason: Mapping[str, object]) -> None:
        """Keep a delivery that fails validation, once."""
        await self._commit()
        if delivery.body not in (one.body for one, _ in self.rejected):
            self.rejected.append((delivery, reason))

    async def pause(self, requests: Sequence[PauseRequest]) -> int:
        """Hold conversations."""
        await self._commit()
        changed = 0
        for request in requests:
            meant = {kept.event.conversation for kept in self._entries if kept.is_meant(request)}
            if request.party is not None:
                sender = EVERYBODY if request.sender is None else request.sender
                meant.add(Conversation(request.channel, sender, request.party))
            for conversation in meant:
                changed += self._pause(conversation, request.pause.seconds)
        return changed

    async def wait_for_reply(self, event_id: EventId, seconds: float) -> Reply | None:
        """Wait until the event's agent has answered or ended without."""
        self._check()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)), self._changed:
                if found := self._replies.get(event_id):
                    return found.reply
                await self._changed.wait_for(lambda: not self._is_open(event_id))
        found = self._replies.get(event_id)
        if found is None and not self._is_open(event_id) and self._was_gathered(event_id):
            return Reply(text=None, failed=False)
        return found.reply if found is not None and found.route is ReplyRoute.INLINE else None

    async def stop_waiting(self, event_id: EventId, *, hung_up: bool) -> Reply | None:
        """Let a reply be late from here on; return one that was decided inline."""
        await self._commit()
        for kept in self._of(event_id):
            kept.waiting_until = None if kept.waiting_until is None else -inf
        found = self._replies.get(event_id)
        if found is None or found.route is not ReplyRoute.INLINE:
            return None
        if not hung_up:
            return found.reply
        found.route = ReplyRoute.LATE if found.postable else ReplyRoute.UNDELIVERABLE
        if found.route is ReplyRoute.LATE:
            self._post_late(event_id, found.reply)
        return None

    async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        """Lease what may start now."""
        self._work.clear()
        await self._commit()
        claimed: list[Kept] = []
        due: list[float] = []
        holds: list[Hold] = []
        for request in requests:
            left = request.limit
            gates: dict[AgentName, Gate] = {}
            startable = startable_of(self._entries, request, self._paused_until, self._time())
            for starts_at, kept in sorted(startable, key=lambda one: one[1].place):
                if starts_at > self._time():
                    due.append(starts_at)
                elif left > 0 and self._guards.passes(
                    kept,
                    entries=self._entries,
                    request=request,
                    gates=gates,
                    holds=holds,
                    now=self._time(),
                ):
                    left -= 1
                    queue = [e for e in self._entries if e.queue == kept.queue]
                    last = put_together(kept, queue, self._time())
                    for one in last.burst:
                        one.state = EntryState.RUNNING
                    last.attempts += 1
                    last.started_at = round(self._time() * SECOND)
                    claimed.append(last)
                elif kept.held_until < inf:
                    due.append(kept.held_until)
            due += [gate.opens_at for gate in gates.values() if gate.opens_at is not None]
        due = [at for at in due if at > self._time()]
        entries = [self._leased(kept) for kept in sorted(claimed, key=lambda kept: kept.place)]
        return Claimed(entries, min(due) - self._time() if due else None, holds)

    def _leased(self, kept: Kept) -> Entry:
        """What whoever claimed it gets."""
        found = self._consents.get((kept.event.conversation.sender, kept.event.channel))
        consent = consents.consent_of(found.state, found.since) if found else None
        return kept.leased()._replace(consent=consent)

    async def begin(self, entry: Entry) -> bool:
        """Say whether the lease is still held."""
        await self._commit()
        return self._held(entry) is not None

    def settle(self, settlement: Settlement) -> asyncio.Future[Settled]:
        """Record the end of an attempt."""
        return asyncio.ensure_future(self._settle(settlement))

    async def _settle(self, settlement: Settlement) -> Settled:
        await self._commit()
        kept = self._held(settlement.entry)
        if kept is None:
            return Settled(kept=False)
        told = any(one.event_id in self._replies for one in kept.burst)
        said = reply_of(settlement, kept, told=told, now=self._time())
        for one in kept.burst:
            one.state, one.quiet_at = settlement.state, None
            one.retries = settlement.retries
            one.due_at = self._time() + (settlement.due_in_seconds or 0)
            if one.hold_until is None and settlement.hold_seconds is not None:
                one.hold_until = self._time() + settlement.hold_seconds
        if settlement.state is EntryState.DONE and kept.kind is EntryKind.AGENT:
            self._withdraw({one.event_id for one in kept.burst})
        if kept.state is EntryState.DONE and (said is not None or kept.waiting_until is None):
            kept.answered_at = round(self._time() * SECOND)
        failures = None
        if kept.kind is EntryKind.AGENT:
            failures = self._guards.settle(kept.event.agent, settlement.outcome, self._time())
        if settlement.pause is not None:
            self._pause(kept.event.conversation, settlement.pause.seconds)
        route = ReplyRoute.NONE if said is None else said.route
        if said is not None and route is not ReplyRoute.NONE:
            listens = next(
                (one for one in reversed(kept.burst) if one.is_awaited(self._time())), kept
            )
            self._replies[listens.event_id] = said
            if route is ReplyRoute.LATE:
                self._post_late(kept.event_id, said.reply)
        self._work.set()
        async with self._changed:
            self._changed.notify_all()
        return Settled(kept=True, reply=route, failures=failures)

    def _pause(self, conversation: Conversation, seconds: float | None) -> bool:
        """Hold it, unless it is held for as long."""
        until = inf if seconds is None else self._time() + seconds
        shorter = until <= self._paused_until.get(conversation, 0.0)
        if not shorter:
            self._paused_until[conversation] = until
        return not shorter

    def _withdraw(self, event_ids: Set[EventId]) -> None:
        """Give up replies that nobody has begun to post."""
        for kept in self._entries:
            waits = kept.state in {EntryState.READY, EntryState.WAITING}
            if waits and kept.kind is EntryKind.REPLY and kept.event_id in event_ids:
                kept.state = EntryState.DISCARDED

    async def wait_for_work(self, seconds: float | None) -> None:
        """Sleep until there may be something new to claim."""
        await wait_for_event(self._work, seconds)

    async def renew(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the entries whose lease was lost."""
        await self._commit()
        return [entry for entry in entries if self._held(entry) is None]

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give entries back."""
        await self._commit()
        for kept in filter(None, map(self._held, entries)):
            for one in kept.burst:
                one.state = EntryState.READY
            kept.attempts -= 1
            if kept.quiet_at is not None:
                disband(kept)
        self._work.set()

    async def agents_waiting(self) -> frozenset[AgentName]:
        """Return the agents that have open entries."""
        self._check()
        return frozenset(
            kept.event.agent
            for kept in self._entries
            if kept.kind is EntryKind.AGENT and kept.state in OPEN
        )

    async def note_unavailable(self, agent: AgentName, reason: str | None) -> None:
        """Do nothing: nobody reads the reasons."""
        del agent, reason
        self._check()

    async def delivery_of(self, event_id: EventId) -> VerifiedDelivery | None:
        """Return the delivery that an event came with."""
        self._check()
        return self._deliveries.get(event_id)

    async def recover(self) -> int:
        """Give back nothing: no other process runs anything."""
        self._check()
        return 0

    async def backlog(self) -> Backlog:
        """Count entries by state."""
        self._check()
        counts = Counter(kept.state for kept in self._entries)
        oldest: dict[AgentName, float] = {}
        for kept in reversed(self._entries):
            if kept.state is EntryState.READY:
                oldest[kept.event.agent] = self._time() - kept.created_at
        return Backlog({state: counts[state] for state in EntryState}, oldest)

    async def purge(self) -> int:
        """Delete nothing."""
        self._check()
        return 0

    async def close(self) -> None:
        """Do nothing."""

    def _time(self) -> float:
        return self.clock().timestamp()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def _commit(self) -> None:
        await self.gate.wait()
        self._check()

    def _add(self, event_id: EventId, event: Event, kind: EntryKind) -> Kept:
        kept = Kept(len(self._entries) + 1, event_id, event, kind, self._time())
        self._entries.append(kept)
        return kept

    def _of(self, event_id: EventId) -> Iterator[Kept]:
        """The entries of an event's agent."""
        for kept in self._entries:
            if kept.event_id == event_id and kept.kind is EntryKind.AGENT:
                yield kept

    def _is_open(self, event_id: EventId) -> bool:
        return any(kept.state in OPEN for kept in self._of(event_id))

    def _held(self, entry: Entry) -> Kept | None:
        """What a lease is for, unless it was lost."""
        kept = self._entries[entry.id - 1]
        return kept if kept.state is EntryState.RUNNING and kept.attempts == entry.attempt else None

    def _was_gathered(self, event_id: EventId) -> bool:
        return any(kept.members or kept.gathered_into for kept in self._of(event_id))

    def _post_late(self, event_id: EventId, reply: Reply) -> None:
        event = next(self._of(event_id)).event
        late = self._add(event_id, event, EntryKind.REPLY)
        late.reply_text, late.replied_at = reply.text, self.clock()
