"""The dispatcher against a real journal, with transports that do what a test says."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.channels.contract import no_channel
from berinia_webhookd.config.load import load
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Claimed, ClaimRequest, Settled, Settlement
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Conversation,
    Decoded,
    Entry,
    EntryState,
    Event,
    EventId,
    Outcome,
    OutcomeKind,
    VerifiedDelivery,
)
from berinia_webhookd.outbound import dispatcher as dispatcher_module
from berinia_webhookd.outbound.attempt import AttemptLog
from berinia_webhookd.outbound.availability import Availability
from berinia_webhookd.outbound.contract import AgentUnavailable, Begin, begin_freely
from berinia_webhookd.outbound.dispatcher import Dispatcher
from berinia_webhookd.outbound.late_replies import LateReplies
from berinia_webhookd.outbound.log_agent import LogAgents
from berinia_webhookd.outbound.retry_policy import RetryPolicies
from berinia_webhookd.outbound.transport_queue import HELD_MOST_BYTES, TransportQueue
from berinia_webhookd.supervision import turns

from .agent_world import PATIENCE_SECONDS, make_entry

AGENT = AgentName("ResponseListenerAgent")
SUCCESS = Outcome(OutcomeKind.SUCCESS)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(eq=False)
class Scripted:
    """A transport that records what it gets and does what `behave` says."""

    capacity: int = 2
    behave: Callable[[Entry], Any] = lambda _: SUCCESS
    reason: str | None = None
    begun: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def goes_on(self, _: AgentName) -> bool:
        return False

    def of(self, agent: AgentName) -> Scripted:
        return self

    async def load(self, agent: AgentName) -> None:
        if self.reason is not None:
            raise AgentUnavailable(self.reason)

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        await begin()
        self.begun.append(entry.event.body)
        self.running += 1
        self.most = max(self.most, self.running)
        self.news.set()
        try:
            outcome = self.behave(entry)
            result: Outcome = await outcome if asyncio.iscoroutine(outcome) else outcome
            return result
        finally:
            self.running -= 1
            self.news.set()

    async def close(self) -> None:
        pass

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not done():
                await self.news.wait()
                self.news.clear()


@dataclass
class World:
    journal: SqlJournal
    transport: Scripted
    folder: Path
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    settings: str = ""
    lease_seconds: float = 15
    dead: list[Settlement] = field(default_factory=list)  # what is alerted

    def start(self) -> Dispatcher:
        file = self.folder / "settings.toml"
        file.write_text(self.settings)
        loaded = load(kinds=KINDS, environ={}, working_folder=self.folder, config_file=file)
        metrics = Metrics()
        dispatcher = Dispatcher(
            outbox=self.journal,
            late_replies=LateReplies(no_channel, clock=now),
            availability=Availability(
                outbox=self.journal, transports=self.transport, routed=[AGENT], metrics=metrics
            ),
            policies=RetryPolicies(loaded.settings),
            lease_seconds=self.lease_seconds,
            metrics=metrics,
            on_dead=self.dead.append,
        )
        self.tasks.append(asyncio.create_task(dispatcher.run()))
        return dispatcher

    async def accept(self, body: str, *, sender: str = "+33639980001") -> EventId:
        channel = ChannelName("sms")
        event = Event(
            channel=channel,
            agent=AGENT,
            conversation=Conversation(channel, sender, "party"),
            digest=hashlib.sha256(body.encode()).digest(),
            received_at=now(),
            sender=sender,
            recipient="party",
            body=body,
        )
        delivery = VerifiedDelivery(channel, "text/plain", body.encode(), now())
        (receipt,) = await self.journal.accept(delivery, Decoded((event,)))
        return receipt.event_id

    async def settled(self, state: EntryState, count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await self.journal.backlog()).entries.get(state, 0) < count:
                await self.journal.wait_for_work(0)
                await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with _open(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def _open(folder: Path, kind: type[SqlJournal] = SqlJournal) -> AsyncIterator[World]:
    journal = kind(f"sqlite:///{folder / 'journal.db'}", node="here", clock=now)
    await journal.open()
    world = World(journal, Scripted(), folder)
    yield world
    for task in world.tasks:
        task.cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    await journal.close()


async def test_what_arrives_is_attempted_at_once_and_settled(world: World) -> None:
    """An arrival wakes the dispatcher; nobody polls."""
    world.start()
    await world.accept("one")
    await world.settled(EntryState.DONE, 1)
    assert world.transport.begun == ["one"]


async def test_a_conversation_goes_in_order(world: World) -> None:
    """However many may run at once, one conversation runs one after the other."""
    bodies = [f"message {n}" for n in range(30)]
    for body in bodies:
        await world.accept(body)
    world.start()
    await world.settled(EntryState.DONE, 30)
    assert world.transport.begun == bodies
    assert world.transport.most == 1


async def test_never_more_at_once_than_the_transport_takes(world: World) -> None:
    """Conversations run in parallel up to the transport's capacity."""
    gate = asyncio.Event()

    async def wait(_: Entry) -> Outcome:
        await gate.wait()
        return SUCCESS

    world.transport.behave = wait
    for n in range(20):
        await world.accept(f"message {n}", sender=f"+3363998{n:04}")
    world.start()
    await world.transport.until(lambda: world.transport.running == 2)
    gate.set()
    await world.settled(EntryState.DONE, 20)
    assert world.transport.most == 2


async def test_large_events_are_held_a_few_at_a_time(world: World) -> None:
    """While those held are large together nothing more is claimed; then there is room again."""
    queue = TransportQueue(world.transport)
    room = queue.room
    queue.waiting.append(make_entry(AGENT)._replace(size_bytes=HELD_MOST_BYTES - 1))
    assert 0 < queue.room < room
    queue.waiting.append(make_entry(AGENT)._replace(size_bytes=1))
    assert queue.room == 0
    queue.waiting.clear()
    assert queue.room == room


class Counting(SqlJournal):
    """Tells how often it was asked for work, and what was recorded while how many ran."""

    claims = 0
    recorded: list[tuple[str, int]]
    transport: Scripted

    async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        self.claims += 1
        return await super().claim(requests)

    def settle(self, settlement: Settlement) -> asyncio.Future[Settled]:
        self.recorded.append((settlement.entry.event.body, self.transport.running))
        return super().settle(settlement)


async def test_what_arrives_where_there_is_no_room_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question is a commit; the end of an attempt makes room, and all are made."""
    monkeypatch.setattr(dispatcher_module, "REPLIES_SECONDS", 3600.0)
    gate = asyncio.Event()

    async def wait(_: Entry) -> Outcome:
        await gate.wait()
        return SUCCESS

    async with _open(tmp_path, Counting) as world:
        assert isinstance(world.journal, Counting)
        world.journal.recorded, world.journal.transport = [], world.transport
        world.transport.capacity, world.transport.behave = 1, wait
        world.start()
        await world.accept("first")
        await world.transport.until(lambda: world.transport.running == 1)
        await world.accept("second", sender="+33639980002")
        asked = world.journal.claims
        for n in range(20):
            await world.accept(f"message {n}", sender=f"+3363998{n:04}")
        assert world.journal.claims <= asked + 1  # which may have been on its way
        gate.set()
        await world.settled(EntryState.DONE, 22)


async def test_quick_ends_are_recorded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one waits for those that end soon after it, and the last one for nobody."""
    monkeypatch.setattr(dispatcher_module, "TOGETHER_SECONDS", 3600.0)
    gate = asyncio.Event()

    async def wait(entry: Entry) -> Outcome:
        if entry.event.body == "second":
            await gate.wait()
        return SUCCESS

    async with _open(tmp_path, Counting) as world:
        assert isinstance(world.journal, Counting)
        world.journal.recorded, world.journal.transport = [], world.transport
        world.transport.behave = wait
        await world.accept("second")
        await world.accept("first", sender="+33639980002")
        world.start()
        await world.transport.until(lambda: world.transport.begun == ["second", "first"])
        await world.transport.until(lambda: world.transport.running == 1)
        gate.set()
        await world.settled(EntryState.DONE, 2)
        assert world.journal.recorded == [("first", 0), ("second", 0)]


async def test_attempts_are_logged_at_the_level_of_the_last_reload() -> None:
    """Their loggers are taken once, and anew when the level may be another one."""
    usual = structlog.get_config()["wrapper_class"]
    log, agents = AttemptLog(Metrics(), lambda _: None), LogAgents()
    try:
        with structlog.testing.capture_logs() as logged:
            for level in (logging.WARNING, logging.INFO):
                filtering = structlog.make_filtering_bound_logger(level)
                structlog.configure(wrapper_class=filtering)
                log.reconfigure()
                agents.reconfigure()
                log.started(make_entry(AGENT))
                await agents.attempt(make_entry(AGENT), timeout_seconds=1)
    finally:
        structlog.configure(wrapper_class=usual)
    assert [line["event"] for line in logged] == ["attempt.started", "agent.event"]


async def test_concurrency_limits_one_agent(world: World) -> None:
    """`agents.<Name>.concurrency` holds below the transport's capacity."""
    world.settings = "agents.ResponseListenerAgent.concurrency = 1"
    world.transport.capacity = 8
    for n in range(12):
        await world.accept(f"message {n}", sender=f"+3363998{n:04}")
    world.start()
    await world.settled(EntryState.DONE, 12)
    assert world.transport.most == 1


async def test_a_failure_is_tried_again_when_due(world: World) -> None:
    """The dispatcher wakes by itself for a retry that falls due."""
    world.settings = "agents.ResponseListenerAgent.retry_schedule_seconds = [0.05, 0.05]"
    world.transport.behave = lambda entry: (
        SUCCESS if entry.attempt == 3 else Outcome(OutcomeKind.ERROR, error="not yet")
    )
    world.start()
    await world.accept("one")
    await world.settled(EntryState.DONE, 1)
    assert world.transport.begun == ["one"] * 3


async def test_an_agent_that_fails_is_not_given_everything(world: World) -> None:
    """What was claimed before the journal knew of five failures is given back; from then on one
    entry at a time is tried, until one succeeds and all flow.
    """
    world.settings = "agents.ResponseListenerAgent.retry_schedule_seconds = []"
    works = asyncio.Event()
    world.transport.behave = lambda _: (
        SUCCESS if works.is_set() else Outcome(OutcomeKind.EXCEPTION, error="broken")
    )
    for n in range(60):
        await world.accept(f"message {n}", sender=f"+3363998{n:04}")
    world.start()
    await world.settled(EntryState.DEAD, 6)  # the sixth is a try
    dead = (await world.journal.backlog()).entries[EntryState.DEAD]
    assert dead <= 5 + world.transport.capacity
    works.set()
    await world.settled(EntryState.DONE, 60 - dead)


async def test_an_unavailable_agent_makes_its_entries_wait(world: World) -> None:
    """Nothing is claimed for an agent that is not loaded; it flows once it is."""
    world.transport.reason = "no such module"
    dispatcher = world.start()
    await world.accept("one")
    async with asyncio.timeout(90):
        while not dispatcher.availability.reasons:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)
    assert dispatcher.availability.reasons == {AGENT: "no such module"}
    assert (await world.journal.backlog()).entries[EntryState.READY] == 1
    world.transport.reason = None
    dispatcher.availability.reconfigure([AGENT])
    await world.settled(EntryState.DONE, 1)


async def test_what_a_reload_takes_away_is_given_back(world: World) -> None:
    """What was claimed before a reload waits until its agent is loaded again: no attempt is spent
    on an agent that is not there, or by the way that led to it before.
    """

    def reload(entry: Entry) -> Outcome:
        if entry.event.body == "one":
            world.transport.reason = "gone"
            dispatcher.availability.reconfigure([AGENT])
        return SUCCESS

    world.transport.behave = reload
    await world.accept("one")
    await world.accept("two", sender="+33639980002")
    dispatcher = world.start()
    await world.settled(EntryState.DONE, 1)
    await world.settled(EntryState.READY, 1)
    assert world.transport.begun == ["one"]
    world.transport.reason = None
    dispatcher.availability.reconfigure([AGENT])
    await world.settled(EntryState.DONE, 2)
    assert world.transport.begun == ["one", "two"]


async def test_a_bug_in_a_transport_costs_one_attempt(world: World) -> None:
    """What a transport raises is an outcome of that attempt alone."""

    def raise_once(entry: Entry) -> Outcome:
        if entry.event.body == "bad":
            raise LookupError("a bug of ours")
        return SUCCESS

    world.settings = "agents.ResponseListenerAgent.retry_schedule_seconds = []"
    world.transport.behave = raise_once
    world.start()
    await world.accept("bad")
    await world.accept("good", sender="+33639980002")
    await world.settled(EntryState.DEAD, 1)
    await world.settled(EntryState.DONE, 1)


async def test_stopping_gives_back_what_did_not_end(world: World) -> None:
    """After the grace, running and queued entries are ready again, at no cost to their schedule."""
    world.transport.capacity = 1

    async def hang(_: Entry) -> Outcome:
        await asyncio.Event().wait()
        return SUCCESS

    world.transport.behave = hang
    for n in range(3):
        await world.accept(f"message {n}", sender=f"+3363998{n:04}")
    dispatcher = world.start()
    await world.transport.until(lambda: world.transport.running == 1)
    await dispatcher.stop(0)
    backlog = await world.journal.backlog()
    assert backlog.entries.get(EntryState.RUNNING, 0) == 0
    assert backlog.entries[EntryState.READY] == 3
    assert turns(dispatcher), "what need not turn any more is not stuck"
    assert dispatcher.last_turn > asyncio.get_running_loop().time()


class SlowAnswers(SqlJournal):
    """Its claims are committed at once, and answered later."""

    claimed, answer = asyncio.Event(), asyncio.Event()

    async def claim(self, lanes: Sequence[ClaimRequest]) -> Claimed:
        result = await super().claim(lanes)
        if result.entries:
            self.claimed.set()
            await self.answer.wait()
        return result


async def test_stopping_gives_back_what_is_just_being_claimed(tmp_path: Path) -> None:
    """A claim whose answer comes while we stop leaves nothing leased behind."""
    async with _open(tmp_path, SlowAnswers) as world:
        await world.accept("one")
        dispatcher = world.start()
        await SlowAnswers.claimed.wait()
        stopping = asyncio.create_task(dispatcher.stop(20))
        await asyncio.sleep(0)
        SlowAnswers.answer.set()
        await stopping
        backlog = await world.journal.backlog()
        assert (backlog.entries[EntryState.READY], world.transport.begun) == (1, [])


async def test_stopping_waits_for_what_ends_in_time(world: World) -> None:
    """Within the grace an attempt is settled as ever."""
    gate = asyncio.Event()

    async def wait(_: Entry) -> Outcome:
        await gate.wait()
        return SUCCESS

    world.transport.behave = wait
    await world.accept("one")
    dispatcher = world.start()
    await world.transport.until(lambda: world.transport.running == 1)
    stopping = asyncio.create_task(dispatcher.stop(20))
    await asyncio.sleep(0)
    gate.set()
    await stopping
    assert (await world.journal.backlog()).entries[EntryState.DONE] == 1


class LateAnswers(SqlJournal):
    """What ends is on disk at once, and answered later."""

    recorded, answer = asyncio.Event(), asyncio.Event()

    def settle(self, settlement: Settlement) -> asyncio.Future[Settled]:
        return asyncio.ensure_future(self._late(super().settle(settlement)))

    async def _late(self, recording: asyncio.Future[Settled]) -> Settled:
        settled = await recording
        self.recorded.set()
        await self.answer.wait()
        return settled


async def test_stopping_knows_what_is_just_being_recorded(tmp_path: Path) -> None:
    """Its end is told once, and nobody takes its lease for lost."""
    runs: list[asyncio.Task[Any] | None] = []

    def end(_: Entry) -> Outcome:
        runs.append(asyncio.current_task())
        return Outcome(OutcomeKind.REJECTED, error="no")

    async with _open(tmp_path, LateAnswers) as world:
        world.transport.behave = end
        await world.accept("one")
        dispatcher = world.start()
        await LateAnswers.recorded.wait()
        with structlog.testing.capture_logs() as logged:
            stopping = asyncio.create_task(dispatcher.stop(0))
            await asyncio.wait([run for run in runs if run is not None])
            LateAnswers.answer.set()
            await stopping
        assert len(world.dead) == 1
        (line,) = [line for line in logged if line["event"] == "attempt.failed"]
        assert "note" not in line


class Unsure(SqlJournal):
    """Says of the first attempt that nobody knows whether its beginning was written down."""

    asked = 0

    async def begin(self, entry: Entry) -> bool:
        began = await super().begin(entry)
        self.asked += 1
        if self.asked == 1:
            raise JournalUnavailable("the connection broke")
        return began


async def test_an_agent_is_not_called_when_nobody_knows_whether_it_may_be(tmp_path: Path) -> None:
    """The entry is given back, although its beginning is on disk, and begun anew: once."""
    async with _open(tmp_path, Unsure) as world:
        world.settings = 'agents.defaults.delivery = "at-most-once"'
        await world.accept("one")
        with structlog.testing.capture_logs() as logged:
            world.start()
            await world.settled(EntryState.DONE, 1)
        assert world.transport.begun == ["one"]
        assert [line["attempt"] for line in logged if line["event"] == "attempt.not_begun"] == [1]
        assert [line["attempt"] for line in logged if line["event"] == "attempt.started"] == [1, 1]
