"""The dispatcher: claims entries, has their transports make attempts, and settles how they ended.

It claims only for agents that are loaded, never more than can be started soon, and sleeps until the
journal or one of its own attempts wakes it. The order of entries is decided by the journal's claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from functools import partial
from typing import Final

from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Claimed, ClaimRequest, Outbox, Settled
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Entry, EntryKind
from berinia_webhookd.outbound.attempt import AttemptLog, OnDead, Run, make_attempt
from berinia_webhookd.outbound.availability import Availability
from berinia_webhookd.outbound.contract import NotBegun, Transport
from berinia_webhookd.outbound.guards import Guards
from berinia_webhookd.outbound.retry_policy import RetryPolicies
from berinia_webhookd.outbound.stopping import end, release
from berinia_webhookd.outbound.transport_queue import TransportQueue

JOURNAL_RETRY_SECONDS: Final = 1.0
LAST_CLAIM_SECONDS: Final = 5.0  # how long an unreachable journal may delay stopping
TURN_SECONDS: Final = 5.0  # the longest time between turns, which the watchdog checks
REPLIES_SECONDS: Final = 0.25  # between claims of late replies while there is room for nothing else
# With agents so fast that others end within this time, ends are recorded together.
TOGETHER_SECONDS: Final = 0.005


class Dispatcher:
    """Owns every attempt of this process; `run` runs until `stop`."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        late_replies: Transport,
        availability: Availability,
        policies: RetryPolicies,
        lease_seconds: float,
        metrics: Metrics,
        on_dead: OnDead = lambda *_: None,
        guards: Guards | None = None,
    ) -> None:
        """`on_dead` gets each entry that failed for good."""
        self._guards = guards or Guards()
        self._outbox = outbox
        self._late_replies = late_replies
        self.availability = availability
        self._policies = policies
        self._lease_seconds = lease_seconds
        self._log = AttemptLog(metrics, on_dead)
        self._queues: dict[Transport, TransportQueue] = {}
        self._busy: Counter[AgentName] = Counter()
        self._tasks = asyncio.TaskGroup()
        self._woken = asyncio.Event()  # set at new room, a loaded agent, or stopping
        self._ended: list[tuple[TransportQueue, Run]] = []  # ended runs that are recorded together
        self._together: asyncio.TimerHandle | None = None
        self._left_out = False  # whether the last claim left out agents for lack of room
        self._stopping = False
        self._last_claim = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()  # set when stopping has nothing to wait for
        self.last_turn = asyncio.get_running_loop().time()

    def reconfigure(self) -> None:
        """Use the log level as it is now."""
        self._log.reconfigure()

    async def run(self) -> None:
        """Dispatch until `stop`; waits while the journal is unreachable."""
        async with self._tasks:
            self._tasks.create_task(self._renew_leases())
            self._loading = self._tasks.create_task(self.availability.run(self._woken.set))
            while not self._stopping:
                await self._turn()
            self._last_claim.set()
            # Renewing and loading go on until the attempts have ended: see `stop`.
            await asyncio.Event().wait()

    async def stop(self, grace_seconds: float) -> None:
        """Claim no more; let attempts end within the grace period, or within their agent's own if
        it is at-most-once; give back entries that did not begin, and end the other attempts.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._stopping = True
        self.last_turn = math.inf  # the watchdog waits for no more turns
        self._woken.set()
        # The entries of a claim under way are in a queue afterwards.
        await wait_for_event(self._last_claim, LAST_CLAIM_SECONDS)
        queues = self._queues.values()
        await release(self._outbox, [entry for queue in queues for entry in queue.waiting])
        for queue in queues:
            queue.waiting.clear()
        while unfinished := self._unfinished:
            ends = {run: began + run.grace_seconds(grace_seconds) for run in unfinished}
            over = [run for run, at in ends.items() if at <= loop.time()]
            self._forget(over)
            await end(over, self._outbox, self._log)
            if self._unfinished:
                # One that begins meanwhile gets another grace, so look again when the first ends.
                await wait_for_event(self._idle, max(0.0, min(ends.values()) - loop.time()))
        if self._loading is not None:
            # Before the hosts end: a load that is cut off would count as a failed one.
            self._loading.cancel()
            await asyncio.wait((self._loading,))

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return sum(len(queue.running) for queue in self._queues.values())

    @property
    def begun(self) -> Sequence[Run]:
        """Running attempts of at-most-once agents, for which stopping waits longer."""
        return [run for run in self._unfinished if run.begun and run.settlement is None]

    def longest_grace(self, grace_seconds: float) -> float:
        """Return how long stopping may take."""
        entries = [entry for queue in self._queues.values() for entry in queue.leased]
        policies = map(self._policies.of, entries)
        own = [policy.stop_grace_seconds for policy in policies if policy.at_most_once]
        return max([grace_seconds, *own])

    @property
    def _unfinished(self) -> list[Run]:
        return [run for queue in self._queues.values() for run in queue.unfinished]

    async def _turn(self) -> None:
        """Claim as many entries as there is room for; sleep if there were none."""
        self.last_turn = asyncio.get_running_loop().time()
        self._woken.clear()
        known = self._guards.failing
        requests = self._requests()
        claimed = await self._claim(requests)
        if claimed.holds:
            self._guards.report_holds(claimed.holds)
        # The claim was made before the journal knew that their agent fails.
        failing = self._guards.failing - known
        returned: list[Entry] = []
        for entry in claimed.entries:
            transport = self._transport_of(entry)
            if transport is None or _is_of(entry, failing):
                returned.append(entry)
                continue
            queue = self._queue(transport)
            queue.put(entry)
            self._start_what_fits(queue)
        self._give_back(returned)
        if not claimed.entries:
            full = self._left_out and all(one.kind is EntryKind.REPLY for one in requests)
            await self._sleep(claimed.next_due_seconds, full=full)

    async def _claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        if not requests:
            return Claimed(entries=(), next_due_seconds=None)
        try:
            return await self._outbox.claim(requests)
        except JournalUnavailable:
            # The journal itself says `journal.degraded`.
            return Claimed(entries=(), next_due_seconds=JOURNAL_RETRY_SECONDS)

    def _requests(self) -> list[ClaimRequest]:
        wanted: list[tuple[Set[AgentName], int]] = []  # agents, and the limit over all of them
        shared: dict[Transport, set[AgentName]] = {}
        of_host: dict[str, set[AgentName]] = {}
        loaded = self.availability.loaded
        for agent, transport in loaded.items():
            limits = self._policies.limits_of(agent)
            if limits.host is not None:
                of_host.setdefault(limits.host, set()).add(agent)
            elif limits.concurrency is None:
                shared.setdefault(transport, set()).add(agent)
            else:
                room = self._queue(transport).room
                wanted.append(({agent}, min(room, limits.concurrency - self._busy[agent])))
        for agents in of_host.values():
            # Entries waiting here for a shared host would take the place of others.
            busy = sum(self._busy[agent] for agent in agents)
            room = self._queue(loaded[next(iter(agents))]).room
            wanted.append((agents, 0 if busy else min(room, 1)))
        wanted += [(agents, self._queue(transport).room) for transport, agents in shared.items()]
        requests = [self._request(agents, room) for agents, room in wanted if room > 0]
        self._left_out = len(requests) < len(wanted)
        if (room := self._queue(self._late_replies).room) > 0:
            requests.append(ClaimRequest(EntryKind.REPLY, None, room))
        return requests

    def _request(self, agents: Set[AgentName], limit: int) -> ClaimRequest:
        limits = self._policies.limits_of
        budgets = {agent: budget for agent in agents if (budget := limits(agent).budget)}
        return ClaimRequest(EntryKind.AGENT, frozenset(agents), limit, budgets)

    def _queue(self, transport: Transport) -> TransportQueue:
        if (queue := self._queues.get(transport)) is None:
            queue = self._queues[transport] = TransportQueue(transport, self._busy)
        return queue

    def _transport_of(self, entry: Entry) -> Transport | None:
        """Return the transport of an entry's agent; None while the agent is not loaded."""
        if entry.kind is EntryKind.REPLY:
            return self._late_replies
        return self.availability.loaded.get(entry.agent)

    def _start_what_fits(self, queue: TransportQueue) -> None:
        while queue.has_next and not self._stopping:
            run = self._next(queue)
            run.task = self._tasks.create_task(self._occupy(queue, run))

    def _next(self, queue: TransportQueue, task: asyncio.Task[None] | None = None) -> Run:
        return queue.begin_next(self._policies.of(queue.waiting[0]), task)

    async def _occupy(self, queue: TransportQueue, run: Run) -> None:
        """Make attempts one after another in one place of a transport, until its queue is empty."""
        while True:
            try:
                await self._attempt(queue, run)
            finally:
                self._leave(queue, run)
            if self._stopping or not queue.has_next:
                return
            run = self._next(queue, run.task)

    async def _attempt(self, queue: TransportQueue, run: Run) -> None:
        entry = run.entry
        transport = self._transport_of(entry)  # a reload may have changed the target
        if transport is None:
            # Claimed before a reload: give it back without counting a retry.
            await self._release([entry])
            return
        self._log.started(entry)
        try:
            settlement = await make_attempt(run, transport, partial(self._begin, run))
        except NotBegun as error:
            self._log.not_begun(entry, str(error))
            await self._release([entry])
            return
        queue.observe(settlement.took_seconds)
        if entry.kind is EntryKind.AGENT and self._guards.observe(entry.agent, settlement.outcome):
            self._leave_waiting(queue, entry.agent)
        queue.settling.add(run)
        self._ended.append((queue, run))
        alone = len(queue.running) == 1 and not queue.waiting
        if alone or run.begun or self._stopping or queue.ends_within(TOGETHER_SECONDS) < 2:  # noqa: PLR2004
            self._record_ended()
        elif self._together is None:
            loop = asyncio.get_running_loop()
            self._together = loop.call_later(TOGETHER_SECONDS, self._record_ended)

    def _record_ended(self) -> None:
        if self._together is not None:
            self._together.cancel()
            self._together = None
        ended, self._ended = self._ended, []
        for queue, run in ended:
            self._record(queue, run)

    def _leave(self, queue: TransportQueue, run: Run) -> None:
        """Free the place of a run."""
        if run in queue.running:
            queue.leave(run)
            if self._left_out and queue.free:
                self._woken.set()
            self._note_idle()

    def _note_idle(self) -> None:
        if self._stopping and not self._unfinished:
            self._idle.set()

    def _record(self, queue: TransportQueue, run: Run) -> None:
        """Have the journal record the end of a run; retries while the journal is unreachable."""
        if run.settlement is None or run not in queue.settling:  # `stop` did it
            return
        try:
            run.recording = self._outbox.settle(run.settlement)
        except JournalUnavailable:
            self._record_later(queue, run)
        else:
            run.recording.add_done_callback(partial(self._recorded, queue, run))

    def _record_later(self, queue: TransportQueue, run: Run) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(JOURNAL_RETRY_SECONDS, self._record, queue, run)

    def _recorded(
        self, queue: TransportQueue, run: Run, recording: asyncio.Future[Settled]
    ) -> None:
        if run.settlement is None or run not in queue.settling:
            return
        if isinstance(recording.exception(), JournalUnavailable):
            self._record_later(queue, run)
            return
        queue.settling.remove(run)
        settled = recording.result()
        self._log.ended(run.settlement, settled)
        if settled.failures is not None:
            self._guards.report_failures(run.settlement, settled.failures)
        self._note_idle()

    def _forget(self, runs: Iterable[Run]) -> None:
        """Drop runs that `stop` records or gives back."""
        for queue in self._queues.values():
            for run in runs:
                self._leave(queue, run)
                queue.settling.discard(run)

    def _leave_waiting(self, queue: TransportQueue, agent: AgentName) -> None:
        """Give back the entries of an agent that are claimed and have not begun."""
        left = [entry for entry in queue.waiting if _is_of(entry, {agent})]
        queue.take_out(left)
        self._give_back(left)

    def _give_back(self, entries: list[Entry]) -> None:
        if entries:
            self._tasks.create_task(self._release(entries))

    async def _release(self, entries: Sequence[Entry]) -> None:
        """Give entries back; retries while the journal is unreachable."""
        while True:
            try:
                await self._outbox.release(entries)
            except JournalUnavailable:
                await asyncio.sleep(JOURNAL_RETRY_SECONDS)
            else:
                return

    async def _begin(self, run: Run) -> None:
        """Record that an attempt of an at-most-once agent begins. The agent is called only after
        this is on disk.
        """
        if not run.policy.at_most_once:
            return
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
                # Renewing fails only while the journal is unreachable; settling an entry whose
                # lease was lost meanwhile is refused, and another node may have run it.
                with contextlib.suppress(JournalUnavailable):
                    lost = await self._outbox.renew(held)
                    # Start no entry whose lease another node has now; running ones go on.
                    for queue in self._queues.values():
                        queue.take_out(lost)

    async def _sleep(self, next_due_seconds: float | None, *, full: bool) -> None:
        """Sleep until there is work or room, or an entry is due."""
        seconds = REPLIES_SECONDS if full else TURN_SECONDS
        if next_due_seconds is not None:
            seconds = min(seconds, next_due_seconds)
        if full:  # new entries need not wake it: there is no room
            await wait_for_event(self._woken, seconds)
            return
        work = self._tasks.create_task(self._wake_for_work(seconds))
        try:
            await self._woken.wait()
        finally:
            work.cancel()

    async def _wake_for_work(self, seconds: float) -> None:
        await self._outbox.wait_for_work(seconds)
        self._woken.set()


def _is_of(entry: Entry, agents: Set[AgentName]) -> bool:
    """Whether an entry is for one of these agents."""
    return entry.kind is EntryKind.AGENT and entry.agent in agents
