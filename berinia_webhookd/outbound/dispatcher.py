"""The dispatcher: claims entries, has their transports make attempts, and settles how they ended.

It claims only for agents that are loaded, never more than can be started soon, and sleeps until
the journal or one of its own attempts wakes it. It decides nothing about order: that rule lives in
the journal's claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, cast

import structlog

from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Claimed, Lane, Outbox
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Entry, EntryKind
from berinia_webhookd.outbound import retry_schedule
from berinia_webhookd.outbound.attempt import AttemptLog, OnDead, make_attempt
from berinia_webhookd.outbound.availability import Availability, TransportDirectory
from berinia_webhookd.outbound.contract import Transport
from berinia_webhookd.outbound.terms import Policies

logger = structlog.get_logger()

# Work claimed ahead of free hosts is bounded to what they do in this time, so that fast agents
# never wait for a commit and slow ones hold nothing back from other nodes.
CLAIM_AHEAD_SECONDS: Final = 0.05
CLAIM_AHEAD_MOST: Final = 64
HELD_MOST_BYTES: Final = 32 * 1024 * 1024  # of events as they are stored; no more is claimed then
JOURNAL_RETRY_SECONDS: Final = 1.0
LAST_CLAIM_SECONDS: Final = 5.0  # what a journal that is away may delay stopping by
TURN_SECONDS: Final = 5.0  # a turn at least this often, which is what the watchdog looks at


@dataclass
class Stage:
    """One transport with what it runs, what is claimed for it but not yet started, and what has
    ended and is being recorded: meanwhile the transport goes on with the next.
    """

    transport: Transport
    running: dict[asyncio.Task[None], Entry] = field(default_factory=dict)
    settling: dict[asyncio.Task[None], Entry] = field(default_factory=dict)
    queue: deque[Entry] = field(default_factory=deque)
    mean_seconds: float = 1.0

    @property
    def held(self) -> int:
        """How many entries this transport has before it."""
        return len(self.running) + len(self.queue)

    @property
    def held_bytes(self) -> int:
        """How large the events are together that are in memory for it."""
        return sum(entry.size_bytes for entry in self.leased())

    def leased(self) -> Iterator[Entry]:
        """Every entry whose lease is ours."""
        yield from self.settling.values()
        yield from self.running.values()
        yield from self.queue

    @property
    def room(self) -> int:
        """How many entries to claim now; none while the queue is still well filled, or memory."""
        if self.held_bytes >= HELD_MOST_BYTES:
            return 0
        capacity = self.transport.capacity
        ahead = min(CLAIM_AHEAD_MOST, int(capacity * CLAIM_AHEAD_SECONDS / self.mean_seconds))
        room = capacity + ahead - self.held
        return room if 2 * room > ahead else 0

    def observe(self, seconds: float) -> None:
        """Learn how long an attempt takes here."""
        self.mean_seconds += 0.1 * (max(seconds, 1e-4) - self.mean_seconds)


class Dispatcher:
    """Owns every attempt of this process; `run` for ever, `stop` once."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        transports: TransportDirectory,
        late_replies: Transport,
        availability: Availability,
        policies: Policies,
        lease_seconds: float,
        clock: Callable[[], datetime],
        metrics: Metrics,
        on_dead: OnDead = lambda *_: None,
    ) -> None:
        """`on_dead` hears of each entry that nobody will try again."""
        self._outbox = outbox
        self._transports = transports
        self._late_replies = late_replies
        self.availability = availability
        self.policies = policies
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._log = AttemptLog(metrics, on_dead)
        self._stages: dict[int, Stage] = {}
        self._busy: Counter[AgentName] = Counter()
        self._stirred = asyncio.Event()  # a slot is free, an agent is loaded, or we are stopping
        self._stopping = False
        self._last_claim = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_turn = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Dispatch until `stop`; a journal that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_leases())
            group.create_task(self.availability.run(self._stirred.set))
            await self._claim_while_not_stopping(group)

    async def stop(self, grace_seconds: float) -> None:
        """Claim no more, let attempts end within the grace, give the rest back."""
        self._stopping = True
        self.last_turn = math.inf  # no more turns are due
        self._stirred.set()
        # What a claim under way brings is in a queue then.
        await wait_for_event(self._last_claim, LAST_CLAIM_SECONDS)
        await self._release([entry for stage in self._stages.values() for entry in stage.queue])
        for stage in self._stages.values():
            stage.queue.clear()
        await wait_for_event(self._idle, grace_seconds)
        unfinished = [
            (task, entry)
            for stage in self._stages.values()
            for task, entry in (*stage.settling.items(), *stage.running.items())
        ]
        for task, _ in unfinished:
            task.cancel()
        await asyncio.gather(*(task for task, _ in unfinished), return_exceptions=True)
        await self._release([entry for _, entry in unfinished])

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return sum(len(stage.running) for stage in self._stages.values())

    async def _claim_while_not_stopping(self, group: asyncio.TaskGroup) -> None:
        while not self._stopping:
            self.last_turn = asyncio.get_running_loop().time()
            self._stirred.clear()
            claimed = await self._claim()
            for entry in claimed.entries:
                stage = self._stage_of(entry)
                stage.queue.append(entry)
                self._busy[entry.agent] += entry.kind is EntryKind.AGENT
                self._start_what_fits(stage, group)
            if not claimed.entries:
                await self._wait(claimed.next_due_at)
        self._last_claim.set()
        # The renewing and loading tasks go on until the attempts have ended: see `stop`.
        await asyncio.Event().wait()

    async def _claim(self) -> Claimed:
        lanes = self._lanes()
        if not lanes:
            return Claimed(entries=(), next_due_at=None)
        try:
            return await self._outbox.claim(lanes)
        except JournalUnavailable:
            # The journal itself says `journal.degraded`; here only the pace matters.
            soon = self._clock() + timedelta(seconds=JOURNAL_RETRY_SECONDS)
            return Claimed(entries=(), next_due_at=soon)

    def _lanes(self) -> list[Lane]:
        lanes: list[Lane] = []
        shared: dict[int, set[AgentName]] = {}
        for agent in self.availability.loaded:
            stage = self._stage(self._transports.of(agent))
            limit = self.policies.concurrency_of(agent)
            if limit is None:
                shared.setdefault(id(stage.transport), set()).add(agent)
            elif (room := min(stage.room, limit - self._busy[agent])) > 0:
                lanes.append(Lane(EntryKind.AGENT, frozenset({agent}), room))
        for transport_id, agents in shared.items():
            if (room := self._stages[transport_id].room) > 0:
                lanes.append(Lane(EntryKind.AGENT, frozenset(agents), room))
        if (room := self._stage(self._late_replies).room) > 0:
            lanes.append(Lane(EntryKind.REPLY, None, room))
        return lanes

    def _stage(self, transport: Transport) -> Stage:
        return self._stages.setdefault(id(transport), Stage(transport))

    def _stage_of(self, entry: Entry) -> Stage:
        if entry.kind is EntryKind.REPLY:
            return self._stage(self._late_replies)
        return self._stage(self._transports.of(entry.agent))

    def _start_what_fits(self, stage: Stage, group: asyncio.TaskGroup) -> None:
        while stage.queue and len(stage.running) < stage.transport.capacity and not self._stopping:
            entry = stage.queue.popleft()
            self._idle.clear()
            task = group.create_task(self._run_one(entry, stage, group))
            stage.running[task] = entry
            task.add_done_callback(lambda task: self._ended(task, stage, group))

    def _attempted(self, task: asyncio.Task[None], stage: Stage, group: asyncio.TaskGroup) -> None:
        """Its place is free for the next one."""
        entry = stage.running.pop(task, None)
        if entry is not None:
            self._busy[entry.agent] -= entry.kind is EntryKind.AGENT
            self._start_what_fits(stage, group)
            self._stirred.set()

    def _ended(self, task: asyncio.Task[None], stage: Stage, group: asyncio.TaskGroup) -> None:
        self._attempted(task, stage, group)
        stage.settling.pop(task, None)
        if not any(stage.running or stage.settling for stage in self._stages.values()):
            self._idle.set()

    async def _run_one(self, entry: Entry, stage: Stage, group: asyncio.TaskGroup) -> None:
        if entry.kind is EntryKind.AGENT and entry.agent not in self.availability.loaded:
            await self._give_back(entry)  # it was claimed before a reload
            return
        terms = self.policies.terms_of(entry)
        started_at = self._clock()
        self._log.started(entry)
        transport = self._stage_of(entry).transport  # a reload may have changed the target
        outcome = await make_attempt(transport, entry, terms.timeout_seconds)
        ended_at = self._clock()
        stage.observe((ended_at - started_at).total_seconds())
        task = cast("asyncio.Task[None]", asyncio.current_task())
        stage.settling[task] = entry
        self._attempted(task, stage, group)
        settlement = retry_schedule.settle(
            entry,
            outcome,
            terms,
            started_at=started_at,
            ended_at=ended_at,
            random=random.random,
        )
        while True:
            try:
                settled = await self._outbox.settle(settlement)
                break
            except JournalUnavailable:
                await asyncio.sleep(JOURNAL_RETRY_SECONDS)
        self._log.ended(settlement, settled)

    async def _give_back(self, entry: Entry) -> None:
        """As if it had not been claimed: it waits for its agent, at no cost to its schedule."""
        while True:
            try:
                await self._outbox.release([entry])
            except JournalUnavailable:
                await asyncio.sleep(JOURNAL_RETRY_SECONDS)
            else:
                return

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            held = [entry for stage in self._stages.values() for entry in stage.leased()]
            if held:
                # Renewing fails only with the journal away; what is lost by then is refused
                # when it is settled, and another node may have run it.
                with contextlib.suppress(JournalUnavailable):
                    self._forget(await self._outbox.renew(held))

    def _forget(self, lost: Sequence[Entry]) -> None:
        """Start nothing that is another node's by now; what runs already cannot be taken back."""
        for entry in lost:
            queue = self._stage_of(entry).queue
            if entry in queue:
                queue.remove(entry)
                self._busy[entry.agent] -= entry.kind is EntryKind.AGENT

    async def _release(self, entries: list[Entry]) -> None:
        if not entries:
            return
        try:
            await self._outbox.release(entries)
        except JournalUnavailable as error:
            # They come back by themselves: their leases end, or the next start gives them back.
            logger.warning("journal.degraded", detail=str(error))

    async def _wait(self, next_due_at: datetime | None) -> None:
        latest = self._clock() + timedelta(seconds=TURN_SECONDS)
        until = latest if next_due_at is None else min(latest, next_due_at)
        waits = [
            asyncio.create_task(self._outbox.wait_for_work(until)),
            asyncio.create_task(self._stirred.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
