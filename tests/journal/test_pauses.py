"""Holds: a conversation that is paused, and an entry that a guard stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal import order
from berinia_webhookd.journal.contract import ClaimRequest
from berinia_webhookd.journal.database import Transaction, open_database
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.pause import Resumed, Whose
from berinia_webhookd.model import (
    AgentName,
    EntryKind,
    EventId,
    OptOut,
    Outcome,
    OutcomeKind,
    Pause,
    PauseRequest,
)

from .world import AGENT, PostgresqlWorld, SqliteWorld, World, an_event

OTHER = "+33639980002"
SENDER = an_event().conversation.sender
ELSE = AgentName("ElseAgent")


async def pause(world: World, sender: str = SENDER, **about: Any) -> Sequence[int]:
    async with Operations(world.url, clock=world.clock) as operations:
        return await operations.pause(Whose(sender), Pause("me", **about))


async def resume(world: World, **how: Any) -> Resumed:
    async with Operations(world.url, clock=world.clock) as operations:
        return await operations.resume(Whose(SENDER), **how)


async def guard(world: World, event: EventId, seconds: float | None = None) -> None:
    """Hold an entry, as a guard does."""

    async def hold(transaction: Transaction) -> None:
        rows = await transaction.execute("entries_of_events", events=[event])
        await order.hold_entries(transaction, rows, "budget", seconds)

    database = open_database(world.url, clock=world.clock)
    try:
        await database.write(hold)
    finally:
        await database.close()


async def test_a_pause_holds_what_is_there_and_what_comes(world: World) -> None:
    """Of that conversation, whatever its agent; not of others. Then all of it flows in order."""
    await world.accept("one")
    await world.accept("else", agent=ELSE)
    assert len(await pause(world)) == 1
    await world.accept("two")
    await world.accept("three", sender=OTHER)
    assert [e.event.body for e in await world.claim(9, AGENT, ELSE)] == ["three"]
    assert len((await resume(world)).conversations) == 1
    one, other = await world.claim(9, AGENT, ELSE)
    assert (one.event.body, other.event.body) == ("one", "else")
    await world.settle(one)
    assert await world.claim_bodies() == ["two"]


async def test_a_pause_is_said_once_and_ended_once(world: World) -> None:
    """Whoever says it again changes nothing, unless it shall last longer."""
    await world.accept("one")
    assert len(await pause(world, seconds=100)) == 1
    assert len(await pause(world, seconds=100)) == 0
    assert len(await pause(world, seconds=99)) == 0
    assert len(await pause(world, seconds=101)) == 1
    assert len(await pause(world)) == 1
    assert len(await pause(world)) == 0
    assert len((await resume(world)).conversations) == 1
    assert await resume(world) == Resumed(())
    with pytest.raises(NotFound):
        await pause(world, sender="+33639980009")


async def test_a_pause_ends_with_its_time(world: World) -> None:
    """The dispatcher is told when, and the conversation is paused no more."""
    await world.accept("one")
    await pause(world, seconds=100)
    await world.accept("two")
    assert (await world.claimed()).next_due_seconds == 100
    world.clock.move(100)
    assert await world.claim_bodies() == ["one"]
    await world.journal.recover()
    assert await resume(world) == Resumed(())


async def test_an_opt_out_passes_a_pause(world: World) -> None:
    """Also its retry does, and what stands before it stays where it is."""
    await world.accept("one")
    await pause(world)
    await world.accept("STOP", opt_out=OptOut.STOP)
    (stop,) = await world.claim()
    await world.fail(stop, retry_in=5)
    assert await world.claim() == []
    world.clock.move(5)
    (stop,) = await world.claim()
    await world.settle(stop)
    assert await world.claim() == []
    await resume(world)
    assert await world.claim_bodies() == ["one"]


async def test_what_runs_is_not_stopped_but_its_retry_is_held(world: World) -> None:
    """A retry that falls due during the pause waits for its end."""
    await world.accept("one")
    (one,) = await world.claim()
    await pause(world, seconds=100)
    await world.fail(one, retry_in=5)
    assert (await world.claimed()).next_due_seconds == 100
    await world.accept("two")
    world.clock.move(100)
    assert await world.claim_bodies() == ["one"]


async def test_what_an_agent_said_is_posted_all_the_same(world: World) -> None:
    """With the word that hands the conversation over, the person gets the answer."""
    await world.accept("one")
    (one,) = await world.claim()
    said = Outcome(OutcomeKind.SUCCESS, reply="somebody will answer you", pause=Pause("agent"))
    await world.settle(one, outcome=said, late=True)
    await world.accept("two")
    assert await world.claim() == []
    posts = [ClaimRequest(EntryKind.REPLY, None, 9)]
    (post,) = (await world.journal.claim(posts)).entries
    assert post.reply_text == "somebody will answer you"


async def test_another_process_pauses_a_group(world: World) -> None:
    """Who writes there for the first time is held as well, on whichever node; so is somebody who
    was named before the first word.
    """
    known, new = an_event("one"), an_event("two", sender=OTHER)
    await world.accept_event(known)
    other = await world.open() if isinstance(world, PostgresqlWorld) else world.journal
    group = PauseRequest(known.channel, None, known.conversation.party, Pause("bot", seconds=60))
    assert await other.pause([group]) == 2
    await world.accept_event(new)
    assert (await world.claimed()).next_due_seconds == 60
    third = an_event("three", sender="+33639980007")
    about = (third.channel, third.conversation.sender, third.conversation.party)
    assert await other.pause([PauseRequest(*about, Pause("bot", seconds=90))]) == 1
    await world.accept_event(third)
    world.clock.move(60)
    assert await world.claim_bodies() == ["one", "two"]
    world.clock.move(30)
    assert await world.claim_bodies() == ["three"]
    for journal in world.journals:
        await journal.recover()
    async with Operations(world.url, clock=world.clock) as operations:
        assert await operations.list_conversations(paused=True) == []


@pytest.mark.parametrize("sender", [None, OTHER])
async def test_a_pause_beside_the_first_words_holds_them(world: World, sender: str | None) -> None:
    """Also where all of it is one transaction, and no other message is open yet."""
    event = an_event("one", sender=OTHER)
    channel, _, party = event.conversation
    pausing = PauseRequest(channel, sender, party, Pause("bot", seconds=60), of_group=False)
    await asyncio.gather(world.accept_event(event), world.journal.pause([pausing]))
    assert await world.claim_bodies() == []
    world.clock.move(60)
    assert await world.claim_bodies() == ["one"]


async def test_an_address_of_ours_is_paused_whoever_was_paused_there_before(world: World) -> None:
    """Also where the first word of it was somebody's pause, before theirs."""
    one = an_event("one")
    channel, sender, party = one.conversation
    theirs = PauseRequest(channel, OTHER, party, Pause("bot"), of_group=False)
    assert await world.journal.pause([theirs]) == 1
    await world.accept_event(one)
    async with Operations(world.url, clock=world.clock) as operations:
        assert len(await operations.pause(Whose(party=party), Pause("me"))) >= 1
        states = await operations.list_conversations(paused=True)
    assert {OTHER, sender} <= {state.sender for state in states}


async def test_a_sender_called_star_is_one_person(world: World) -> None:
    """Who pauses, resumes or erases that person means nobody else, and no group's pause."""
    theirs, other = an_event("one", sender="*"), an_event("two", sender=OTHER)
    channel, _, party = theirs.conversation
    await world.accept_event(theirs)
    one = PauseRequest(channel, "*", party, Pause("AdminInterpreterAgent"))
    assert await world.journal.pause([one]) == 1
    await world.accept_event(other)
    assert await world.claim_bodies() == ["two"]
    everybody = PauseRequest(channel, None, party, Pause("bot"))
    assert await world.journal.pause([everybody]) == 2  # the other, and whoever comes
    async with Operations(world.url, clock=world.clock) as operations:
        assert len((await operations.resume(Whose("*"))).conversations) == 1
        await operations.erase("*")
        assert (await operations.stats()).held["paused"].conversations == 1
    await world.accept("three", sender="+33639980007")
    assert await world.claim_bodies() == []


async def test_a_pause_outlives_its_daemon(world: World) -> None:
    """What ran when it died is given back, and held."""
    await world.accept("one")
    await world.claim()
    await pause(world)
    await world.crash()
    assert await world.claim() == []
    await resume(world)
    assert await world.claim_bodies() == ["one"]


async def test_a_guard_holds_what_stands_behind_as_well(world: World) -> None:
    """Of the same queue: another agent's goes on, and an opt-out passes."""
    one = await world.accept("one")
    await world.accept("else", agent=ELSE)
    await guard(world, one.event_id)
    await world.accept("two")
    await world.accept("STOP", opt_out=OptOut.STOP)
    claimed = await world.claim(9, AGENT, ELSE)
    assert [entry.event.body for entry in claimed] == ["else", "STOP"]
    await world.settle(claimed[1])
    assert await world.claim() == []
    assert len((await resume(world)).conversations) == 1
    assert await world.claim_bodies() == ["one"]


async def test_what_a_guard_holds_for_some_time_falls_due(world: World) -> None:
    """Then it starts like any other, and is held no more."""
    one = await world.accept("one")
    await guard(world, one.event_id, seconds=60)
    await world.accept("two")
    assert (await world.claimed()).next_due_seconds == 60
    world.clock.move(60)
    (first,) = await world.claim()
    await world.settle(first)
    assert first.event.body == "one"
    assert await world.claim_bodies() == ["two"]


async def test_a_held_retry_is_ready(world: World) -> None:
    """It keeps its place and its schedule, and starts when it is released."""
    one = await world.accept("one")
    (entry,) = await world.claim()
    await world.fail(entry, retry_in=5)
    await guard(world, one.event_id)
    assert await world.states() == {"ready": 1}
    world.clock.move(1000)
    assert await world.claim() == []
    await resume(world)
    (again,) = await world.claim()
    assert (again.attempt, again.retries) == (2, 1)


async def test_purging_and_erasing_mind_a_pause(world: World) -> None:
    """A paused conversation outlives its last event; an erased one is not paused."""
    await world.accept("one")
    (one,) = await world.claim()
    await pause(world, reason="angry")
    await world.settle(one)
    await world.accept("elsewhere", sender=OTHER)  # the newest conversation always stays
    world.clock.move(40 * 86400)
    assert await world.journal.purge() == 1
    await world.accept("two")
    assert await world.claim_bodies() == ["elsewhere"]
    async with Operations(world.url, clock=world.clock) as operations:
        await operations.erase(SENDER)
    await world.accept("three")
    assert await world.claim_bodies() == ["three"]
    if isinstance(world, SqliteWorld):
        assert b"angry" not in world.file.read_bytes()
