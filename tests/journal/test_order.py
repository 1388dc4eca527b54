"""Order and leases: what may start, when, and what becomes of leases."""

from __future__ import annotations

from typing import Any

import pytest

from berinia_webhookd.journal.contract import ClaimRequest
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Conversation,
    EntryKind,
    EntryState,
    OptOut,
    Outcome,
    OutcomeKind,
)

from .world import AGENT, World, an_event

OTHER = "+33639980002"
SOMEBODY = "+33639980004"


async def test_one_at_a_time_in_the_order_of_arrival(world: World) -> None:
    """A conversation's next entry starts when the one before has ended."""
    for text in ("one", "two", "three"):
        await world.accept(text)
    seen = []
    while entries := await world.claim():
        (entry,) = entries
        assert not await world.claim()
        seen.append(entry.event.body)
        await world.settle(entry)
    assert seen == ["one", "two", "three"]


async def test_conversations_run_side_by_side(world: World) -> None:
    """Each conversation's first is handed out, in the order of arrival."""
    await world.accept("a1")
    await world.accept("b1", sender=OTHER)
    await world.accept("a2")
    await world.accept("c1", sender="+33639980003")
    assert await world.claim_bodies() == ["a1", "b1", "c1"]


async def test_agents_have_lines_of_their_own(world: World) -> None:
    """The same conversation with another agent waits for nothing."""
    other = AgentName("MetaAgent")
    await world.accept("one")
    await world.accept("two", agent=other)
    assert [entry.event.body for entry in await world.claim(9, AGENT, other)] == ["one", "two"]


async def test_only_what_a_lane_can_take_is_leased(world: World) -> None:
    """Neither more than its limit, nor for other agents."""
    for number in range(5):
        await world.accept(f"m{number}", sender=f"+3363998000{number}")
    assert await world.claim(9, AgentName("Stranger")) == []
    assert await world.claim_bodies(2) == ["m0", "m1"]
    assert await world.claim_bodies(2) == ["m2", "m3"]


async def test_two_lanes_never_lease_the_same(world: World) -> None:
    """Lanes that overlap share what there is."""
    await world.accept("a")
    await world.accept("b", sender=OTHER)
    lanes = [ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 1)] * 3
    claimed = await world.journal.claim(lanes)
    assert [entry.event.body for entry in claimed.entries] == ["a", "b"]


async def test_a_failure_holds_its_conversation_back(world: World) -> None:
    """Later entries wait for the retry, but no longer than the hold since the first failure."""
    await world.accept("one")
    await world.accept("two")
    (one,) = await world.claim()
    await world.fail(one, retry_in=30, hold=100)
    assert (await world.claimed()).next_due_seconds == 30
    world.clock.move(29)
    assert await world.claim_bodies() == []
    world.clock.move(1)
    (one,) = await world.claim()
    assert (one.event.body, one.attempt, one.retries) == ("one", 2, 1)
    await world.fail(one, retry_in=1000)
    assert (await world.claimed()).next_due_seconds == 70
    world.clock.move(69)
    assert await world.claim_bodies() == []
    world.clock.move(1)
    assert await world.claim_bodies() == ["two"]


async def test_what_arrives_behind_a_long_retry_is_told_when(world: World) -> None:
    """An arrival behind a waiting entry starts when the hold ends, not when the retry is due."""
    await world.accept("one")
    (one,) = await world.claim()
    await world.fail(one, retry_in=1000, hold=100)
    await world.accept("two")
    assert (await world.claimed()).next_due_seconds == 100
    world.clock.move(100)
    assert await world.claim_bodies() == ["two"]


async def test_opt_outs_wait_for_a_running_one_only(world: World) -> None:
    """STOP overtakes what waits, also a retry, but not what runs."""
    await world.accept("one")
    (one,) = await world.claim()
    await world.accept("two")
    await world.accept("STOP", opt_out=OptOut.STOP)
    assert await world.claim_bodies() == []
    await world.fail(one, retry_in=30)
    assert await world.claim_bodies() == ["STOP"]


async def test_opt_outs_overtake_what_is_ready(world: World) -> None:
    """Behind the running one STOP is next, alone; then START; then what came before them."""
    await world.accept("one")
    (running,) = await world.claim()
    for text in ("two", "three"):
        await world.accept(text)
    for word in (OptOut.STOP, OptOut.START):
        await world.accept(word, opt_out=word)
    seen = []
    for _ in range(4):
        await world.settle(running)
        (running,) = await world.claim()
        seen.append(running.event.body)
    assert seen == ["STOP", "START", "two", "three"]


async def test_opt_outs_that_arrive_at_once_overtake_what_is_ready(world: World) -> None:
    """Also when nothing runs yet, and in one delivery with what they overtake."""
    await world.accept_events(an_event("one"), an_event("STOP", opt_out=OptOut.STOP))
    assert await world.claim_bodies() == ["STOP"]


async def test_start_waits_for_the_retry_of_stop(world: World) -> None:
    """Opt-outs keep their places among themselves, and the retry of one is due before the rest."""
    await world.accept("STOP", opt_out=OptOut.STOP)
    (stop,) = await world.claim()
    await world.accept("START", opt_out=OptOut.START)
    await world.fail(stop, retry_in=30)
    assert (await world.claimed()).next_due_seconds == 30
    world.clock.move(30)
    (stop,) = await world.claim()
    assert stop.event.body == "STOP"
    await world.settle(stop)
    assert await world.claim_bodies() == ["START"]


async def test_the_retry_of_stop_overtakes_once_it_is_due(world: World) -> None:
    """What was ready before it is overtaken by a retry as well."""
    for text in ("one", "two"):
        await world.accept(text)
    await world.accept("STOP", opt_out=OptOut.STOP)
    (stop,) = await world.claim()
    await world.fail(stop, retry_in=30)
    (one,) = await world.claim()
    assert one.event.body == "one"
    world.clock.move(31)
    await world.settle(one)
    assert await world.claim_bodies() == ["STOP"]


async def test_help_overtakes_nothing(world: World) -> None:
    """Who asks for help waits like everybody."""
    await world.accept("one")
    (one,) = await world.claim()
    await world.accept("two")
    await world.accept("HELP", opt_out=OptOut.HELP)
    await world.settle(one)
    assert await world.claim_bodies() == ["two"]


async def test_a_dead_entry_holds_nobody_back(world: World) -> None:
    """What will not be tried again lets the next one start."""
    await world.accept("one")
    await world.accept("two")
    (one,) = await world.claim()
    await world.settle(one, outcome=Outcome(OutcomeKind.REJECTED), state=EntryState.DEAD)
    assert await world.claim_bodies() == ["two"]
    assert await world.states() == {"dead": 1, "running": 1}


async def test_released_entries_start_as_if_never_leased(world: World) -> None:
    """Giving back costs neither place nor attempt nor schedule."""
    await world.accept("one")
    await world.accept("two")
    (one,) = await world.claim()
    await world.journal.release([one])
    (again,) = await world.claim()
    assert (again.id, again.attempt) == (one.id, 1)


async def test_what_died_running_runs_again_first(world: World) -> None:
    """After a crash the entry keeps its place and its schedule; the attempt counts as lost."""
    await world.accept("one")
    await world.accept("two")
    (one,) = await world.claim()
    await world.crash()
    (again,) = await world.claim()
    assert (again.id, again.attempt, again.retries) == (one.id, 2, 0)
    assert not (await world.settle(one)).kept
    assert (await world.settle(again)).kept


async def test_five_losses_are_death(world: World) -> None:
    """An entry that takes its daemon down with it does so five times at most."""
    await world.accept("deadly")
    for attempt in range(1, 6):
        assert world.journal.take_lost_for_good() == []
        (claimed,) = await world.claim()
        assert claimed.attempt == attempt
        await world.crash()
    (lost,) = world.journal.take_lost_for_good()
    assert (lost.event_id, lost.agent, lost.attempt) == (claimed.event_id, AGENT, 5)
    assert world.journal.take_lost_for_good() == []
    assert await world.claim() == []
    assert await world.states() == {"dead": 1}


async def test_a_lost_lease_settles_nothing(world: World) -> None:
    """Only the lease's holder records, and only once; renewing says what was lost."""
    await world.accept("one")
    (one,) = await world.claim()
    assert list(await world.journal.renew([one])) == []
    assert (await world.settle(one)).kept
    assert not (await world.settle(one)).kept
    assert list(await world.journal.renew([one])) == [one]
    assert await world.states() == {"done": 1}


async def test_senders_that_are_no_text_have_an_order_too(world: World) -> None:
    """Conversations of senders that no database can hold are told apart."""
    sms = ChannelName("sms")
    for sender in ("\ud800", "\ud801", "a\0b", "a\\x00b!"):
        await world.accept(sender=sender, conversation=Conversation(sms, sender, sender))
    assert len(await world.claim()) == 4


@pytest.mark.parametrize("backwards", [0, 86400])
async def test_a_clock_that_steps_back_stops_nothing_that_is_ready(
    world: World, backwards: float
) -> None:
    """Places, not clocks, decide about what is ready."""
    await world.accept("one")
    world.clock.move(-backwards)
    assert await world.claim_bodies() == ["one"]


async def test_waiting_for_work_ends_with_what_brings_it(world: World) -> None:
    """An arrival, and an outcome that frees its conversation, wake the dispatcher."""
    assert await world.claim() == []
    await world.accept("one")
    await world.journal.wait_for_work(None)
    (one,) = await world.claim()
    await world.accept("two")
    await world.journal.wait_for_work(None)
    assert await world.claim() == []
    await world.settle(one)
    await world.journal.wait_for_work(None)
    assert await world.claim_bodies() == ["two"]
    await world.journal.wait_for_work(0)


async def test_agents_waiting_are_those_with_open_entries(world: World) -> None:
    """What is finished needs no agent."""
    await world.accept("one")
    assert await world.journal.agents_waiting() == {AGENT}
    (one,) = await world.claim()
    assert await world.journal.agents_waiting() == {AGENT}
    await world.settle(one)
    assert await world.journal.agents_waiting() == frozenset()


async def test_the_backlog_counts_and_ages(world: World) -> None:
    """Every state is counted, and the oldest ready entry of each agent is known."""
    for text in ("one", "two"):
        await world.accept(text)
        world.clock.move(10)
    backlog: Any = await world.journal.backlog()
    assert backlog.entries[EntryState.READY] == 2
    assert backlog.oldest_ready_seconds == {AGENT: 20}
    await world.claim()
    backlog = await world.journal.backlog()
    assert backlog.entries[EntryState.RUNNING] == 1
    assert backlog.oldest_ready_seconds == {AGENT: 10}


async def test_an_event_keeps_its_delivery(world: World) -> None:
    """Attachments are read from what came in, byte for byte."""
    event = an_event("with attachment")
    receipt = await world.accept("with attachment")
    delivery = await world.journal.delivery_of(receipt.event_id)
    assert delivery is not None
    assert delivery.body == b"From=+33639980001&Body=with attachment"
    assert delivery.received_at == event.received_at
