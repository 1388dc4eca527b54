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
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

import structlog

from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Claimed, ClaimRequest, Outbox, Settled, Settlement
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Entry, EntryKind, Outcome, OutcomeKind
from berinia_webhookd.outbound.attempt import AttemptLog, OnDead, make_attempt
from berinia_webhookd.outbound.availability import Availability, TransportDirectory
from berinia_webhookd.outbound.contract import NotBegun, Transport, begin_freely
from berinia_webhookd.outbound.guards import Guards
from berinia_webhookd.outbound.retry_policy import RetryPolicies, RetryPolicy

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
class Run:
    """One entry at its transport, or on its way to the journal."""

    entry: Entry
    policy: RetryPolicy
    begun: bool = False  # its agent may have been called, and must not be called again
    settlement: Settlement | None = None  # how it ended, once that is known
    recording: asyncio.Future[Settled] | None = None  # the commit of that, as it was last tried


@dataclass(eq=False)
class TransportQueue:
    """One transport with what it runs, what is claimed for it but not yet started, and what has
    ended and is being recorded: meanwhile the transport goes on with the next.
    """

    transport: Transport
    running: dict[asyncio.Task[None], Run] = field(default_factory=dict)
    settling: dict[asyncio.Task[None], Run] = field(default_factory=dict)
    waiting: deque[Entry] = field(default_factory=deque)
    mean_seconds: float = 1.0

    @property
    def leased(self) -> Iterator[Entry]:
        """Every entry whose lease is ours."""
        for run in self.unfinished.values():
            yield run.entry
        yield from self.waiting

    @property
    def unfinished(self) -> dict[asyncio.Task[None], Run]:
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
        guards: Guards | None = None,
    ) -> None:
        """`on_dead` gets each entry that nobody will try again."""
        self._guards = guards or Guards()
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
        """Claim no more, let attempts end within the grace, or within their agent's own where they
        must not be made twice; give back what did not begin, and end the rest.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._stopping = True
        self.last_turn = math.inf  # the watchdog waits for no more turns
        self._woken.set()
        # What a claim under way brings is in a queue then.
        await wait_for_event(self._last_claim, LAST_CLAIM_SECONDS)
        queues = self._queues.values()
        await self._release([entry for queue in queues for entry in queue.waiting])
        for queue in queues:
            queue.waiting.clear()
        while unfinished := self._unfinished:
            ends = {task: began + _grace(run, grace_seconds) for task, run in unfinished.items()}
            await self._end(
                {task: unfinished[task] for task, at in ends.items() if at <= loop.time()}
            )
            if self._unfinished:
                # One that begins meanwhile gets another grace, so look again when the first ends.
                await wait_for_event(self._idle, max(0.0, min(ends.values()) - loop.time()))
        if self._loading is not None:
            # Before the hosts end: what is being loaded then would seem not to load.
            self._loading.cancel()
            await asyncio.wait((self._loading,))

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return sum(len(queue.running) for queue in self._queues.values())

    @property
    def begun(self) -> Sequence[Run]:
        """What runs and must not be made twice: stopping waits longer for it."""
        return [run for run in self._unfinished.values() if run.begun and run.settlement is None]

    def longest_grace(self, grace_seconds: float) -> float:
        """Return how long stopping may take."""
        entries = [entry for queue in self._queues.values() for entry in queue.leased]
        policies = map(self._policies.of, entries)
        own = [policy.stop_grace_seconds for policy in policies if policy.at_most_once]
        return max([grace_seconds, *own])

    @property
    def _unfinished(self) -> dict[asyncio.Task[None], Run]:
        return {
            task: run for queue in self._queues.values() for task, run in queue.unfinished.items()
        }

    async def _end(self, runs: Mapping[asyncio.Task[None], Run]) -> None:
        """End what outlasted its grace; what is known of how it ended is recorded."""
        for task in runs:
            task.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        ended = [run for task, run in runs.items() if task.cancelled()]
        await self._release(
            [run.entry for run in ended if not run.begun and run.settlement is None]
        )
        for run in ended:
            if run.begun or run.settlement is not None:
                await self._settle_at_last(run)

    async def _settle_at_last(self, run: Run) -> None:
        if run.settlement is None:
            grace = run.policy.stop_grace_seconds
            why = f"the daemon stopped, and it had not ended within {grace:g} s"
            outcome = Outcome(OutcomeKind.STOPPED, error=why)
            run.settlement = run.policy.settle(
                run.entry, outcome, 0.0, random=random.random, begun=True
            )
        with contextlib.suppress(JournalUnavailable):
            if run.recording is not None:  # it may be on disk already, and is known by its answer
                self._log.ended(run.settlement, await run.recording)
                return
        try:
            self._log.ended(run.settlement, await self._outbox.settle(run.settlement))
        except JournalUnavailable as error:
            # The next start finds it running, and what had begun is dead then.
            logger.warning("journal.degraded", detail=str(error))

    async def _turn(self) -> None:
        """Claim what there is room for; sleep where that was nothing."""
        self.last_turn = asyncio.get_running_loop().time()
        self._woken.clear()
        known = self._guards.failing
        claimed = await self._claim()
        self._guards.report_holds(claimed.holds)
        # The journal did not yet know, when it gave these, that their agent fails.
        failing = self._guards.failing - known
        self._give_back([entry for entry in claimed.entries if _is_of(entry, failing)])
        for entry in claimed.entries:
            if _is_of(entry, failing):
                continue
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
                requests.append(self._request({agent}, room))
        for agents in of_host.values():
            # What waited for their host in here would keep others from theirs.
            queue = self._queue(self._transports.of(next(iter(agents))))
            if queue.room > 0 and not sum(self._busy[agent] for agent in agents):
                requests.append(self._request(agents, 1))
        for queue, agents in shared.items():
            if (room := queue.room) > 0:
                requests.append(self._request(agents, room))
        if (room := self._queue(self._late_replies).room) > 0:
            requests.append(ClaimRequest(EntryKind.REPLY, None, room))
        return requests

    def _request(self, agents: Set[AgentName], limit: int) -> ClaimRequest:
        budgets = {agent: budget for agent in agents if (budget := self._policies.budget_of(agent))}
        return ClaimRequest(EntryKind.AGENT, frozenset(agents), limit, budgets)

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
            run = Run(entry, self._policies.of(entry))
            task = self._tasks.create_task(self._run_one(run, queue))
            queue.running[task] = run
            task.add_done_callback(partial(self._ended, queue))

    def _make_room(self, queue: TransportQueue, task: asyncio.Task[None]) -> None:
        """The attempt has ended, so its place is free for the next one."""
        run = queue.running.pop(task, None)
        if run is not None:
            self._busy[run.entry.agent] -= run.entry.kind is EntryKind.AGENT
            self._start_what_fits(queue)
            self._woken.set()

    def _ended(self, queue: TransportQueue, task: asyncio.Task[None]) -> None:
        self._make_room(queue, task)
        queue.settling.pop(task, None)
        if not any(queue.unfinished for queue in self._queues.values()):
            self._idle.set()

    async def _run_one(self, run: Run, queue: TransportQueue) -> None:
        entry = run.entry
        if entry.kind is EntryKind.AGENT and entry.agent not in self.availability.loaded:
            # It was claimed before a reload: it waits for its agent, at no cost to its schedule.
            await _until_recorded(lambda: self._outbox.release([entry]))
            return
        run.policy = self._policies.of(entry)
        started = perf_counter()  # the loop's clock counts whole milliseconds
        self._log.started(entry)
        transport = self._queue_of(entry).transport  # a reload may have changed the target
        begin = partial(self._begin, run) if run.policy.at_most_once else begin_freely
        try:
            outcome = await make_attempt(transport, entry, run.policy.timeout_seconds, begin)
        except NotBegun as error:
            self._log.not_begun(entry, str(error))
            await _until_recorded(lambda: self._outbox.release([entry]))
            return
        took_seconds = perf_counter() - started
        queue.observe(took_seconds)
        if entry.kind is EntryKind.AGENT and self._guards.observe(entry.agent, outcome):
            self._leave_waiting(queue, entry.agent)
        settlement = run.policy.settle(
            entry, outcome, took_seconds, random=random.random, begun=run.begun
        )
        run.settlement = settlement
        if (task := asyncio.current_task()) is not None:
            queue.settling[task] = run
            self._make_room(queue, task)
        settled = await _until_recorded(partial(self._record, run, settlement))
        self._log.ended(settlement, settled)
        self._guards.report_failures(settlement, settled)

    async def _record(self, run: Run, settlement: Settlement) -> Settled:
        """Commit how a run ended; who ends the run ends not the commit."""
        run.recording = asyncio.ensure_future(self._outbox.settle(settlement))
        return await asyncio.shield(run.recording)

    def _leave_waiting(self, queue: TransportQueue, agent: AgentName) -> None:
        """Give back what is claimed of an agent and has not begun."""
        left = [entry for entry in queue.waiting if _is_of(entry, {agent})]
        for entry in left:
            queue.waiting.remove(entry)
        self._busy[agent] -= len(left)
        self._give_back(left)

    def _give_back(self, entries: list[Entry]) -> None:
        if entries:
            release = partial(self._outbox.release, entries)
            self._tasks.create_task(_until_recorded(release))

    async def _begin(self, run: Run) -> None:
        """Write down that an attempt begins which must not be made twice. Whoever is not told that
        this is on disk calls nobody.
        """
        try:
            ours = await self._outbox.begin(run.entry)
        except JournalUnavailable as error:
            raise NotBegun(str(error)) from error
        if not ours:
            raise NotBegun("its lease was lost")
        run.begun = True

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


def _is_of(entry: Entry, agents: Set[AgentName]) -> bool:
    """Whether an entry is for one of these agents."""
    return entry.kind is EntryKind.AGENT and entry.agent in agents


def _grace(run: Run, grace_seconds: float) -> float:
    """How long stopping waits for one attempt."""
    return run.policy.stop_grace_seconds if run.begun else grace_seconds


async def _until_recorded(record: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Return what the journal says, asking again while it is unreachable."""
    while True:
        try:
            return await record()
        except JournalUnavailable:
            await asyncio.sleep(JOURNAL_RETRY_SECONDS)
