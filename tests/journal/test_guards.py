"""What guards hold stays ready, is told once, lets opt-outs pass, and flows when they let go."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from berinia_webhookd.journal.contract import Budget, Claimed, ClaimRequest, Settled
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import (
    AgentName,
    Entry,
    EntryKind,
    EntryState,
    Guard,
    OptOut,
    Outcome,
    OutcomeKind,
    Word,
)

from .world import AGENT, LEASE_SECONDS, PostgresqlWorld, World, on_postgresql

BROKEN = Outcome(OutcomeKind.EXCEPTION, error="broken")
OTHER = AgentName("MetaAgent")
DAY_SECONDS = 86_400
NUMBERS = itertools.count(1000)


def someone(number: int) -> str:
    return f"+3363998{number:04d}"


async def fail(world: World, entry: Entry, outcome: Outcome = BROKEN) -> Settled:
    """An attempt that nobody repeats."""
    return await world.settle(entry, outcome=outcome, state=EntryState.DEAD)


async def fail_in_a_row(world: World, times: int, outcome: Outcome = BROKEN) -> list[int | None]:
    """Attempts of different people; returns what is told of each."""
    told = []
    for _ in range(times):
        number = next(NUMBERS)
        await world.accept(f"failing {number}", sender=someone(number))
        (entry,) = await world.claim()
        told.append((await fail(world, entry, outcome)).failures)
    return told


async def claimed(
    world: World, budgets: Mapping[AgentName, Budget] | None = None, **changes: Any
) -> Claimed:
    request = ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 100, budgets or {})
    return await world.journal.claim([replace(request, **changes)])


def bodies(claimed: Claimed) -> list[str]:
    return [entry.event.body for entry in claimed.entries]


# ---- the breaker


async def test_three_failures_and_five_are_told(world: World) -> None:
    """Over all conversations, and each once."""
    assert await fail_in_a_row(world, 5) == [None, None, 3, None, 5]


async def test_an_agent_that_fails_is_tried_with_one_entry_at_a_time(world: World) -> None:
    """The oldest, after a pause; what waits stays ready, and flows once it works."""
    await fail_in_a_row(world, 5)
    for number in range(4):
        await world.accept(f"waits {number}", sender=someone(number))
    held = await claimed(world)
    assert bodies(held) == []
    assert held.next_due_seconds == 1
    assert await world.states() == {"dead": 5, "ready": 4}
    world.clock.move(1)
    (entry,) = (await claimed(world)).entries
    assert entry.event.body == "waits 0"
    assert bodies(await claimed(world)) == []  # one at a time
    assert (await world.settle(entry)).failures == 0
    assert bodies(await claimed(world)) == ["waits 1", "waits 2", "waits 3"]


async def test_the_pauses_double_up_to_a_minute(world: World) -> None:
    """1, 2, 4 … 60 s after each try that failed."""
    await fail_in_a_row(world, 5)
    for number in range(9):
        await world.accept(f"waits {number}", sender=someone(number))
    pauses = []
    for _ in range(8):
        held = await claimed(world)
        assert not held.entries
        assert held.next_due_seconds is not None
        pauses.append(held.next_due_seconds)
        world.clock.move(held.next_due_seconds)
        (entry,) = (await claimed(world)).entries
        await fail(world, entry)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("kind", ["exception", "timeout", "crash", "unreachable", "error"])
async def test_every_kind_of_failure_counts(world: World, kind: str) -> None:
    """Also an error without a text."""
    told = await fail_in_a_row(world, 5, Outcome(OutcomeKind(kind), error="no"))
    assert told[-1] == 5


@pytest.mark.parametrize(
    "answer",
    [
        Outcome(OutcomeKind.SUCCESS),
        Outcome(OutcomeKind.ERROR, error="no", reply="I do not understand", word=Word.FAILED),
        Outcome(OutcomeKind.REJECTED, error="no more of this", word=Word.FAILED),
    ],
    ids=["success", "error with a text", "rejected"],
)
async def test_an_answer_ends_the_row(world: World, answer: Outcome) -> None:
    """The agent works, whatever it thinks of the message."""
    assert await fail_in_a_row(world, 4) == [None, None, 3, None]
    assert await fail_in_a_row(world, 1, answer) == [0]
    assert await fail_in_a_row(world, 4) == [None, None, 3, None]


async def test_a_failure_of_the_machine_says_nothing_of_the_agent(world: World) -> None:
    """Nor does an attempt that a stopping daemon ended."""
    machine = Outcome(OutcomeKind.UNREACHABLE, error="no room", uses_schedule=False)
    stopped = Outcome(OutcomeKind.STOPPED, error="stopped")
    assert await fail_in_a_row(world, 4) == [None, None, 3, None]
    assert await fail_in_a_row(world, 3, machine) == [None] * 3
    assert await fail_in_a_row(world, 3, stopped) == [None] * 3
    assert await fail_in_a_row(world, 1) == [5]


async def test_opt_outs_pass_an_agent_that_fails(world: World) -> None:
    """STOP is never held."""
    await fail_in_a_row(world, 5)
    await world.accept("waits", sender=someone(1))
    await world.accept("STOP", sender=someone(2), opt_out=OptOut.STOP)
    assert bodies(await claimed(world)) == ["STOP"]


async def test_another_agent_goes_on(world: World) -> None:
    """The breaker belongs to one agent."""
    await fail_in_a_row(world, 5)
    await world.accept("for another", agent=OTHER)
    request = ClaimRequest(EntryKind.AGENT, frozenset({AGENT, OTHER}), 100)
    assert bodies(await world.journal.claim([request])) == ["for another"]


async def test_late_replies_of_an_agent_that_fails_are_posted(world: World) -> None:
    """They are not the agent's work."""
    await world.accept("asked", sender=someone(1))
    (entry,) = await world.claim()
    await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, reply="said"), late=True)
    await fail_in_a_row(world, 5)
    posted = await world.journal.claim([ClaimRequest(EntryKind.REPLY, None, 9)])
    assert [one.reply_text for one in posted.entries] == ["said"]


async def test_the_row_outlives_the_process(world: World) -> None:
    """It stands in the journal: a restart does not let everything loose at a broken agent."""
    await fail_in_a_row(world, 5)
    await world.crash()
    world.clock.move(-LEASE_SECONDS - 1 if isinstance(world, PostgresqlWorld) else 0)
    await world.accept("waits", sender=someone(1))
    assert bodies(await claimed(world)) == []


async def test_a_try_that_was_lost_is_made_again(world: World) -> None:
    """A daemon that dies while it tries does not hold the agent for ever."""
    await fail_in_a_row(world, 5)
    await world.accept("waits", sender=someone(1))
    world.clock.move(1)
    assert bodies(await claimed(world)) == ["waits"]
    await world.crash()
    world.clock.move(60)
    assert bodies(await claimed(world)) == ["waits"]


@on_postgresql
async def test_nodes_try_one_entry_together(world: PostgresqlWorld) -> None:
    """Not one each."""
    await fail_in_a_row(world, 5)
    for number in range(4):
        await world.accept(f"waits {number}", sender=someone(number))
    world.clock.move(1)
    other = await world.open(node="there")
    request = ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 100)
    first: SqlJournal = world.journals[0]
    both = [await first.claim([request]), await other.claim([request])]
    assert [bodies(one) for one in both] == [["waits 0"], []]


async def test_an_operator_sees_why_nothing_starts(world: World) -> None:
    """On each message that waits, and how many conversations do."""
    await fail_in_a_row(world, 5)
    receipt = await world.accept("waits", sender=someone(1))
    stop = await world.accept("STOP", sender=someone(2), opt_out=OptOut.STOP)
    async with Operations(world.url, clock=world.clock) as operations:
        (shown,) = (await operations.show(receipt.event_id)).entries
        (passes,) = (await operations.show(stop.event_id)).entries
    assert shown.held is not None
    assert "its last 5 attempts" in shown.held
    assert passes.held is None
    assert (await world.journal.backlog()).held_conversations == {Guard.BREAKER: 2}


# ---- cost


async def spend(world: World, cost: float, number: int = 0) -> None:
    await world.accept(f"costs {cost}", sender=someone(2000 + number))
    (entry,) = await world.claim()
    await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, cost=cost))


async def test_an_agent_whose_budget_is_spent_waits_for_the_next_day(world: World) -> None:
    """What its results cost is added up; told once, however many wait."""
    budgets = {AGENT: Budget(daily_cost=5)}
    await spend(world, 3)
    await world.accept("still", sender=someone(1))
    (entry,) = (await claimed(world, budgets)).entries
    await world.settle(entry, outcome=replace(BROKEN, cost=2.5), state=EntryState.DEAD)
    for number in range(3):
        await world.accept(f"waits {number}", sender=someone(number))
    await world.accept("STOP", sender=someone(9), opt_out=OptOut.STOP)
    held = await claimed(world, budgets)
    assert bodies(held) == ["STOP"]
    (hold,) = held.holds
    assert (hold.guard, hold.agent) == (Guard.BUDGET, AGENT)
    assert "5.5" in hold.why
    left = DAY_SECONDS - world.clock.now.timestamp() % DAY_SECONDS
    assert held.next_due_seconds == hold.seconds == left
    assert not (await claimed(world, budgets)).holds
    assert (await world.journal.backlog()).held_conversations == {Guard.BUDGET: 3}
    world.clock.move(left)
    assert len((await claimed(world, budgets)).entries) == 3


async def test_cost_counts_although_no_budget_was_set(world: World) -> None:
    """So that one that is set at noon knows of the morning."""
    await spend(world, 3)
    await world.accept("waits", sender=someone(1))
    assert not (await claimed(world, {AGENT: Budget(daily_cost=3)})).entries
    assert bodies(await claimed(world, {AGENT: Budget(daily_cost=3.5)})) == ["waits"]


async def test_a_budget_without_messages_tells_nobody(world: World) -> None:
    """Nothing is held."""
    await spend(world, 3)
    assert not (await claimed(world, {AGENT: Budget(daily_cost=3)})).holds


async def test_each_day_has_a_budget_of_its_own(world: World) -> None:
    """Yesterday's cost is no part of it."""
    await spend(world, 3)
    world.clock.move(DAY_SECONDS)
    await spend(world, 1, 1)
    await world.accept("waits", sender=someone(1))
    assert bodies(await claimed(world, {AGENT: Budget(daily_cost=2)})) == ["waits"]
