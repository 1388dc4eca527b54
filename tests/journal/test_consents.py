"""The register of consents: what people say of being written to, kept with what they said."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.model import (
    Consent,
    ConsentState,
    Event,
    EventKind,
    OptOut,
    Receipt,
)

from .test_query_plans import Statements
from .world import SMS, START, World, an_event, on_postgresql

SOMEBODY, OTHER = "+33639980001", "+33639980002"
OUT, IN = ConsentState.OPTED_OUT, ConsentState.OPTED_IN


def yes(sender: str = SOMEBODY, **changes: Any) -> Event:
    """A word that may mean START, as its channel hands it on."""
    event = an_event(sender=sender, **changes)
    return event._replace(as_start=event._replace(opt_out=OptOut.START))


async def say(world: World, word: OptOut, sender: str = SOMEBODY, **changes: Any) -> Receipt:
    return await world.accept(sender=sender, opt_out=word, **changes)


async def consent(world: World, sender: str = SOMEBODY) -> Consent | None:
    """What an agent is told that gets a message of this person now; nothing is left behind."""
    await world.accept(sender=sender)
    entries = await world.claim()
    for entry in entries:
        await world.settle(entry)
    if len(entries) > 1 or entries[0].event.sender != sender or entries[0].event.overtakes:
        return await consent(world, sender)
    return entries[0].consent


async def test_stop_is_kept_with_its_message(world: World) -> None:
    """For this person on this channel, since then; HELP says nothing of it."""
    assert await consent(world) is None
    assert (await say(world, OptOut.HELP)).consent is None
    assert (await say(world, OptOut.STOP)).consent is OUT
    world.clock.move(60)
    assert (await say(world, OptOut.STOP)).consent is None
    assert await consent(world) == Consent(OUT, START)
    assert await consent(world, OTHER) is None
    assert (await say(world, OptOut.START)).consent is IN
    assert await consent(world) == Consent(IN, START + timedelta(seconds=60))


async def test_the_same_stop_again_says_nothing_new(world: World) -> None:
    """A provider that repeats itself ends no consent that was given meanwhile."""
    stop = an_event("STOP", opt_out=OptOut.STOP)
    await world.accept_event(stop)
    await say(world, OptOut.START)
    again = await world.accept_event(stop)
    assert (again.duplicate, again.consent) == (True, None)
    found = await consent(world)
    assert found is not None
    assert found.state is IN


async def test_yes_is_an_answer_unless_its_sender_opted_out(world: World) -> None:
    """Then it is START, and overtakes."""
    await say(world, OptOut.STOP, OTHER)
    (stop,) = await world.claim()
    await world.settle(stop)
    for sender in (SOMEBODY, OTHER):
        await world.accept("one", sender=sender)
        await world.accept_event(yes(sender, text="Yes"))
    claimed = {entry.event.sender: entry for entry in await world.claim()}
    assert {sender: entry.event.body for sender, entry in claimed.items()} == {
        SOMEBODY: "one",
        OTHER: "Yes",
    }
    assert claimed[OTHER].event.opt_out is OptOut.START
    for entry in claimed.values():
        await world.settle(entry)
    rest = {entry.event.sender: entry for entry in await world.claim()}
    assert (rest[SOMEBODY].event.body, rest[SOMEBODY].event.opt_out) == ("Yes", None)
    assert rest[OTHER].consent == Consent(IN, START)


async def test_a_batch_is_heard_in_its_order(world: World) -> None:
    """STOP, then "Yes" which answers it, then STOP again; and a "Yes" before any STOP is text."""
    receipts = await world.accept_events(
        yes(), an_event(opt_out=OptOut.STOP), yes(), an_event(opt_out=OptOut.STOP)
    )
    assert [receipt.consent for receipt in receipts] == [None, OUT, IN, OUT]
    words = []
    for _ in receipts:
        (entry,) = await world.claim()
        words.append(entry.event.opt_out)
        await world.settle(entry)
    assert words == [OptOut.STOP, OptOut.START, OptOut.STOP, None]
    found = await consent(world)
    assert found is not None
    assert found.state is OUT


async def test_a_start_follows_the_rules_of_start(world: World) -> None:
    """What its channel skips, for one: the message is skipped as what it turned out to be."""
    await say(world, OptOut.STOP)
    event = an_event(skipped="auto_reply")
    heard = event._replace(opt_out=OptOut.START, skipped=None)
    receipt = await world.accept_event(event._replace(as_start=heard))
    assert (receipt.skipped, receipt.consent) == (None, IN)
    assert await world.states() == {"ready": 2}


async def test_what_is_skipped_is_heard(world: World) -> None:
    """A blocked sender may say STOP; so may what became of a message."""
    receipt = await say(world, OptOut.STOP, skipped="blocked")
    assert (receipt.skipped, receipt.consent) == ("blocked", OUT)
    complained = await say(world, OptOut.STOP, OTHER, kind=EventKind.RECEIPT, status="complained")
    assert complained.consent is OUT


BEFORE, AFTER = START - timedelta(hours=1), START + timedelta(hours=1)


@pytest.mark.parametrize(
    ("first", "then", "state", "since"),
    [
        pytest.param((OptOut.STOP, START), (OptOut.START, BEFORE), OUT, START, id="old-start"),
        pytest.param((OptOut.START, START), (OptOut.STOP, BEFORE), IN, START, id="old-stop"),
        pytest.param((OptOut.STOP, BEFORE), (OptOut.START, START), IN, START, id="new-start"),
        pytest.param((OptOut.START, START), (OptOut.STOP, None), OUT, None, id="timeless-stop"),
        pytest.param((OptOut.STOP, START), (OptOut.START, None), OUT, START, id="timeless-start"),
        pytest.param((OptOut.STOP, None), (OptOut.START, BEFORE), OUT, None, id="before-timeless"),
        pytest.param((OptOut.STOP, AFTER), (OptOut.START, START), IN, START, id="from-the-future"),
    ],
)
async def test_what_is_older_comes_too_late(
    world: World, first: Any, then: Any, state: ConsentState, since: Any
) -> None:
    """But for a STOP of which nobody knows when it was said; no clock reaches ahead of ours."""
    for word, at in (first, then):
        await say(world, word, said_at=at, time_unknown=at is None)
    assert await consent(world) == Consent(state, since)


async def test_an_old_start_does_not_answer_a_later_stop(world: World) -> None:
    """A second STOP changes nothing but how new it is."""
    for word, at in ((OptOut.STOP, BEFORE), (OptOut.STOP, START)):
        await say(world, word, said_at=at)
    await say(world, OptOut.START, said_at=START - timedelta(minutes=1))
    assert await consent(world) == Consent(OUT, BEFORE)


async def test_the_register_outlives_retention(world: World) -> None:
    """What the person said is purged; that they said it is not."""
    await say(world, OptOut.STOP)
    (entry,) = await world.claim()
    await world.settle(entry)
    world.clock.move(31 * 86_400)
    while await world.journal.purge():
        pass
    assert await world.states() == {}
    assert await consent(world) == Consent(OUT, START)


async def test_nothing_is_heard_of_what_is_refused(world: World) -> None:
    """The register is written with the event or not at all: a used signature proves nobody."""
    await world.accept_event(an_event(sender=OTHER), replay_key=b"key")
    with pytest.raises(ReplayedSignature):
        await world.accept_event(an_event(opt_out=OptOut.STOP), replay_key=b"key")
    assert await consent(world) is None


async def test_channels_do_not_speak_for_each_other(world: World) -> None:
    """The same number on another channel has said nothing."""
    elsewhere = an_event(channel="whatsapp", opt_out=OptOut.STOP)
    await world.accept_event(elsewhere)
    assert elsewhere.channel != SMS
    assert await consent(world) is None


@on_postgresql
async def test_two_nodes_hear_the_same_person(closed_world: World) -> None:
    """In conversations with many numbers of ours: one change each, however they cross."""
    nodes = [await closed_world.open(node=name) for name in ("one", "two")]
    for turn in range(10):
        word = (OptOut.STOP, OptOut.START)[turn % 2]
        receipts = await asyncio.gather(
            *(
                closed_world.accept_event(
                    event._replace(conversation=event.conversation._replace(party=f"+{number}")),
                    journal=nodes[number % 2],
                )
                for number in range(20)
                for event in [an_event(opt_out=word)]
            )
        )
        closed_world.clock.move(1)
        changed = [receipt.consent for receipt in receipts if receipt.consent is not None]
        assert changed == [(OUT, IN)[turn % 2]]


async def test_a_plain_message_costs_the_register_nothing(
    closed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No statement asks it, but one in a conversation that is new: was its person erased?"""
    await closed_world.open(consents_key=ConsentsKey("k" * 32))
    await closed_world.accept("one")
    statements = Statements(monkeypatch)
    await closed_world.accept("two")
    assert not [text for text in statements.seen if "consents" in text]
    await closed_world.accept("three", sender=OTHER)
    (asked,) = [text for text in statements.seen if "consents" in text]
    assert "LIMIT 1" in asked
