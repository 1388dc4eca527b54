"""What the stages rely on: each behaviour of the contract, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.config.values import Rate
from berinia_webhookd.journal.contract import (
    Budget,
    ClaimRequest,
    FailureReply,
    Guard,
    ReplayedSignature,
    Reply,
    ReplyRoute,
    Settlement,
)
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import (
    AgentName,
    ConsentState,
    Decoded,
    Entry,
    EntryKind,
    EntryState,
    Event,
    OptOut,
    Outcome,
    OutcomeKind,
    Pause,
    PauseRequest,
    Receipt,
    Receipts,
)
from berinia_webhookd.testing import AGENT, a_delivery, an_event

from .world import Clock, World

SAID = Outcome(OutcomeKind.SUCCESS, reply="said")
BROKEN = Outcome(OutcomeKind.EXCEPTION, error="broken")
OTHER_SENDER = "+33639980002"


@pytest.fixture
def clock(closed_world: World) -> Clock:
    return closed_world.clock


@pytest.fixture
def journal(world: World) -> SqlJournal:
    return world.journal


async def accept(journal: SqlJournal, *events: Event, **more: Any) -> Receipts:
    return await journal.accept(a_delivery(events[0]), Decoded(events), **more)


async def claim(
    journal: SqlJournal, limit: int = 9, kind: EntryKind = EntryKind.AGENT, agent: AgentName = AGENT
) -> Sequence[Entry]:
    return (await journal.claim([ClaimRequest(kind, frozenset({agent}), limit)])).entries


async def bodies(journal: SqlJournal, limit: int = 9) -> list[str]:
    return [entry.event.body for entry in await claim(journal, limit)]


def done(entry: Entry, **changes: Any) -> Settlement:
    """A success, unless changed."""
    success = Outcome(OutcomeKind.SUCCESS)
    return replace(Settlement(entry, success, took_seconds=1, state=EntryState.DONE), **changes)


def pausing(seconds: float | None = None) -> Outcome:
    """An agent hands its conversation over."""
    return Outcome(OutcomeKind.SUCCESS, pause=Pause("agent", seconds=seconds))


def failed(entry: Entry, *, due_in_seconds: float, hold_seconds: float = 300) -> Settlement:
    return done(
        entry,
        outcome=BROKEN,
        state=EntryState.WAITING,
        retries=entry.retries + 1,
        due_in_seconds=due_in_seconds,
        hold_seconds=hold_seconds,
    )


async def test_an_event_is_accepted_once(journal: SqlJournal) -> None:
    """Whatever it comes with again: the receipt of the first time."""
    (first,) = await accept(journal, an_event("one"))
    assert (first.agent, first.duplicate) == (AGENT, False)
    again, new = await accept(journal, an_event("one"), an_event("two"))
    assert again == Receipt(first.event_id, AGENT, duplicate=True)
    assert not new.duplicate
    assert await bodies(journal) == ["one"]


async def test_a_signature_belongs_to_one_message(journal: SqlJournal) -> None:
    """The same message again is a duplicate, another one is refused."""
    event = an_event("one")
    delivery = a_delivery(event, replay_key=b"key")
    (first,) = await journal.accept(delivery, Decoded((event,)))
    assert await journal.accept(delivery, Decoded((event,))) == (first._replace(duplicate=True),)
    with pytest.raises(ReplayedSignature):
        await journal.accept(delivery, Decoded((an_event("two"),)))


async def test_a_conversation_is_in_order_and_others_run_beside_it(journal: SqlJournal) -> None:
    """One at a time of one, up to the limit of all."""
    await accept(journal, an_event("one"))
    await accept(journal, an_event("two"))
    await accept(journal, an_event("three", sender=OTHER_SENDER))
    await accept(journal, an_event("four", sender="+33639980003"))
    first, second = await claim(journal, 2)
    assert [first.event.body, second.event.body] == ["one", "three"]
    assert await bodies(journal) == ["four"]
    await journal.settle(done(first))
    assert await bodies(journal) == ["two"]


async def test_only_what_is_asked_for_is_claimed(journal: SqlJournal) -> None:
    """Entries of other agents stay, and their agents are known to wait."""
    await accept(journal, an_event("one", agent=AgentName("Other")))
    assert await bodies(journal) == []
    assert await journal.agents_waiting() == {"Other"}
    (entry,) = await claim(journal, agent=AgentName("Other"))
    assert entry.event.body == "one"


async def test_a_retry_holds_its_conversation_back_for_a_while(
    journal: SqlJournal, clock: Clock
) -> None:
    """Until it has been tried again, or the time to hold is over."""
    await accept(journal, an_event("one"))
    await accept(journal, an_event("two"))
    (entry,) = await claim(journal)
    await journal.settle(failed(entry, due_in_seconds=60, hold_seconds=90))
    claimed = await journal.claim([ClaimRequest(EntryKind.AGENT, None, 9)])
    assert (claimed.entries, claimed.next_due_seconds) == ([], 60)
    clock.move(60)
    (entry,) = await claim(journal)
    assert (entry.event.body, entry.attempt, entry.retries) == ("one", 2, 1)
    await journal.settle(failed(entry, due_in_seconds=600, hold_seconds=90))
    assert await bodies(journal) == []
    clock.move(30)
    assert await bodies(journal) == ["two"]


async def test_an_opt_out_overtakes_what_is_held_back(journal: SqlJournal) -> None:
    """Not what runs."""
    await accept(journal, an_event("one"))
    (running,) = await claim(journal)
    await accept(journal, an_event("two"))
    await accept(journal, an_event("STOP", opt_out=OptOut.STOP))
    assert await bodies(journal) == []
    await journal.settle(failed(running, due_in_seconds=60))
    assert await bodies(journal) == ["STOP"]


async def test_an_opt_out_overtakes_what_is_ready(journal: SqlJournal) -> None:
    """But for another one; a question for help does not."""
    await accept(journal, an_event("one"))
    (running,) = await claim(journal)
    for text, opt_out in (("HELP", OptOut.HELP), ("STOP", OptOut.STOP), ("START", OptOut.START)):
        await accept(journal, an_event(text, opt_out=opt_out))
    seen = []
    for _ in range(3):
        await journal.settle(done(running))
        (running,) = await claim(journal)
        seen.append(running.event.body)
    assert seen == ["STOP", "START", "HELP"]


async def test_consents_are_those_of_the_start_of_an_attempt(journal: SqlJournal) -> None:
    """STOP says so to its own attempt; a word that may mean START does once it is the answer."""
    word = an_event("Yes")
    said = [
        an_event("one"),
        an_event("STOP", opt_out=OptOut.STOP),
        word._replace(as_start=word._replace(opt_out=OptOut.START)),
        an_event("two"),
    ]
    heard = []
    for event in said:
        (receipt,) = await accept(journal, event)
        (entry,) = await claim(journal)
        await journal.settle(done(entry))
        state = None if entry.consent is None else entry.consent.state
        heard.append((receipt.consent, entry.event.opt_out, state))
    assert heard == [
        (None, None, None),
        (ConsentState.OPTED_OUT, OptOut.STOP, ConsentState.OPTED_OUT),
        (ConsentState.OPTED_IN, OptOut.START, ConsentState.OPTED_IN),
        (None, None, ConsentState.OPTED_IN),
    ]


async def test_an_agent_hands_its_conversation_over(journal: SqlJournal, clock: Clock) -> None:
    """Then nothing of it is claimed for so long, but for opt-outs."""
    await accept(journal, an_event("one"))
    (one,) = await claim(journal)
    await journal.settle(done(one, outcome=pausing(100)))
    await accept(journal, an_event("two"))
    await accept(journal, an_event("STOP", opt_out=OptOut.STOP))
    (stop,) = await claim(journal)
    assert stop.event.body == "STOP"
    await journal.settle(done(stop, outcome=pausing(10)))  # the longest counts
    request = ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 9)
    assert (await journal.claim([request])).next_due_seconds == 100
    clock.move(100)
    assert await bodies(journal) == ["two"]


async def test_a_channel_pauses_everybody_of_a_group(journal: SqlJournal) -> None:
    """Those that wrote, and those that write there for the first time; once."""
    one = an_event("one")
    await accept(journal, one)
    group = PauseRequest(one.channel, None, one.conversation.party, Pause("bot"))
    assert await journal.pause([group]) == 2  # with the word for whoever comes
    assert await journal.pause([group]) == 0
    await accept(journal, an_event("two", sender=OTHER_SENDER))
    assert await bodies(journal) == []


async def test_a_person_called_star_is_not_everybody(journal: SqlJournal) -> None:
    """Whoever writes there later is not held by their pause."""
    channel, _, party = an_event("one").conversation
    assert await journal.pause([PauseRequest(channel, "*", party, Pause("bot"))]) == 1
    await accept(journal, an_event("one", sender="*"))
    await accept(journal, an_event("two", sender=OTHER_SENDER))
    assert await bodies(journal) == ["two"]


async def test_a_channel_pauses_a_person_before_the_first_word(journal: SqlJournal) -> None:
    """In the one conversation that is meant; somebody alone is meant wherever they wrote."""
    one, other = an_event("one"), an_event("two", sender=OTHER_SENDER)
    about = (one.channel, one.conversation.sender, one.conversation.party)
    assert await journal.pause([PauseRequest(*about, Pause("bot"))]) == 1
    await accept(journal, one)
    await accept(journal, other)
    assert await bodies(journal, 1) == ["two"]
    alone = PauseRequest(other.channel, other.conversation.sender, None, Pause("bot"))
    assert await journal.pause([alone]) == 1


async def test_without_a_time_a_pause_does_not_end(journal: SqlJournal, clock: Clock) -> None:
    """Neither by itself, nor by a shorter one; what the agent said is posted all the same."""
    await accept(journal, an_event("one"))
    (one,) = await claim(journal)
    await journal.settle(done(one, outcome=replace(pausing(), reply="said"), late=True))
    (reply,) = await claim(journal, kind=EntryKind.REPLY)
    await journal.settle(done(reply, outcome=pausing(5)))
    await accept(journal, an_event("two"))
    clock.move(1_000_000)
    claimed = await journal.claim([ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 9)])
    assert (claimed.entries, claimed.next_due_seconds) == ([], None)


async def test_an_agent_that_fails_is_tried_with_one_entry_at_a_time(
    journal: SqlJournal, clock: Clock
) -> None:
    """After five failures, until one succeeds."""
    told = []
    for number in range(5):
        (entry,) = await accept_and_claim(journal, f"broken {number}", clock)
        told.append(
            (await journal.settle(done(entry, outcome=BROKEN, state=EntryState.DEAD))).failures
        )
    assert told == [None, None, 3, None, 5]
    assert not await accept_and_claim(journal, "one", clock, seconds=0)
    await accept(journal, an_event("two", sender=OTHER_SENDER))
    clock.move(1)
    (entry,) = await claim(journal)
    assert not await claim(journal)
    assert (await journal.settle(done(entry))).failures == 0
    assert len(await claim(journal)) == 1


async def test_a_day_has_its_cost_and_a_person_so_many_runs(
    journal: SqlJournal, clock: Clock
) -> None:
    """What is over a budget is held once, and flows when it is free."""
    budgets = {AGENT: Budget(daily_cost=5, per_sender=(Rate(1, 60),))}
    request = ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 9, budgets)
    for text in ("one", "two"):
        await accept(journal, an_event(text))
        held = await journal.claim([request])
        for entry in held.entries:
            await journal.settle(done(entry, outcome=replace(SAID, cost=5.0)))
    (daily,) = held.holds
    assert daily.guard is Guard.BUDGET
    assert daily.seconds == held.next_due_seconds
    assert not (await journal.claim([request])).holds
    cheap = replace(request, budgets={AGENT: Budget(per_sender=(Rate(1, 60),))})
    (personal,) = (await journal.claim([cheap])).holds
    assert (personal.guard, personal.seconds) == (Guard.BUDGET, 60)
    assert not (await journal.claim([cheap])).holds
    clock.move(60)
    assert len((await journal.claim([cheap])).entries) == 1


async def test_the_third_time_of_the_same_text_is_held(journal: SqlJournal, clock: Clock) -> None:
    """With what stands behind it; STOP passes."""
    request = ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 9)
    for number in range(3):
        clock.move(100)
        await accept(journal, an_event("away")._replace(digest=bytes([number] * 32)))
        held = await journal.claim([request])
        for entry in held.entries:
            await journal.settle(done(entry))
    (hold,) = held.holds
    assert (hold.guard, hold.seconds) == (Guard.LOOP, None)
    assert not await accept_and_claim(journal, "behind", clock)
    (stop,) = await accept_and_claim(journal, "STOP", clock, opt_out=OptOut.STOP)
    assert stop.event.body == "STOP"


async def accept_and_claim(
    journal: SqlJournal, text: str, clock: Clock, *, seconds: float = 61, **changes: Any
) -> Sequence[Entry]:
    """A message that comes a while after the one before."""
    clock.move(seconds)
    await accept(journal, an_event(text, **changes))
    return await claim(journal)


async def test_what_is_given_back_is_claimed_again_at_no_cost(journal: SqlJournal) -> None:
    """The lease is lost: what comes of that run is not recorded."""
    await accept(journal, an_event("one"))
    (entry,) = await claim(journal)
    assert list(await journal.renew([entry])) == []
    await journal.release([entry])
    assert list(await journal.renew([entry])) == [entry]
    assert not (await journal.settle(done(entry))).kept
    (again,) = await claim(journal)
    assert (again.event.body, again.attempt) == ("one", 1)


async def test_a_waiting_caller_gets_the_reply(journal: SqlJournal) -> None:
    """As soon as it is there; and whoever asks again gets the same."""
    (receipt,) = await accept(journal, an_event("one"), wait_seconds=30)
    (entry,) = await claim(journal)
    waiting = asyncio.create_task(journal.wait_for_reply(receipt.event_id, 30))
    assert (await journal.settle(done(entry, outcome=SAID))).reply is ReplyRoute.INLINE
    assert await waiting == Reply("said", failed=False)
    assert await journal.wait_for_reply(receipt.event_id, 0) == Reply("said", failed=False)
    assert await journal.stop_waiting(receipt.event_id, hung_up=False) == Reply("said", False)


async def test_an_agent_that_says_nothing_ends_the_waiting(journal: SqlJournal) -> None:
    """At once."""
    (receipt,) = await accept(journal, an_event("one"), wait_seconds=30)
    (entry,) = await claim(journal)
    waiting = asyncio.create_task(journal.wait_for_reply(receipt.event_id, 30))
    assert (await journal.settle(done(entry))).reply is ReplyRoute.NONE
    assert await waiting is None


@pytest.mark.parametrize("late", [True, False])
async def test_a_reply_that_nobody_waits_for_is_posted_late(
    journal: SqlJournal, late: bool
) -> None:
    """As an entry of its own, where that is possible."""
    (receipt,) = await accept(journal, an_event("one"), wait_seconds=30)
    (entry,) = await claim(journal)
    assert await journal.stop_waiting(receipt.event_id, hung_up=False) is None
    settled = await journal.settle(done(entry, outcome=SAID, late=late))
    assert settled.reply is (ReplyRoute.LATE if late else ReplyRoute.UNDELIVERABLE)
    replies = await claim(journal, kind=EntryKind.REPLY)
    assert [reply.reply_text for reply in replies] == ["said"] * late


async def test_a_caller_who_hung_up_gets_it_late(journal: SqlJournal) -> None:
    """What was decided inline, and not handed over."""
    (receipt,) = await accept(journal, an_event("one"), wait_seconds=30)
    (entry,) = await claim(journal)
    await journal.settle(done(entry, outcome=SAID, late=True))
    assert await journal.stop_waiting(receipt.event_id, hung_up=True) is None
    (reply,) = await claim(journal, kind=EntryKind.REPLY)
    assert (reply.reply_text, reply.event_id) == ("said", receipt.event_id)


async def test_an_error_can_be_the_answer(journal: SqlJournal) -> None:
    """To a caller that waits: what is done has been answered."""
    (receipt,) = await accept(journal, an_event("one"), wait_seconds=30)
    (entry,) = await claim(journal)
    sorry = replace(BROKEN, reply="sorry")
    settlement = done(entry, outcome=sorry, late=True)
    assert (await journal.settle(settlement)).reply is ReplyRoute.INLINE
    assert await journal.wait_for_reply(receipt.event_id, 0) == Reply("sorry", failed=True)
    assert (await journal.backlog()).entries[EntryState.DONE] == 1


async def test_who_is_told_of_a_failure_is_told_once(journal: SqlJournal) -> None:
    """Where the agent said nothing, to a caller that waits, or later."""
    (receipt,) = await accept(journal, an_event("one"), wait_seconds=30)
    (entry,) = await claim(journal)
    assert await journal.begin(entry)
    told = FailureReply("it failed", late=True)
    settlement = done(entry, outcome=BROKEN, state=EntryState.DEAD, failure_reply=told)
    assert (await journal.settle(settlement)).reply is ReplyRoute.INLINE
    assert await journal.wait_for_reply(receipt.event_id, 0) == Reply("it failed", failed=True)
    assert not await journal.begin(entry)


async def test_work_wakes_who_waits_for_it(journal: SqlJournal) -> None:
    """An arrival and an outcome do."""
    assert await bodies(journal) == []
    waiting = asyncio.create_task(journal.wait_for_work(None))
    await accept(journal, an_event("one"))
    await waiting
    (entry,) = await claim(journal)
    waiting = asyncio.create_task(journal.wait_for_work(None))
    await journal.settle(done(entry))
    await waiting


async def test_the_backlog_counts_and_measures(journal: SqlJournal, clock: Clock) -> None:
    """By state, and how long the oldest ready entry of an agent has been there."""
    await accept(journal, an_event("one"))
    clock.move(5)
    await accept(journal, an_event("two"))
    backlog = await journal.backlog()
    assert backlog.entries[EntryState.READY] == 2
    assert backlog.oldest_ready_seconds == {AGENT: 5}


async def test_a_delivery_can_be_had_again(journal: SqlJournal) -> None:
    """By its event, as it was verified."""
    event = an_event("one")
    (receipt,) = await accept(journal, event)
    assert await journal.delivery_of(receipt.event_id) == a_delivery(event)


async def test_what_cannot_be_read_is_no_event(journal: SqlJournal) -> None:
    """It is kept, and nobody gets it."""
    await journal.reject(a_delivery(an_event("one")), {"missing": ["Body"]})
    assert await bodies(journal) == []
    assert sum((await journal.backlog()).entries.values()) == 0


GATHERING = Gathering(5, 30)


@pytest.fixture
async def gathering(closed_world: World) -> SqlJournal:
    """A journal whose agents gather."""
    return await closed_world.open(gathering_of=lambda _: GATHERING)


async def bursts(journal: SqlJournal) -> list[list[str]]:
    return [[one.event.body for one in entry.messages] for entry in await claim(journal)]


async def test_a_burst_is_one_entry(gathering: SqlJournal, clock: Clock) -> None:
    """Once its conversation is silent, or has been written in for too long."""
    for text in ("one", "two", "three"):
        clock.move(4)
        await accept(gathering, an_event(text))
    assert await bursts(gathering) == []
    await accept(gathering, an_event("HELP", opt_out=OptOut.HELP))
    await accept(gathering, an_event("STOP", opt_out=OptOut.STOP))
    (stop,) = await claim(gathering)
    await gathering.settle(done(stop))
    clock.move(5)
    (burst,) = await claim(gathering)
    assert burst.text == "one\ntwo\nthree"
    await gathering.settle(done(burst))
    assert await bursts(gathering) == [["HELP"]]
    backlog = await gathering.backlog()
    assert backlog.entries[EntryState.DONE] == 4


async def test_a_burst_is_given_back_or_tried_again(gathering: SqlJournal, clock: Clock) -> None:
    """Untried it takes what came since, tried it does not."""
    await accept(gathering, an_event("one"))
    await accept(gathering, an_event("two"))
    clock.move(5)
    (burst,) = await claim(gathering)
    await accept(gathering, an_event("three"))
    await gathering.release([burst])
    clock.move(5)
    (burst,) = await claim(gathering)
    assert burst.text == "one\ntwo\nthree"
    await gathering.settle(failed(burst, due_in_seconds=10))
    await accept(gathering, an_event("four"))
    clock.move(10)
    (burst,) = await claim(gathering)
    assert burst.text == "one\ntwo\nthree"
    await gathering.settle(done(burst))
    assert await bursts(gathering) == [["four"]]


async def test_a_bursts_reply_is_its_last_callers(gathering: SqlJournal, clock: Clock) -> None:
    """The others are told at once that there is none for them."""
    receipts = [
        (await accept(gathering, an_event(text), wait_seconds=wait))[0]
        for text, wait in (("one", 60), ("two", 60), ("three", 1))
    ]
    clock.move(5)
    (burst,) = await claim(gathering)
    settled = await gathering.settle(done(burst, outcome=SAID, late=True))
    assert settled.reply is ReplyRoute.INLINE
    replies = [await gathering.wait_for_reply(one.event_id, 0) for one in receipts]
    assert [reply and reply.text for reply in replies] == [None, "said", None]
    assert all(replies)
