"""What guards hold stays ready, is told once, lets opt-outs pass, and flows when they let go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from berinia_webhookd.config.values import Rate
from berinia_webhookd.journal.contract import Budget, Claimed, ClaimRequest, Guard, Settled
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.pause import Whose
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import (
    AgentName,
    AutoSubmitted,
    Conversation,
    Entry,
    EntryKind,
    EntryState,
    EventKind,
    OptOut,
    Outcome,
    OutcomeKind,
    Word,
)

from .world import (
    AGENT,
    LEASE_SECONDS,
    SMS,
    PostgresqlWorld,
    World,
    an_event,
    on_postgresql,
    traces,
)

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


async def held(world: World) -> dict[str, int]:
    """How many conversations each guard holds, as the metrics say."""
    found = (await world.journal.backlog()).held
    return {guard: one.conversations for guard, one in found.items()}


# ---- the breaker


async def test_three_failures_and_five_are_told(world: World) -> None:
    """Over all conversations, and each once."""
    assert await fail_in_a_row(world, 5) == [None, None, 3, None, 5]


async def test_an_agent_that_fails_is_tried_with_one_entry_at_a_time(world: World) -> None:
    """The oldest, after a pause; what waits stays ready, and flows once it works."""
    await fail_in_a_row(world, 5)
    for number in range(4):
        await world.accept(f"waits {number}", sender=someone(number))
    holding = await claimed(world)
    assert bodies(holding) == []
    assert holding.next_due_seconds == 1
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
        holding = await claimed(world)
        assert not holding.entries
        assert holding.next_due_seconds is not None
        pauses.append(holding.next_due_seconds)
        world.clock.move(holding.next_due_seconds)
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
        listed = await operations.list_conversations(paused=False, limit=2)
    assert shown.held is not None
    assert "its last 5 attempts" in shown.held
    assert passes.held is None
    assert {one.sender: len(one.held) for one in listed} == {someone(1): 1, someone(2): 0}
    assert await held(world) == {Guard.BREAKER: 1}


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
    holding = await claimed(world, budgets)
    assert bodies(holding) == ["STOP"]
    (hold,) = holding.holds
    assert (hold.guard, hold.agent) == (Guard.BUDGET, AGENT)
    assert "5.5" in hold.why
    left = DAY_SECONDS - world.clock.now.timestamp() % DAY_SECONDS
    assert holding.next_due_seconds == hold.seconds == left
    assert not (await claimed(world, budgets)).holds
    assert await held(world) == {Guard.BUDGET: 3}
    world.clock.move(left)
    assert len((await claimed(world, budgets)).entries) == 3


async def test_cost_counts_although_no_budget_was_set(world: World) -> None:
    """So that one that is set at noon knows of the morning."""
    await spend(world, 3)
    await world.accept("waits", sender=someone(1))
    assert not (await claimed(world, {AGENT: Budget(daily_cost=3)})).entries
    assert bodies(await claimed(world, {AGENT: Budget(daily_cost=3.5)})) == ["waits"]


async def test_a_budget_that_was_raised_holds_nothing_more(world: World) -> None:
    """Nor does anybody say so of what waits for something else."""
    await spend(world, 3)
    await world.accept("waits", sender=someone(1))
    await claimed(world, {AGENT: Budget(daily_cost=3)})
    assert await held(world) == {Guard.BUDGET: 1}
    assert bodies(await claimed(world, {AGENT: Budget(daily_cost=9)})) == ["waits"]
    await world.accept("next", sender=someone(2))
    assert await held(world) == {}


async def test_what_two_budgets_hold_is_counted_once(world: World) -> None:
    """That of the person, and that of the day."""
    for _ in range(3):
        await run_for(world, someone(1), HOURLY)
    await spend(world, 3)
    await world.accept("waits", sender=someone(2))
    await claimed(world, {AGENT: replace(HOURLY[AGENT], daily_cost=3)})
    assert await held(world) == {Guard.BUDGET: 2}


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


# ---- budgets for each person


HOURLY = {AGENT: Budget(per_sender=(Rate(2, 3600, "2/h"),))}


async def run_for(world: World, sender: str, budgets: Mapping[AgentName, Budget]) -> Claimed:
    """Another message of somebody; what may run does."""
    await world.accept(f"message {next(NUMBERS)}", sender=sender)
    found = await claimed(world, budgets)
    for entry in found.entries:
        await world.settle(entry)
    world.clock.move(100)
    return found


async def test_a_person_has_so_many_runs_in_an_hour(world: World) -> None:
    """What is more waits in its order, tells why once, and flows by itself."""
    for _ in range(2):
        assert len((await run_for(world, someone(1), HOURLY)).entries) == 1
    third = await run_for(world, someone(1), HOURLY)
    assert not third.entries
    (hold,) = third.holds
    assert (hold.guard, hold.channel, hold.seconds) == (Guard.BUDGET, "sms", 3400)
    assert "2/h" in hold.why
    fourth = await run_for(world, someone(1), HOURLY)
    assert not fourth.entries
    assert not fourth.holds
    assert fourth.next_due_seconds == 3300
    assert await world.states() == {"done": 2, "ready": 2}
    assert await held(world) == {Guard.BUDGET: 1}
    world.clock.move(3200)
    (entry,) = (await claimed(world, HOURLY)).entries
    assert entry.attempt == 1
    await world.settle(entry)
    assert (await claimed(world, HOURLY)).holds  # the second run is not long enough ago
    world.clock.move(100)
    assert len((await claimed(world, HOURLY)).entries) == 1


async def test_everybody_has_a_budget_of_their_own(world: World) -> None:
    """Over all their conversations, and nobody else's."""
    for _ in range(2):
        await run_for(world, someone(1), HOURLY)
    assert len((await run_for(world, someone(2), HOURLY)).entries) == 1
    elsewhere = Conversation(SMS, someone(1), "+33639980009")
    await world.accept("elsewhere", sender=someone(1), conversation=elsewhere)
    assert (await claimed(world, HOURLY)).holds


async def test_of_one_person_one_run_is_counted_at_a_time(world: World) -> None:
    """Two conversations that start in one claim do not share the last run."""
    await run_for(world, someone(1), HOURLY)
    for party in ("+33639980008", "+33639980009"):
        conversation = Conversation(SMS, someone(1), party)
        await world.accept(f"to {party}", sender=someone(1), conversation=conversation)
    assert len((await claimed(world, HOURLY)).entries) == 1
    assert (await claimed(world, HOURLY)).holds


@on_postgresql
async def test_nodes_let_no_run_too_many_through(world: PostgresqlWorld) -> None:
    """Two that claim for one person at once: one counts, the other looks again in a moment."""
    once = {AGENT: Budget(per_sender=(Rate(1, 3600, "1/h"),))}
    for party in ("+33639980008", "+33639980009"):
        conversation = Conversation(SMS, someone(1), party)
        await world.accept(f"to {party}", sender=someone(1), conversation=conversation)
    first, other = world.journal, await world.open(node="there")
    request = ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 1, once)
    async with world.connected() as connection, connection.transaction():
        await connection.execute("LOCK TABLE runs IN SHARE MODE")  # nobody gets to the commit
        claims = [asyncio.create_task(node.claim([request])) for node in (first, other)]
        while not any(one.done() for one in claims) and await waiting_for_runs(world) < len(claims):
            await asyncio.wait(claims, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
    found = await asyncio.gather(*claims)
    assert sum(len(one.entries) for one in found) == 1
    again = await claimed(world, once)
    assert not again.entries
    assert len(again.holds) == 1


async def waiting_for_runs(world: PostgresqlWorld) -> int:
    """How many sessions wait to note a run."""
    waiting = "SELECT 1 FROM pg_locks WHERE relation = 'runs'::regclass AND NOT granted"
    return len(await world.execute(waiting))


async def test_all_rates_hold(world: World) -> None:
    """The one that lasts longest decides."""
    budgets = {AGENT: Budget(per_sender=(Rate(1, 60, "1/m"), Rate(2, 86_400, "2/d")))}
    assert (await run_for(world, someone(1), budgets)).entries
    assert (await run_for(world, someone(1), budgets)).entries
    (hold,) = (await run_for(world, someone(1), budgets)).holds
    assert hold.seconds == DAY_SECONDS - 200


async def test_opt_outs_pass_a_budget(world: World) -> None:
    """Before what is held."""
    for _ in range(3):
        await run_for(world, someone(1), HOURLY)
    await world.accept("STOP", sender=someone(1), opt_out=OptOut.STOP)
    assert bodies(await claimed(world, HOURLY)) == ["STOP"]


async def test_runs_outlive_the_process(world: World) -> None:
    """They stand in the journal."""
    for _ in range(2):
        await run_for(world, someone(1), HOURLY)
    await world.crash()
    assert (await run_for(world, someone(1), HOURLY)).holds


async def test_what_is_given_back_was_no_run(world: World) -> None:
    """A daemon that stops does not use up anybody's budget."""
    await world.accept("one", sender=someone(1))
    for _ in range(5):
        (entry,) = (await claimed(world, HOURLY)).entries
        await world.journal.release([entry])
    assert (await claimed(world, HOURLY)).entries


async def test_a_retry_that_is_over_the_budget_waits_as_well(world: World) -> None:
    """It is ready then, and held; each attempt is a run."""
    await world.accept("one", sender=someone(1))
    for _ in range(2):
        (entry,) = (await claimed(world, HOURLY)).entries
        await world.fail(entry, retry_in=5)
        world.clock.move(10)
    assert (await claimed(world, HOURLY)).holds
    assert await world.states() == {"ready": 1}
    world.clock.move(3600)
    (entry,) = (await claimed(world, HOURLY)).entries
    assert (entry.attempt, entry.retries) == (3, 2)


async def test_somebody_who_resumes_lets_it_flow(world: World) -> None:
    """And the count begins anew."""
    for _ in range(3):
        await run_for(world, someone(1), HOURLY)
    async with Operations(world.url, clock=world.clock) as operations:
        assert (await operations.resume(Whose(someone(1)))).conversations
    await world.reopen()
    assert len((await claimed(world, HOURLY)).entries) == 1


async def test_erasure_forgets_when_somebody_was_answered(world: World) -> None:
    """No trace of them is left."""
    await run_for(world, someone(1), HOURLY)
    async with Operations(world.url, clock=world.clock) as operations:
        await operations.erase(someone(1))
    await world.reopen()
    assert not await traces(world, someone(1).encode())


# ---- loops


async def answer(world: World, text: str, after: float = 1, **changes: Any) -> Claimed:
    """A message some time after our reply to the last one; what may run is answered."""
    world.clock.move(after)
    await world.accept_event(an_event(text, digest=next(NUMBERS).to_bytes(32, "big"), **changes))
    found = await claimed(world)
    for entry in found.entries:
        await world.settle(entry)
    return found


async def test_the_third_time_of_the_same_text_in_a_day_is_held(world: World) -> None:
    """With what stands behind it; told once, and nothing is lost."""
    assert (await answer(world, "I am away", after=100)).entries
    assert (await answer(world, "something else", after=100)).entries
    assert (await answer(world, " I am away\n", after=3600)).entries
    holding = await answer(world, "I am away", after=3600)
    assert not holding.entries
    (hold,) = holding.holds
    assert (hold.guard, hold.seconds) == (Guard.LOOP, None)
    assert "the same text" in hold.why
    behind = await answer(world, "are you a machine?")
    assert not behind.entries
    assert not behind.holds
    assert behind.next_due_seconds is None
    assert await held(world) == {Guard.LOOP: 1}
    assert bodies(await answer(world, "STOP", opt_out=OptOut.STOP)) == ["STOP"]


async def test_the_same_text_of_another_day_or_person_is_no_loop(world: World) -> None:
    """Nor is no text at all."""
    for _ in range(4):
        assert (await answer(world, "oui", after=DAY_SECONDS / 2 + 1)).entries
    for number in range(4):
        assert (await answer(world, "non", after=100, sender=someone(number))).entries
    for _ in range(4):
        assert (await answer(world, "", after=100, sender=someone(9))).entries


async def test_ten_turns_at_once_are_held(world: World) -> None:
    """Each came within a minute of our reply to the one before."""
    for number in range(10):
        assert (await answer(world, f"turn {number}")).entries
    (hold,) = (await answer(world, "turn 10")).holds
    assert hold.guard is Guard.LOOP
    assert "within a minute" in hold.why


@pytest.mark.parametrize("pause", [61.0, DAY_SECONDS])
async def test_a_pause_ends_the_turns(world: World, pause: float) -> None:
    """People think, and sleep."""
    for number in range(40):
        after = pause if number % 9 == 0 else 59.0
        assert (await answer(world, f"turn {number}", after=after)).entries


async def test_who_does_not_wait_for_our_reply_is_no_machine(world: World) -> None:
    """A burst of messages, each quicker than our replies, is no loop."""
    for number in range(40):
        await world.accept(f"message {number}")
    for _ in range(40):
        (entry,) = (await claimed(world)).entries
        world.clock.move(1)
        await world.settle(entry)


async def test_where_callers_wait_nothing_said_is_no_reply(world: World) -> None:
    """An agent that only listens in a chat does not loop."""
    for number in range(20):
        world.clock.move(1)
        await world.accept_event(an_event(f"turn {number}"), wait_seconds=30)
        (entry,) = (await claimed(world)).entries
        await world.settle(entry)
    said = Outcome(OutcomeKind.SUCCESS, reply="yes")
    for number in range(20, 30):
        world.clock.move(1)
        await world.accept_event(an_event(f"turn {number}"), wait_seconds=30)
        (entry,) = (await claimed(world)).entries
        await world.settle(entry, outcome=said)
    world.clock.move(1)
    await world.accept_event(an_event("turn 30"), wait_seconds=30)
    assert (await claimed(world)).holds


async def test_a_mail_that_says_it_is_automatic_is_held(world: World) -> None:
    """If nothing skipped it; a bounce or a list answers nobody."""
    automatic = await answer(world, "away", auto_submitted=AutoSubmitted.AUTO_REPLY)
    (hold,) = automatic.holds
    assert (hold.guard, "automatic" in hold.why) == (Guard.LOOP, True)
    for number, kind in enumerate([AutoSubmitted.BOUNCE, AutoSubmitted.LIST]):
        assert (await answer(world, kind, auto_submitted=kind, sender=someone(20 + number))).entries


async def test_receipts_are_no_turns(world: World) -> None:
    """They come soon after what was sent, and mean nothing."""
    for number in range(20):
        found = await answer(world, f"{number % 2}", kind=EventKind.RECEIPT)
        assert found.entries


async def test_resuming_counts_anew(world: World) -> None:
    """What was held flows, and what follows may come twice again."""
    for _ in range(3):
        await answer(world, "I am away", after=100)
    async with Operations(world.url, clock=world.clock) as operations:
        assert (await operations.resume(Whose(an_event("").sender))).conversations
    await world.reopen()
    (entry,) = (await claimed(world)).entries
    await world.settle(entry)
    for _ in range(2):
        assert (await answer(world, "I am away", after=100)).entries
    assert (await answer(world, "I am away", after=100)).holds


async def test_a_hold_outlives_the_process(world: World) -> None:
    """It stands on the entry, with its reason."""
    for _ in range(3):
        await answer(world, "I am away", after=100)
    await world.crash()
    assert bodies(await claimed(world)) == []
    assert await world.states() == {"done": 2, "ready": 1}


async def test_an_operator_sees_what_holds_a_conversation(world: World) -> None:
    """On the message that was stopped."""
    for _ in range(3):
        await answer(world, "I am away", after=100)
    async with Operations(world.url, clock=world.clock) as operations:
        newest, *_ = await operations.list_events(Filters(state=EntryState.READY))
        (shown,) = (await operations.show(newest.id)).entries
    assert shown.held is not None
    assert shown.held.startswith("loop: the same text")


@on_postgresql
async def test_nothing_is_held_in_a_conversation_that_another_node_changes(
    world: PostgresqlWorld,
) -> None:
    """It is looked at again in a moment, and nobody waits for anybody."""
    for _ in range(2):
        await answer(world, "I am away", after=100)
    await world.accept_event(an_event("I am away", digest=bytes(32)))
    async with world.connected() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT id FROM conversations FOR UPDATE")
        busy = await claimed(world)
        assert not busy.entries
        assert not busy.holds
        assert busy.next_due_seconds is not None
        await transaction.rollback()
    assert (await claimed(world)).holds
