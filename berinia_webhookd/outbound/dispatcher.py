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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

import structlog

from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Claimed, ClaimRequest, Outbox
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Entry, EntryKind
from berinia_webhookd.outbound.attempt import AttemptLog, OnDead, make_attempt
from berinia_webhookd.outbound.availability import Availability, TransportDirectory
from berinia_webhookd.outbound.contract import Transport
from berinia_webhookd.outbound.retry_policy import RetryPolicies

logger = structlog.get_logger()

# Work claimed ahead of free hosts is bounded to what they do in this time, so that fast agents
# never wait for a commit and slow ones hold nothing back from other nodes.
CLAIM_AHEAD_SECONDS: Final = 0.05
CLAIM_AHEAD_MOST: Final = 64
HELD_MOST_BYTES: Final = 32 * 1024 * 1024  # of events as they are stored; no more is claimed then
JOURNAL_RETRY_SECONDS: Final = 1.0
LAST_CLAIM_SECONDS: Final = 5.0  # what an unreachable journal may delay stopping by
TURN_SECONDS: Final = 5.0  # a turn at least this often, which is what the watchdog looks at

ResultT = TypeVar("ResultT")


@dataclass(eq=False)
class TransportQueue:
    """One transport with what it runs, what is claimed for it but not yet started, and what has
    ended and is being recorded: meanwhile the transport goes on with the next.
    """

    transport: Transport
    running: dict[asyncio.Task[None], Entry] = field(default_factory=dict)
    settling: dict[asyncio.Task[None], Entry] = field(default_factory=dict)
    waiting: deque[Entry] = field(default_factory=deque)
    mean_seconds: float = 1.0

    @property
    def leased(self) -> Iterator[Entry]:
        """Every entry whose lease is ours."""
        yield from self.settling.values()
        yield from self.running.values()
        yield from self.waiting

    @property
    def unfinished(self) -> dict[asyncio.Task[None], Entry]:
        """What has begun and is not recorded."""
        return self.settling | self.running

    @property
    def room(self) -> int:
        """How many entries to claim now; none while the queue is still well filled, or memory."""
        if sum(entry.size_bytes for entry in self.leased) >= HELD_MOST_BYTES:
            return 0
        capacity = self.transport.capacity
        ahead = min(CLAIM_AHEAD_MOST, int(capacity * CLAIM_AHEAD_SECONDS / self.mean_seconds))
        room = capacity + ahead - len(self.running) - len(self.waiting)
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
        policies: RetryPolicies,
        lease_seconds: float,
        metrics: Metrics,
        on_dead: OnDead = lambda *_: None,
    ) -> None:
        """`on_dead` gets each entry that nobody will try again."""
        self._outbox = outbox
        self._transports = transports
        self._late_replies = late_replies
        self.availability = availability
        self._policies = policies
        self._lease_seconds = lease_seconds
        self._log = AttemptLog(metrics, on_dead)
        self._queues: dict[Transport, TransportQueue] = {}
        self._busy: Counter[AgentName] = Counter()
        self._tasks = asyncio.TaskGroup()
        self._woken = asyncio.Event()  # a slot is free, an agent is loaded, or we are stopping
        self._stopping = False
        self._last_claim = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_turn = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Dispatch until `stop`; an unreachable journal is waited for."""
        async with self._tasks:
            self._tasks.create_task(self._renew_leases())
            self._loading = self._tasks.create_task(self.availability.run(self._woken.set))
            while not self._stopping:
                await self._turn()
            self._last_claim.set()
            # Renewing and loading go on until the attempts have ended: see `stop`.
            await asyncio.Event().wait()

    async def stop(self, grace_seconds: float) -> None:
        """Claim no more, let attempts end within the grace, give the rest back."""
        self._stopping = True
        self.last_turn = math.inf  # the watchdog waits for no more turns
        self._woken.set()
        # What a claim under way brings is in a queue then.
        await wait_for_event(self._last_claim, LAST_CLAIM_SECONDS)
        queues = self._queues.values()
        await self._release([entry for queue in queues for entry in queue.waiting])
        for queue in queues:
            queue.waiting.clear()
        await wait_for_event(self._idle, grace_seconds)
        unfinished = {task: entry for queue in queues for task, entry in queue.unfinished.items()}
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        await self._release(list(unfinished.values()))
        if self._loading is not None:
            # Before the hosts end: what is being loaded then would seem not to load.
            self._loading.cancel()
            await asyncio.wait((self._loading,))

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return sum(len(queue.running) for queue in self._queues.values())

    async def _turn(self) -> None:
        """Claim what there is room for; sleep where that was nothing."""
        self.last_turn = asyncio.get_running_loop().time()
        self._woken.clear()
        claimed = await self._claim()
        for entry in claimed.entries:
            queue = self._queue_of(entry)
            queue.waiting.append(entry)
            self._busy[entry.agent] += entry.kind is EntryKind.AGENT
            self._start_what_fits(queue)
        if not claimed.entries:
            await self._sleep(claimed.next_due_seconds)

    async def _claim(self) -> Claimed:
        requests = self._requests()
        if not requests:
            return Claimed(entries=(), next_due_seconds=None)
        try:
            return await self._outbox.claim(requests)
        except JournalUnavailable:
            # The journal itself says `journal.degraded`.
            return Claimed(entries=(), next_due_seconds=JOURNAL_RETRY_SECONDS)

    def _requests(self) -> list[ClaimRequest]:
        requests: list[ClaimRequest] = []
        shared: dict[TransportQueue, set[AgentName]] = {}
        of_host: dict[str, set[AgentName]] = {}
        for agent in self.availability.loaded:
            queue = self._queue(self._transports.of(agent))
            limit = self._policies.concurrency_of(agent)
            if (word := self._policies.host_of(agent)) is not None:
                of_host.setdefault(word, set()).add(agent)
            elif limit is None:
                shared.setdefault(queue, set()).add(agent)
            elif (room := min(queue.room, limit - self._busy[agent])) > 0:
                requests.append(ClaimRequest(EntryKind.AGENT, frozenset({agent}), room))
        for agents in of_host.values():
            # What waited for their host in here would keep others from theirs.
            queue = self._queue(self._transports.of(next(iter(agents))))
            if queue.room > 0 and not sum(self._busy[agent] for agent in agents):
                requests.append(ClaimRequest(EntryKind.AGENT, frozenset(agents), 1))
        for queue, agents in shared.items():
            if (room := queue.room) > 0:
                requests.append(ClaimRequest(EntryKind.AGENT, frozenset(agents), room))
        if (room := self._queue(self._late_replies).room) > 0:
            requests.append(ClaimRequest(EntryKind.REPLY, None, room))
        return requests

    def _queue(self, transport: Transport) -> TransportQueue:
        return self._queues.setdefault(transport, TransportQueue(transport))

    def _queue_of(self, entry: Entry) -> TransportQueue:
        if entry.kind is EntryKind.REPLY:
            return self._queue(self._late_replies)
        return self._queue(self._transports.of(entry.agent))

    def _start_what_fits(self, queue: TransportQueue) -> None:
        while queue.waiting and len(queue.running) < queue.transport.capacity:
            if self._stopping:
                return
            entry = queue.waiting.popleft()
            self._idle.clear()
            task = self._tasks.create_task(self._run_one(entry, queue))
            queue.running[task] = entry
            task.add_done_callback(partial(self._ended, queue))

    def _make_room(self, queue: TransportQueue, task: asyncio.Task[None]) -> None:
        """The attempt has ended, so its place is free for the next one."""
        entry = queue.running.pop(task, None)
        if entry is not None:
            self._busy[entry.agent] -= entry.kind is EntryKind.AGENT
            self._start_what_fits(queue)
            self._woken.set()

    def _ended(self, queue: TransportQueue, task: asyncio.Task[None]) -> None:
        self._make_room(queue, task)
        queue.settling.pop(task, None)
        if not any(queue.unfinished for queue in self._queues.values()):
            self._idle.set()

    async def _run_one(self, entry: Entry, queue: TransportQueue) -> None:
        if entry.kind is EntryKind.AGENT and entry.agent not in self.availability.loaded:
            # It was claimed before a reload: it waits for its agent, at no cost to its schedule.
            await _until_recorded(lambda: self._outbox.release([entry]))
            return
        policy = self._policies.of(entry)
        started = perf_counter()  # the loop's clock counts whole milliseconds
        self._log.started(entry)
        transport = self._queue_of(entry).transport  # a reload may have changed the target
        outcome = await make_attempt(transport, entry, policy.timeout_seconds)
        took_seconds = perf_counter() - started
        queue.observe(took_seconds)
        if (task := asyncio.current_task()) is not None:
            queue.settling[task] = entry
            self._make_room(queue, task)
        settlement = policy.settle(entry, outcome, took_seconds, random=random.random)
        settled = await _until_recorded(lambda: self._outbox.settle(settlement))
        self._log.ended(settlement, settled)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            held = [entry for queue in self._queues.values() for entry in queue.leased]
            if held:
                # Renewing fails only while the journal is unreachable; what is lost by then is
                # refused when it is settled, and another node may have run it.
                with contextlib.suppress(JournalUnavailable):
                    self._forget(await self._outbox.renew(held))

    def _forget(self, lost: Sequence[Entry]) -> None:
        """Start nothing that is another node's by now; what runs already cannot be taken back."""
        for entry in lost:
            waiting = self._queue_of(entry).waiting
            if entry in waiting:
                waiting.remove(entry)
                self._busy[entry.agent] -= entry.kind is EntryKind.AGENT

    async def _release(self, entries: list[Entry]) -> None:
        if not entries:
            return
        try:
            await self._outbox.release(entries)
        except JournalUnavailable as error:
            # They come back by themselves: their leases end, or the next start gives them back.
            logger.warning("journal.degraded", detail=str(error))

    async def _sleep(self, next_due_seconds: float | None) -> None:
        """Sleep until there is work or room, or an entry is due."""
        seconds = TURN_SECONDS if next_due_seconds is None else min(TURN_SECONDS, next_due_seconds)
        waits = [
            asyncio.create_task(self._outbox.wait_for_work(seconds)),
            asyncio.create_task(self._woken.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


async def _until_recorded(record: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Return what the journal says, asking again while it is unreachable."""
    while True:
        try:
            return await record()
        except JournalUnavailable:
            await asyncio.sleep(JOURNAL_RETRY_SECONDS)
