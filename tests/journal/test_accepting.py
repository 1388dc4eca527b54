"""What arrives: durable, once, and what cannot be stored fails alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.database import Transaction
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import (
    ChannelName,
    ConsentState,
    Conversation,
    Decoded,
    Event,
    OptOut,
    Receipt,
    RejectedItem,
    VerifiedDelivery,
)

from .world import World, a_delivery, an_event


async def test_an_event_is_there_after_a_restart(world: World) -> None:
    """What was accepted is delivered by the next process."""
    receipt = await world.accept("hello")
    await world.reopen()
    (entry,) = await world.claim()
    assert entry.event_id == receipt.event_id
    assert entry.event == an_event("hello")


ODD = ("\ud83d half an emoji", "nul \0 inside", "é🙂\u2028", "'\"\\%_", "{1,NULL}", " everybody")
# A provider's time may be any.
ENDS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@pytest.mark.parametrize("text", ODD)
async def test_provider_values_are_kept_exactly(world: World, text: str) -> None:
    """Values that are no valid Unicode come out as they went in."""
    event = an_event(text, sender=text, raw={text: text, "big": 2**70})
    await world.accept_event(event)
    (entry,) = await world.claim()
    assert entry.event == event


async def test_provider_values_of_a_batch_are_kept_exactly(world: World) -> None:
    """PostgreSQL takes the rows of a batch as one array for each column."""
    events = [
        an_event(
            text,
            sender=text,
            recipient=text,
            subject=text,
            message_id=text,
            conversation=Conversation(ChannelName("sms"), text, text),
            raw={text: [text, 2**70, -1.5e308, None]},
            opt_out=OptOut.STOP if number % 2 else None,
            authors=frozenset({text, f"{text}@example.com"}),
            said_at=ENDS[number // 2 % 2],
        )
        for number, text in enumerate(ODD)
    ]
    await asyncio.gather(*map(world.accept_event, events))
    found = {entry.event.digest: entry.event for entry in await world.claim()}
    assert found == {
        event.digest: event._replace(authors=frozenset(), said_at=None) for event in events
    }
    async with Operations(world.url, clock=world.clock) as desk:
        consents = await desk.consents()
    assert {one.state for one in consents} == {ConsentState.OPTED_OUT}
    assert len(consents) == len(events) // 2


async def test_the_same_event_is_kept_once(world: World) -> None:
    """However close together the copies arrive, all get the same receipt, one is new."""
    events = [an_event("same") for _ in range(50)] + [an_event("other")]
    receipts = await asyncio.gather(*(world.accept_event(event) for event in events))
    assert len({receipt.event_id for receipt in receipts}) == 2
    assert [receipt.duplicate for receipt in receipts].count(False) == 2
    assert len(await world.claim()) == 1  # they are one conversation
    assert (await world.accept("same")).event_id == receipts[0].event_id
    await world.reopen()
    assert (await world.accept("same")).duplicate


@pytest.mark.parametrize("many", [3, 20, 300])
async def test_what_repeats_is_told_from_what_is_new_beside_it(world: World, many: int) -> None:
    """However large the burst that one repeated event is in, the others are kept, each once."""
    first = await world.accept("m1")
    receipts = await asyncio.gather(*(world.accept(f"m{n}") for n in range(many)))
    assert [n for n, receipt in enumerate(receipts) if receipt.duplicate] == [1]
    assert receipts[1].event_id == first.event_id
    assert len({receipt.event_id for receipt in receipts}) == many
    assert await world.states() == {"ready": many}


async def test_a_used_signature_with_another_message_is_refused(world: World) -> None:
    """The replay key belongs to one message; with that one it is answered as before."""
    first, second = an_event("one"), an_event("two")
    key = b"k" * 32
    receipt = await world.accept_event(first, replay_key=key)
    again = await world.accept_event(first, replay_key=key)
    assert (again.event_id, again.duplicate) == (receipt.event_id, True)
    with pytest.raises(ReplayedSignature):
        await world.accept_event(second, replay_key=key)
    accepted = await world.accept_event(second, replay_key=b"l" * 32)
    assert not accepted.duplicate


async def test_used_signatures_are_seen_within_one_batch(world: World) -> None:
    """Copies that arrive together are judged in their order, and refuse nobody else."""
    one, two = an_event("one"), an_event("two")
    results = await asyncio.gather(
        world.accept_event(one, replay_key=b"1" * 32),
        world.accept_event(two, replay_key=b"1" * 32),
        world.accept_event(two, replay_key=b"2" * 32),
        world.accept_event(one, replay_key=b"1" * 32),
        return_exceptions=True,
    )
    assert isinstance(results[1], ReplayedSignature)
    assert [r.duplicate for r in results if not isinstance(r, BaseException)] == [
        False,
        False,
        True,
    ]


async def stored_data(world: World, receipt: Receipt) -> str:
    """An event's data as it stands in the database."""

    async def look(transaction: Transaction) -> str:
        (row,) = await transaction.execute("show_event", id=receipt.event_id)
        return str(row["data"])

    return await world.journal._database.read(look)


def a_form(text: str) -> tuple[VerifiedDelivery, Event]:
    """A message as Twilio sends one."""
    raw = {"From": "+33639980001", "To": "+33639980000", "Body": text, "NumMedia": "0"}
    event = an_event(text, raw=raw)
    body = urlencode(raw, errors="surrogateescape").encode()
    return a_delivery(event)._replace(body=body, fields=tuple(raw.items())), event


@pytest.mark.parametrize("text", ["Oui, demain à 10h + 5 %", "\udcff no UTF-8"])
async def test_a_text_is_stored_once(world: World, text: str) -> None:
    """Where it can be read from the form that it came as; agents and operators see all of it."""
    delivery, event = a_form(text)
    (receipt,) = await world.journal.accept(delivery, Decoded((event,)))
    data = await stored_data(world, receipt)
    assert "demain" not in data
    assert "NumMedia" not in data
    (entry,) = await world.claim()
    assert entry.event == event
    async with Operations(world.url, clock=world.clock) as desk:
        shown = await desk.show(receipt.event_id)
    assert shown.data is not None
    assert (shown.data["body"], shown.data["raw"]) == (text, event.raw)


async def test_events_of_one_delivery_keep_their_own_data(world: World) -> None:
    """The body they share is blanked when one of several people is erased."""
    delivery, event = a_form("both")
    other = an_event("other", sender="+33639980002")
    receipts = await world.journal.accept(delivery, Decoded((event, other)))
    assert "NumMedia" in await stored_data(world, receipts[0])
    rejected = (RejectedItem("entry.1", "it has no text"),)
    delivery, event = a_form("with something rejected")
    (receipt,) = await world.journal.accept(delivery, Decoded((event,), rejected))
    assert "NumMedia" in await stored_data(world, receipt)


async def test_all_events_of_a_delivery_come_in_together(world: World) -> None:
    """Each with its own digest, in the order of the delivery, and with its own conversation."""
    events = [an_event(f"{n}", sender=f"+3363998{n % 3:04d}") for n in range(9)]
    receipts = await world.accept_events(*events)
    assert [receipt.duplicate for receipt in receipts] == [False] * 9
    assert len({receipt.event_id for receipt in receipts}) == 9
    heard = []
    while entries := await world.claim():
        heard += [entry.event.body for entry in entries]
        for entry in entries:
            await world.settle(entry)
    assert heard == [f"{n}" for n in range(9)]


async def test_deliveries_may_overlap(world: World) -> None:
    """What two of them hold is one event, whether they come together or one after the other; the
    same event twice in one delivery is one as well.
    """
    a, b, c, d = (an_event(text) for text in "abcd")
    first, second = await asyncio.gather(world.accept_events(a, b, b), world.accept_events(b, c, a))
    assert [one.duplicate for one in (*first, *second)] == [False, False, True, True, False, True]
    assert (second[0].event_id, second[2].event_id) == (first[1].event_id, first[0].event_id)
    third = await world.accept_events(c, d)
    assert [one.duplicate for one in third] == [True, False]
    again = await world.accept_events(a, b, c, d)
    assert all(one.duplicate for one in again)
    assert await world.states() == {"ready": 4}


async def test_a_delivery_that_cannot_be_stored_is_all_gone(world: World) -> None:
    """All or nothing: its good events are refused with the bad one, and come again later."""
    bad = an_event("bad", sender="+33639980003", channel=ChannelName("\ud800"))
    good = an_event("good")
    results = await asyncio.gather(
        world.accept_events(good, bad, an_event("other", sender="+33639980002")),
        world.accept("beside it", sender="+33639980004"),
        return_exceptions=True,
    )
    assert isinstance(results[0], JournalUnavailable)
    assert await world.states() == {"ready": 1}
    (receipt,) = await world.accept_events(good)
    assert not receipt.duplicate


async def test_only_the_rejected_of_a_delivery_without_events_is_kept(
    world: World,
) -> None:
    """As one that was rejected as a whole; with nothing in it, nothing is kept."""
    delivery = a_delivery(an_event("no event"))
    rejected = (RejectedItem("entry.0", "it has no text"),)
    for _ in range(2):
        assert await world.journal.accept(delivery, Decoded((), rejected)) == ()
    assert await world.journal.accept(a_delivery(an_event("nothing")), Decoded(())) == ()
    async with Operations(world.url, clock=world.clock) as desk:
        (listed,) = await desk.list_events(Filters(state="rejected"))
        shown = await desk.show(listed.id)
    assert shown.rejection == {"items": [{"path": "entry.0", "reason": "it has no text"}]}
