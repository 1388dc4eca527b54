"""Bursts: several messages of one conversation, handed over as one attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.journal.contract import ClaimRequest, FailureReply, Reply, ReplyRoute
from berinia_webhookd.journal.gather import MOST_BYTES, MOST_MESSAGES
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import (
    ChannelName,
    Decoded,
    Entry,
    EntryKind,
    EntryState,
    Event,
    EventKind,
    OptOut,
    Outcome,
    OutcomeKind,
)

from .test_replies import REPLIES
from .world import LEASE_SECONDS, PostgresqlWorld, World, an_event, on_postgresql

SECONDS, MOST_SECONDS = 5, 30
GATHERING = Gathering(SECONDS, MOST_SECONDS)
SAID: dict[str, Any] = {"outcome": Outcome(OutcomeKind.SUCCESS, reply="got it"), "late": True}


@pytest.fixture
async def world(closed_world: World) -> World:
    """An open journal whose agents gather."""
    closed_world.options["gathering_of"] = lambda _: GATHERING
    await closed_world.open()
    return closed_world


def texts(entry: Entry) -> list[str]:
    return [one.event.body for one in entry.messages]


async def burst(world: World, *said: str, **changes: Any) -> Entry:
    """What is claimed of these messages together."""
    for text in said or ("one", "two", "three"):
        await world.accept(text, **changes)
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    return entry


async def test_a_run_begins_when_the_conversation_is_silent(world: World) -> None:
    """Each message begins the silence anew."""
    await world.accept("one")
    world.clock.move(SECONDS - 1)
    await world.accept("two")
    world.clock.move(SECONDS - 1)
    claimed = await world.claimed()
    assert (claimed.entries, claimed.next_due_seconds) == ([], 1)
    world.clock.move(1)
    (entry,) = await world.claim()
    assert texts(entry) == ["one", "two"]
    assert entry.text == "one\ntwo"
    assert await world.states() == {"running": 2}


async def test_who_never_stops_writing_is_heard_after_a_while(world: World) -> None:
    """The first message waits no longer than that."""
    for number in range(MOST_SECONDS):
        assert await world.claim() == []
        await world.accept(f"{number}")
        world.clock.move(1)
    (entry,) = await world.claim()
    assert len(entry.messages) == MOST_SECONDS


async def test_lists_say_what_is_waited_for(world: World) -> None:
    """Until when the conversation is to be silent; nothing once it was."""
    await world.accept("one")
    async with Operations(world.url, clock=world.clock) as desk:
        (one,) = (await desk.search(Filters())).events
        assert one.reason is not None
        assert one.reason.startswith("gathers until ")
        world.clock.move(SECONDS)
        (one,) = (await desk.search(Filters())).events
        assert one.reason is None


async def test_what_comes_while_one_runs_is_the_next_burst(world: World) -> None:
    """It waits for its own silence, and behind the one that runs."""
    first = await burst(world, "one", "two")
    await world.accept("three")
    await world.accept("four")
    world.clock.move(SECONDS)
    assert await world.claim() == []
    await world.settle(first)
    (second,) = await world.claim()
    assert texts(second) == ["three", "four"]


async def test_a_burst_shares_its_outcome(world: World) -> None:
    """Done together; one attempt is recorded, of the last."""
    entry = await burst(world)
    await world.settle(entry)
    assert await world.states() == {"done": 3}
    async with Operations(world.url, clock=world.clock) as desk:
        shown = [(await desk.show(one.event_id)).entries[0] for one in entry.messages]
        listed = await desk.list_events(Filters())
    assert [len(one.attempts) for one in shown] == [0, 0, 1]
    assert [one.gathered_into for one in shown] == [entry.event_id, entry.event_id, None]
    assert shown[-1].gathered == tuple(one.event_id for one in entry.members)
    assert [one.gathered_into for one in listed] == [None, entry.event_id, entry.event_id]


async def test_a_retry_takes_the_same_messages(world: World) -> None:
    """What comes meanwhile waits, and is a burst of its own."""
    entry = await burst(world)
    await world.fail(entry, retry_in=60)
    assert await world.states() == {"waiting": 3}
    await world.accept("four")
    world.clock.move(60)
    (again,) = await world.claim()
    assert (texts(again), again.attempt) == (["one", "two", "three"], 2)
    await world.settle(again)
    assert [texts(one) for one in await world.claim()] == [["four"]]


async def test_what_is_given_back_is_gathered_anew(world: World) -> None:
    """Nobody has seen it: what came since comes with it."""
    entry = await burst(world, "one", "two")
    await world.accept("three")
    await world.journal.release([entry])
    assert await world.states() == {"ready": 3}
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    assert (texts(entry), entry.attempt) == (["one", "two", "three"], 1)


async def test_what_is_given_back_of_a_retry_stays_together(world: World) -> None:
    """Its agent has seen it."""
    entry = await burst(world, "one", "two")
    await world.fail(entry, retry_in=1)
    await world.accept("three")
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    await world.journal.release([entry])
    (entry,) = await world.claim()
    assert texts(entry) == ["one", "two"]


async def test_a_crash_loses_no_message_and_repeats_the_same(world: World) -> None:
    """While they gather, and while they run; each loss counts for all."""
    await world.accept("one")
    await world.crash()
    entry = await burst(world, "two")
    assert texts(entry) == ["one", "two"]
    await world.accept("three")  # it waits behind them
    for _ in range(4):
        await world.crash()
        assert await world.states() == {"ready": 3}
        (entry,) = await world.claim()
        assert texts(entry) == ["one", "two"]
    await world.crash()
    assert await world.states() == {"dead": 2, "ready": 1}


async def test_a_burst_that_had_begun_is_never_begun_again(world: World) -> None:
    """All of its messages are in doubt, and replayed on purpose only, together."""
    entry = await burst(world)
    assert await world.journal.begin(entry)
    journal = await world.crash()
    assert await world.states() == {"dead": 3}
    assert [lost.event_id for lost in journal.take_lost_for_good()] == [entry.event_id]
    how: dict[str, Any] = {"decode": lambda _: Decoded(())}
    async with Operations(world.url, clock=world.clock) as desk:
        listed = await desk.list_events(Filters())
        changed = await desk.replay([entry.members[0].event_id], **how)
        again = await desk.replay([entry.members[0].event_id], once_again=True, **how)
    assert all(one.may_have_acted for one in listed)
    assert [one.passed_over for one in changed] == [True, True, True]
    assert [one.refused for one in again] == [None, None, None]
    (entry,) = await world.claim()
    assert texts(entry) == ["one", "two", "three"]
    await world.crash()
    assert await world.states() == {"ready": 3}  # it had not begun this time


@on_postgresql
async def test_a_late_result_counts_for_all(world: PostgresqlWorld) -> None:
    """Of an attempt that had begun and was taken for lost."""
    entry = await burst(world)
    assert await world.journal.begin(entry)
    other = await world.open(node="there")
    world.clock.move(LEASE_SECONDS + 1)
    await other.recover()
    assert await world.states() == {"dead": 3}
    assert (await world.settle(entry, world.journals[0])).kept
    assert await world.states() == {"done": 3}


async def test_opt_outs_come_first_and_alone(world: World) -> None:
    """STOP waits for no silence, and what was written around it is gathered without it."""
    await world.accept("one")
    await world.accept("STOP", opt_out=OptOut.STOP)
    await world.accept("two")
    (stop,) = await world.claim()
    assert texts(stop) == ["STOP"]
    world.clock.move(SECONDS)
    assert await world.claim() == []
    await world.settle(stop)
    (entry,) = await world.claim()
    assert texts(entry) == ["one", "two"]


async def test_what_follows_an_opt_out_is_not_handed_over_before_it(world: World) -> None:
    """STOP waits for its retry: what came after it waits behind it."""
    await world.accept("one")
    await world.accept("STOP", opt_out=OptOut.STOP)
    await world.accept("two")
    (stop,) = await world.claim()
    await world.fail(stop, retry_in=200)
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    assert texts(entry) == ["one"]
    await world.settle(entry)
    assert await world.claim() == []


async def test_words_and_receipts_are_not_gathered(world: World) -> None:
    """HELP and what became of our messages are not part of what somebody wrote."""
    await world.accept("one")
    await world.accept("HELP", opt_out=OptOut.HELP)
    await world.accept("read", kind=EventKind.RECEIPT)
    await world.accept("two")
    world.clock.move(SECONDS)
    seen = []
    while entries := await world.claim():
        seen += [texts(entry) for entry in entries]
        await world.settle(entries[0])
    assert seen == [["one", "two"], ["HELP"], ["read"]]


async def test_a_burst_has_bounds(world: World) -> None:
    """In messages and in bytes; what does not fit comes next, without another silence."""
    await asyncio.gather(*(world.accept() for _ in range(MOST_MESSAGES + 2)))
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    assert len(entry.messages) == MOST_MESSAGES
    await world.settle(entry)
    (entry,) = await world.claim()
    assert len(entry.messages) == 2
    await world.settle(entry)
    large = "x" * (MOST_BYTES // 2 - 4096)
    for number in range(3):
        await world.accept(f"{number}{large}", raw={})
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    assert len(entry.messages) == 2


async def test_a_message_larger_than_a_burst_comes_alone(world: World) -> None:
    """It comes, all the same."""
    await world.accept("x" * MOST_BYTES)
    await world.accept("two")
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    assert len(entry.messages) == 1


async def test_conversations_gather_apart(world: World) -> None:
    """Each for itself."""
    await world.accept("one")
    await world.accept("other", sender="+33639980002")
    world.clock.move(SECONDS)
    assert [texts(entry) for entry in await world.claim()] == [["one"], ["other"]]


async def test_only_agents_that_gather_do(closed_world: World) -> None:
    """The others get each message by itself, at once."""
    world = closed_world
    await world.open(gathering_of=lambda agent: GATHERING if agent == "Other" else None)
    await world.accept("one")
    await world.accept("two")
    (entry,) = await world.claim()
    assert texts(entry) == ["one"]


async def test_what_gathers_when_the_setting_goes_is_gathered_still(world: World) -> None:
    """It was received so; what comes later is handed over by itself."""
    await world.accept("one")
    await world.accept("two")
    await world.reopen(gathering_of=lambda _: None)
    await world.accept("three")
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    assert texts(entry) == ["one", "two"]
    await world.settle(entry)
    (entry,) = await world.claim()
    assert texts(entry) == ["three"]


async def test_giving_up_one_gives_up_its_burst(world: World) -> None:
    """They have one attempt, and one fate."""
    entry = await burst(world)
    await world.fail(entry, retry_in=60)
    async with Operations(world.url, clock=world.clock) as desk:
        changed = await desk.discard([entry.members[1].event_id])
    assert [one.id for one in changed] == [one.event_id for one in entry.messages]
    assert await world.states() == {"discarded": 3}
    world.clock.move(60)
    assert await world.claim() == []


async def test_what_is_replayed_is_gathered_again(world: World) -> None:
    """By state, by the id of one, and by all ids at once: each time one run."""
    entry = await burst(world)
    ids = [one.event_id for one in entry.messages]
    how: dict[str, Any] = {"decode": lambda _: Decoded(())}
    for wanted in ([], ids[:1], ids):
        await world.settle(entry, state=EntryState.DEAD)
        async with Operations(world.url, clock=world.clock) as desk:
            if wanted:
                changed = await desk.replay(wanted, **how)
            else:
                changed = await desk.replay_matching(Filters(state=EntryState.DEAD), **how)
        assert [(one.id, one.refused) for one in changed] == [(id_, None) for id_ in ids]
        (entry,) = await world.claim()
        assert [one.event_id for one in entry.messages] == ids


@pytest.mark.parametrize("tried", [False, True])
async def test_a_person_is_erased_while_they_gather(world: World, tried: bool) -> None:
    """And while they wait for their retry; nothing of them is claimed afterwards."""
    if tried:
        await world.fail(await burst(world), retry_in=60)
    await world.accept("four")
    await world.accept("other", sender="+33639980002")
    async with Operations(world.url, clock=world.clock) as desk:
        erased = await desk.erase("+33639980001")
    assert erased.events == (4 if tried else 1)
    world.clock.move(60)
    assert [texts(entry) for entry in await world.claim()] == [["other"]]


async def test_a_person_is_not_erased_while_they_are_handed_over(world: World) -> None:
    """None of a burst's messages; they are needed for the attempt."""
    entry = await burst(world)
    async with Operations(world.url, clock=world.clock) as desk:
        erased = await desk.erase("+33639980001", patience_seconds=0)
        assert set(erased.running) == {one.event_id for one in entry.messages}
        await world.settle(entry)
        assert (await desk.erase("+33639980001")).events == 3
    assert await world.states() == {"erased": 3}


async def accept_with_callers(world: World, *waits: float | None) -> Entry:
    """A burst in a chat whose callers wait for so long."""
    for number, wait in enumerate(waits):
        event = an_event(f"{number}", channel=ChannelName("whatsapp"), group="Leads")
        await world.accept_event(event, wait_seconds=wait)
    world.clock.move(SECONDS)
    (entry,) = await world.claim()
    return entry


async def test_the_last_caller_gets_the_reply(world: World) -> None:
    """The others are told that there is none for them, at once."""
    entry = await accept_with_callers(world, 60, 60, 60)
    waiting = [
        asyncio.ensure_future(world.journal.wait_for_reply(one.event_id, 60))
        for one in entry.messages
    ]
    await asyncio.sleep(0)
    assert (await world.settle(entry, **SAID)).reply is ReplyRoute.INLINE
    nothing = Reply(None, failed=False)
    assert await asyncio.gather(*waiting) == [nothing, nothing, Reply("got it", failed=False)]


async def test_the_last_who_still_waits_gets_the_reply(world: World) -> None:
    """Callers that are gone get nothing, and nothing is posted beside."""
    entry = await accept_with_callers(world, 60, 60, 1)
    assert (await world.settle(entry, **SAID)).reply is ReplyRoute.INLINE
    ids = [one.event_id for one in entry.messages]
    replies = [await world.journal.wait_for_reply(id_, 0) for id_ in ids]
    assert [reply and reply.text for reply in replies] == [None, "got it", None]
    assert (await world.journal.claim(REPLIES)).entries == []


async def test_a_reply_that_nobody_waits_for_is_posted_once(world: World) -> None:
    """In the chat, as ever."""
    entry = await accept_with_callers(world, 1, 1)
    assert (await world.settle(entry, **SAID)).reply is ReplyRoute.LATE
    (late,) = (await world.journal.claim(REPLIES)).entries
    assert (late.reply_text, late.event_id) == ("got it", entry.event_id)


async def test_a_failure_is_told_once(world: World) -> None:
    """To the last who waits; the others are told nothing."""
    entry = await accept_with_callers(world, 60, 60)
    sorry = FailureReply("sorry", late=True)
    settled = await world.settle(entry, state=EntryState.DEAD, failure_reply=sorry)
    assert settled.reply is ReplyRoute.INLINE
    replies = [await world.journal.wait_for_reply(one.event_id, 0) for one in entry.messages]
    assert [reply and reply.text for reply in replies] == [None, "sorry"]


async def test_what_is_lost_for_good_is_told_once(closed_world: World) -> None:
    """By the process that finds it."""
    world = closed_world
    world.options["gathering_of"] = lambda _: GATHERING
    world.options["lost_reply"] = sorry
    await world.open()
    entry = await accept_with_callers(world, 60, 60)
    assert await world.journal.begin(entry)
    await world.crash()
    (late,) = (await world.journal.claim(REPLIES)).entries
    assert (late.reply_text, late.event_id) == ("it was lost", entry.event_id)


def sorry(_: Event) -> FailureReply:
    return FailureReply("it was lost", late=True)


async def test_members_outlive_nothing(world: World) -> None:
    """Retention takes a burst as it takes other events."""
    await world.settle(await burst(world))
    world.clock.move(40 * 86_400)
    while await world.journal.purge():
        pass
    assert await world.states() == {}
    await world.settle(await burst(world, "five", "six"))
    assert await world.states() == {"done": 2}


@on_postgresql
async def test_two_nodes_never_share_a_burst(world: PostgresqlWorld) -> None:
    """Each message is handed over once, while more are received by either."""
    one, other = world.journal, await world.open(node="there")
    request = [ClaimRequest(EntryKind.AGENT, None, 9)]
    seen: list[str] = []
    for number in range(8):
        await asyncio.gather(*(world.accept(f"{number} {n}") for n in range(6)))
        world.clock.move(SECONDS)
        late = asyncio.ensure_future(world.accept(f"{number} late"))
        claims = await asyncio.gather(*(journal.claim(request) for journal in (one, other)))
        await late
        for journal, claimed in zip((one, other), claims, strict=True):
            for entry in claimed.entries:
                seen += texts(entry)
                await world.settle(entry, journal)
    world.clock.move(SECONDS)
    while entries := await world.claim():
        for entry in entries:
            seen += texts(entry)
            await world.settle(entry)
    assert sorted(seen) == sorted({*seen})
    assert await world.states() == {"done": len(seen)} == {"done": 8 * 7}
