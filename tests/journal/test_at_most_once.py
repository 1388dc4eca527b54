"""At most once: what has begun is never begun again by itself, whatever ends on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import FailureReply, ReplyRoute
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.replay import Changed
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import (
    ChannelName,
    Decoded,
    Entry,
    EntryState,
    Event,
    Outcome,
    OutcomeKind,
)

from .test_replies import REPLIES
from .world import LEASE_SECONDS, PostgresqlWorld, SqliteWorld, World, an_event, on_postgresql

WHATSAPP = ChannelName("whatsapp")
FAILED: dict[str, Any] = {"state": EntryState.DEAD, "outcome": Outcome(OutcomeKind.TIMEOUT)}
IN_DOUBT: dict[str, Any] = {**FAILED, "may_have_acted": True}


def sorry(_: Event) -> FailureReply:
    return FailureReply("it was lost", late=True)


async def begun(world: World, text: str = "campaign") -> Entry:
    """An entry whose agent is about to be called."""
    await world.accept(text)
    (entry,) = await world.claim()
    assert await world.journal.begin(entry)
    return entry


async def replay(world: World, *ids: str, once_again: bool = False) -> list[Changed]:
    async with Operations(world.url, clock=world.clock) as desk:
        how: dict[str, Any] = {"decode": lambda _: Decoded(()), "once_again": once_again}
        if ids:
            return await desk.replay(ids, **how)
        return await desk.replay_matching(Filters(state=EntryState.DEAD), **how)


async def test_what_had_begun_is_dead_after_a_crash(world: World) -> None:
    """The first time, with its attempt recorded as lost, and told to whoever alerts."""
    entry = await begun(world)
    journal = await world.crash()
    assert await world.states() == {"dead": 1}
    (lost,) = journal.take_lost_for_good()
    assert (lost.event_id, lost.may_have_acted, lost.attempt) == (entry.event_id, True, 1)
    assert await world.claim() == []
    async with Operations(world.url, clock=world.clock) as desk:
        (listed,) = await desk.list_events(Filters())
        (shown,) = (await desk.show(entry.event_id)).entries
        statistics = await desk.stats()
    assert listed.may_have_acted
    assert shown.may_have_acted
    assert [attempt.outcome for attempt in shown.attempts] == ["lost"]
    assert statistics.may_have_acted == {entry.agent: 1}


async def test_what_had_not_begun_is_given_back(world: World) -> None:
    """Nobody was called."""
    await world.accept("campaign")
    await world.claim()
    await world.crash()
    assert await world.states() == {"ready": 1}


async def test_what_is_released_has_not_begun(world: World) -> None:
    """Whoever was not told that it is written down calls nobody, and gives it back."""
    entry = await begun(world)
    await world.journal.release([entry])
    assert await world.claim_bodies() == ["campaign"]
    await world.crash()
    assert await world.states() == {"ready": 1}


async def test_what_is_tried_again_has_not_begun(world: World) -> None:
    """An agent that wants to be called again did nothing."""
    await world.fail(await begun(world), retry_in=1)
    world.clock.move(1)
    (entry,) = await world.claim()
    await world.crash()
    assert await world.states() == {"ready": 1}
    assert not await world.journal.begin(entry)  # that lease is another process's


async def test_what_may_have_acted_is_replayed_on_purpose_only(world: World) -> None:
    """It is passed over, by id and by state, unless running it twice is meant."""
    entry = await begun(world)
    await world.settle(entry, **IN_DOUBT)
    for changed in (await replay(world), await replay(world, entry.event_id)):
        assert [one.passed_over for one in changed] == [True]
    assert await world.states() == {"dead": 1}
    (again,) = await replay(world, entry.event_id, once_again=True)
    assert again.refused is None
    assert await world.claim_bodies() == ["campaign"]
    await world.crash()
    assert await world.states() == {"ready": 1}  # it had not begun this time


async def test_what_an_agent_says_of_itself_is_no_doubt(world: World) -> None:
    """It can be replayed like anything else that failed."""
    entry = await begun(world)
    await world.settle(entry, **FAILED)
    assert [one.refused for one in await replay(world)] == [None]


async def test_what_is_done_is_not_done_twice_by_mistake(world: World) -> None:
    """Nor is what was given up after it may have acted."""
    entry = await begun(world)
    await world.settle(entry)
    assert [one.passed_over for one in await replay(world, entry.event_id)] == [True]
    other = await begun(world, "another")
    await world.settle(other, **IN_DOUBT)
    async with Operations(world.url, clock=world.clock) as desk:
        await desk.discard([other.event_id])
    assert [one.passed_over for one in await replay(world, other.event_id)] == [True]


async def test_who_wrote_what_is_lost_is_told_later(closed_world: World) -> None:
    """Once, by a reply that is posted: who waited may have waited at the process that is gone."""
    world = closed_world
    await world.open(lost_reply=sorry)
    event = an_event("campaign", channel=WHATSAPP, group="Leads")
    await world.accept_event(event, wait_seconds=30)
    (entry,) = await world.claim()
    assert await world.journal.begin(entry)
    await world.journals.pop().close()
    await world.open(lost_reply=sorry)
    if isinstance(world, PostgresqlWorld):
        world.clock.move(LEASE_SECONDS + 1)
        await world.journal.recover()
    (late,) = (await world.journal.claim(REPLIES)).entries
    assert (late.reply_text, late.event.group) == ("it was lost", "Leads")
    await world.settle(late)
    world.clock.move(30)
    (changed,) = await replay(world, entry.event_id, once_again=True)
    assert changed.refused is None
    (entry,) = await world.claim()
    said = await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, reply="21"), late=True)
    assert said.reply is ReplyRoute.LATE  # a success is a reply of its own
    (late,) = (await world.journal.claim(REPLIES)).entries
    assert late.reply_text == "21"


async def test_a_reply_that_cannot_be_posted_is_said_to_be_lost(closed_world: World) -> None:
    """A direct message whose caller is gone."""
    world = closed_world
    await world.open()
    await world.accept_event(an_event("campaign", channel=WHATSAPP), wait_seconds=1)
    (entry,) = await world.claim()
    assert await world.journal.begin(entry)
    world.clock.move(2)
    await world.journals.pop().close()
    with structlog.testing.capture_logs() as logged:
        await world.open(lost_reply=lambda _: FailureReply("it was lost", late=False))
        if isinstance(world, PostgresqlWorld):
            world.clock.move(LEASE_SECONDS + 1)
            await world.journal.recover()
    assert "reply.undeliverable" in [line["event"] for line in logged]


@on_postgresql
async def test_a_result_that_comes_late_still_counts(world: PostgresqlWorld) -> None:
    """Nobody else made the attempt; what was taken for lost is what it really was."""
    entry = await begun(world)
    other = await world.open(node="there")
    world.clock.move(LEASE_SECONDS + 1)
    assert await other.recover() == 1
    assert await world.states() == {"dead": 1}
    first = world.journals[0]
    assert (await world.settle(entry, first, outcome=Outcome(OutcomeKind.SUCCESS))).kept
    assert await world.states() == {"done": 1}
    async with Operations(world.url, clock=world.clock) as desk:
        (shown,) = (await desk.show(entry.event_id)).entries
    assert [attempt.outcome for attempt in shown.attempts] == ["success"]
    assert not (await world.settle(entry, first)).kept  # once


@on_postgresql
async def test_a_result_of_what_was_replayed_meanwhile_does_not(world: PostgresqlWorld) -> None:
    """Another run decides then."""
    entry = await begun(world)
    other = await world.open(node="there")
    world.clock.move(LEASE_SECONDS + 1)
    await other.recover()
    await replay(world, entry.event_id, once_again=True)
    assert not (await world.settle(entry, world.journals[0])).kept
    assert await world.states() == {"ready": 1}


@dataclass
class Model:
    """What an at-most-once agent did, beside what a dispatcher and its journal do. A step that is
    cut short leaves open whether its commit was made, as the death of a process does.
    """

    world: World
    calls: Counter[str] = field(default_factory=Counter)
    allowed: Counter[str] = field(default_factory=Counter)  # calls that somebody asked for
    held: list[Entry] = field(default_factory=list)
    called: list[Entry] = field(default_factory=list)  # and not yet settled

    async def step(self, what: str, *, crash: str) -> None:
        """One step; the process dies `before` it, right `after` its commit, or while it is being
        made (`during`), before anybody is told of it; or not at all.
        """
        if crash == "before":
            await self.die()
            return
        task = asyncio.ensure_future(getattr(self, what)(told=crash == "never"))
        if crash == "during":
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and task.exception() is not None:
            raise task.exception() or AssertionError
        if crash != "never":
            await self.die()

    async def die(self) -> None:
        self.held.clear()
        self.called.clear()
        await self.world.crash()

    async def claim(self, *, told: bool) -> None:
        entries = await self.world.claim(1)
        if told:
            self.held += entries

    async def begin(self, *, told: bool) -> None:
        if self.held:
            entry = self.held.pop()
            if await self.world.journal.begin(entry) and told:
                self.calls.update(one.event_id for one in entry.messages)
                self.called.append(entry)

    async def give_back(self, *, told: bool) -> None:
        del told
        if self.held:
            await self.world.journal.release([self.held.pop()])

    async def succeed(self, *, told: bool) -> None:
        await self.end(told, {})

    async def fail(self, *, told: bool) -> None:
        await self.end(told, IN_DOUBT)

    async def ask_again(self, *, told: bool) -> None:
        again: dict[str, Any] = {
            "state": EntryState.WAITING,
            "due_in_seconds": 0.0,
            "hold_seconds": 0.0,
        }
        await self.end(told, {"outcome": Outcome(OutcomeKind.ERROR), **again}, again=True)

    async def end(self, told: bool, changes: dict[str, Any], *, again: bool = False) -> None:
        del told
        if self.called:
            entry = self.called.pop()
            # The agent's word, committed or not.
            self.allowed.update(one.event_id for one in entry.messages if again)
            await self.world.settle(entry, **changes)

    async def check(self) -> None:
        """No call that nobody asked for; and what was called and not settled well is not ready."""
        for event_id, calls in self.calls.items():
            assert calls <= 1 + self.allowed[event_id], event_id


GATHERING = Gathering(5, 30)
STEPS = ("claim", "begin", "give_back", "succeed", "fail", "ask_again")
CRASHES = ("never", "never", "never", "before", "during", "after")


@pytest.mark.parametrize("gathered", [1, 3])
@pytest.mark.parametrize("seed", range(3))
async def test_no_crash_calls_an_agent_twice(closed_world: World, seed: int, gathered: int) -> None:
    """Before, during and after every commit of an attempt, on either engine; no message of a burst
    is handed over again either.
    """
    world = closed_world
    world.options["gathering_of"] = lambda _: GATHERING if gathered > 1 else None
    await world.open()
    model = Model(world)
    for crash in ("before", "during", "after"):
        for at in range(3):
            for number in range(gathered):
                text = f"{seed} {crash} {at} {number}"
                await world.accept(text, sender=f"+336399800{seed}{at}")
            world.clock.move(GATHERING.seconds)
            for number, what in enumerate(("claim", "begin", STEPS[3 + seed % 3])):
                await model.step(what, crash=crash if number == at else "never")
                await model.check()
            await model.die()
            await model.check()
    assert sum(model.calls.values()) > 0


@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(CRASHES)), max_size=12),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_no_story_calls_an_agent_twice(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, str]], gather: bool
) -> None:
    """Any steps, with a process that dies anywhere among them."""

    async def whole() -> None:
        world = SqliteWorld(tmp_path_factory.mktemp("story"))
        world.options["gathering_of"] = lambda _: GATHERING if gather else None
        await world.open()
        try:
            model = Model(world)
            for number in range(6 if gather else 3):
                await world.accept(f"{number}", sender=f"+3363998000{number % 3}")
            world.clock.move(GATHERING.seconds)
            for what, crash in story:
                await model.step(what, crash=crash)
                await model.check()
            await model.die()
            while await world.claim(1):  # what is left may begin, and had not
                pass
            states = await world.states()
            assert set(states) <= {"running", "done", "dead", "waiting"}
        finally:
            await world.journal.close()

    asyncio.run(whole())


async def test_a_journal_that_is_away_begins_nothing(world: World) -> None:
    """Whoever asks is told so at once, and calls nobody."""
    await world.accept("campaign")
    (entry,) = await world.claim()
    closed: SqlJournal = world.journals.pop()
    await closed.close()
    with pytest.raises(JournalUnavailable):
        await closed.begin(entry)
    await world.open()
