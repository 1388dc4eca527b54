"""Deliveries of many events in an operator's hands: replayed, and erased in part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import EventKind

from .batches import a_batch, decode, decode_more, message
from .world import World, a_delivery, an_event, traces

ANNA, BEN, CLEO, DORA = (f"+3363998007{n}" for n in range(4))
REJECTED = Filters(state="rejected")


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Operations]:
    async with Operations(world.url, clock=world.clock) as operations:
        yield operations


async def take(world: World, *items: dict[str, Any]) -> list[str]:
    """Accept a batch as the channel reads it; returns the ids of its events."""
    delivery = a_batch(*items)
    return [one.event_id for one in await world.journal.accept(delivery, decode(delivery))]


async def test_a_delivery_with_a_rejected_item_is_listed_and_shown(
    world: World, desk: Operations
) -> None:
    """By the delivery's id; with what was wrong, and the events the rest of it became."""
    events = await take(world, message(ANNA, "one"), {"from": BEN}, message(CLEO, "three"))
    (listed,) = await desk.list_events(REJECTED)
    assert (listed.state, listed.channel, listed.kind) == ("rejected", "chat", None)
    shown = await desk.show(listed.id)
    assert shown.rejection == {"items": [{"path": "entry.0.messages.1", "reason": "no text"}]}
    assert list(shown.events) == events
    assert (await desk.stats()).rejected == 1
    assert [one.kind for one in await desk.list_events(Filters())] == ["message", "message"]


async def test_a_rejected_item_is_kept_once_beside_what_was_known(
    world: World, desk: Operations
) -> None:
    """Also where nothing else of a delivery is new, and however often it comes again."""
    first = await take(world, message(ANNA, "one"))
    for _ in range(2):
        both = [take(world, message(ANNA, "one"), {"from": BEN, "txt": "two"}) for _ in range(2)]
        assert await asyncio.gather(*both) == [first, first]
    (listed,) = await desk.list_events(REJECTED)
    assert (await desk.show(listed.id)).events == ()
    known, left = await desk.replay([listed.id], decode=decode)
    assert known.refused == f"it was received again as {first[0]}"
    assert left.refused == "still refused: entry.0.messages.1: no text"
    world.clock.move(31 * 86_400)
    assert await world.journal.purge() == 1
    assert await world.states() == {"ready": 1}


async def test_the_kind_of_an_event_is_listed(world: World, desk: Operations) -> None:
    """A receipt is told from a message."""
    await world.accept("one", kind=EventKind.RECEIPT)
    (listed,) = await desk.list_events(Filters())
    assert (listed.kind, listed.entry) == ("receipt", "agent")
    assert (await desk.show(listed.id)).kind == "receipt"


async def test_what_was_accepted_of_a_replayed_delivery_is_recognised(
    world: World, desk: Operations
) -> None:
    """Only what was rejected and reads well now becomes an event, once."""
    accepted = await take(world, message(ANNA, "one"), {"from": BEN, "txt": "two"}, {"from": CLEO})
    (listed,) = await desk.list_events(REJECTED)
    still = "still refused: entry.0.messages.2: no text"
    dry = await desk.replay([listed.id], decode=decode_more, dry_run=True)
    assert [(one.refused, one.event_id) for one in dry] == [(None, None), (still, None)]
    assert await world.states() == {"ready": 1}
    became, left = await desk.replay([listed.id], decode=decode_more)
    assert (left.refused, left.event_id) == (still, None)
    assert became.refused is None
    assert became.event_id not in accepted
    assert sorted(await world.claim_bodies()) == ["one", "two"]
    shown = await desk.show(listed.id)
    assert shown.rejection == {"items": [{"path": "entry.0.messages.2", "reason": "no text"}]}
    assert list(shown.events) == [*accepted, became.event_id]
    (again,) = await desk.replay_matching(REJECTED, decode=decode_more)
    assert again.refused == still
    assert await world.states() == {"running": 2}


async def test_a_delivery_of_which_all_reads_well_is_rejected_no_longer(
    world: World, desk: Operations
) -> None:
    """Neither listed nor found by its id, and its events are as any."""
    await take(world, message(ANNA, "one"), {"from": BEN, "txt": "two"})
    (listed,) = await desk.list_events(REJECTED)
    (became,) = await desk.replay_matching(REJECTED, decode=decode_more)
    assert became.event_id is not None
    assert await desk.list_events(REJECTED) == []
    with pytest.raises(NotFound):
        await desk.show(listed.id)
    assert (await world.journal.accept(a_batch(), decode_more(a_batch()))) == ()


async def test_a_rejected_delivery_can_become_many_events(world: World, desk: Operations) -> None:
    """And be rejected in part from then on; what came in again meanwhile is said."""
    batch = a_batch(message(ANNA, "one"), message(BEN, "two"), {"from": CLEO})
    await world.journal.reject(batch, {"kind": "MalformedDelivery"})
    known = await world.accept("two", sender=BEN)
    new, repeated, left = await desk.replay_matching(REJECTED, decode=decode)
    assert new.refused is None
    assert repeated.refused == f"it was received again as {known.event_id}"
    assert left.refused == "still refused: entry.0.messages.2: no text"
    (listed,) = await desk.list_events(REJECTED)
    assert (await desk.show(listed.id)).events == (new.event_id,)
    assert await world.states() == {"ready": 2}


async def test_one_person_of_a_delivery_is_erased(world: World, desk: Operations) -> None:
    """The others' events stay as they are, and each other rejected item can still be replayed."""
    _, ben, cleo = await take(
        world,
        message(ANNA, "Geheimnis"),
        message(BEN, "two"),
        {"from": ANNA, "txt": "Geheimnis too"},
        message(CLEO, "three"),
        {"from": DORA, "txt": "four"},
        {"from": DORA},
    )
    (listed,) = await desk.list_events(REJECTED)
    dry = await desk.erase(ANNA, dry_run=True)
    assert (dry.events, dry.conversations, dry.rejected) == (1, 1, 1)
    done = await desk.erase(ANNA)
    assert (done.events, done.rejected, done.files_clean) == (1, 1, True)
    assert await traces(world, b"Geheimnis", ANNA[1:].encode()) == []
    assert await world.states() == {"erased": 1, "ready": 2}

    entries = await world.claim()
    assert [(one.event_id, one.event.body) for one in entries] == [(ben, "two"), (cleo, "three")]
    assert [one.event.raw["From"] for one in entries] == [BEN, CLEO]
    shown = await desk.show(listed.id)
    assert shown.body_bytes is None
    assert shown.rejection is not None
    assert [item["item"] for item in shown.rejection["items"]] == [
        {"from": DORA, "txt": "four"},
        {"from": DORA},
    ]
    became, left = await desk.replay([listed.id], decode=decode_more)
    assert became.event_id is not None
    assert left.refused == "still refused: entry.0.messages.1: no text"
    (entry,) = await world.claim()
    assert (entry.event_id, entry.event.body) == (became.event_id, "four")
    kept = (await desk.show(listed.id)).rejection
    assert kept is not None
    assert kept["items"] == [
        {"path": "entry.0.messages.1", "reason": "no text", "item": {"from": DORA}}
    ]
    await desk.erase(DORA)
    assert await traces(world, b"four", DORA[1:].encode()) != []  # its event is running
    await world.settle(entry)
    assert (await desk.erase(DORA)).events == 1
    assert await traces(world, DORA[1:].encode()) == []
    assert await desk.list_events(REJECTED) == []


async def test_the_others_run_and_are_replayed_after_an_erasure(
    world: World, desk: Operations
) -> None:
    """An attempt under way is not disturbed, and what is finished can be replayed."""
    _, ben, _ = await take(world, *(message(one, f"of {one}") for one in (ANNA, BEN, CLEO)))
    of_anna, of_ben, of_cleo = await world.claim()
    await world.settle(of_anna)
    await desk.erase(ANNA)
    assert await world.states() == {"erased": 1, "running": 2}
    for entry in (of_ben, of_cleo):
        assert (await world.settle(entry)).kept
    await desk.replay([ben], decode=decode)
    (entry,) = await world.claim()
    assert (entry.event_id, entry.event.body) == (ben, f"of {BEN}")


async def test_somebody_who_is_only_in_a_rejected_item_is_erased(
    world: World, desk: Operations
) -> None:
    """The events of the same delivery are not theirs."""
    await take(world, message(BEN, "two"), {"from": ANNA, "txt": "Geheimnis"})
    done = await desk.erase(ANNA)
    assert (done.events, done.conversations, done.rejected) == (0, 0, 1)
    assert await traces(world, b"Geheimnis", ANNA[1:].encode()) == []
    assert await world.claim_bodies() == ["two"]
    assert await desk.list_events(REJECTED) == []


async def test_one_person_of_a_rejected_delivery_is_erased(world: World, desk: Operations) -> None:
    """Where its items are known, the others' can still be replayed."""
    batch = a_batch({"from": ANNA, "txt": "Geheimnis"}, {"from": BEN, "txt": "two"})
    await world.journal.accept(batch, decode(batch))
    (listed,) = await desk.list_events(REJECTED)
    assert (await desk.erase(ANNA)).rejected == 1
    assert await traces(world, b"Geheimnis", ANNA[1:].encode()) == []
    (became,) = await desk.replay([listed.id], decode=decode_more)
    assert became.event_id is not None
    assert await world.claim_bodies() == ["two"]


async def test_everybody_of_a_delivery_is_erased(world: World, desk: Operations) -> None:
    """One after the other, until nothing of it is left but its digests."""
    first = await take(world, message(ANNA, "one"), message(BEN, "two"))
    for person in (ANNA, BEN):
        await desk.erase(person)
    assert await traces(world, ANNA[1:].encode(), BEN[1:].encode(), b"webhook/chat") == []
    assert await take(world, message(BEN, "two"), message(ANNA, "one")) == first[::-1]
    assert await world.states() == {"erased": 2}


async def test_what_only_mentions_a_person_stays(world: World, desk: Operations) -> None:
    """Another person's message is theirs, whatever it says."""
    await take(world, message(BEN, f"call {ANNA}"), message(CLEO, "three"))
    assert (await desk.erase(ANNA)).events == 0
    assert json.loads((await _body(world, desk)).decode())["of"] == "somebody"
    event = an_event("x")
    await world.journal.reject(a_delivery(event), {"kind": "MalformedDelivery"})
    assert (await desk.erase(ANNA)).rejected == 0


async def _body(world: World, desk: Operations) -> bytes:
    newest = (await desk.list_events(Filters()))[0]
    delivery = await world.journal.delivery_of(newest.id)  # type: ignore[arg-type]
    assert delivery is not None
    assert (delivery.target, delivery.headers) == ("/webhook/chat", {"x-kind": "batch"})
    return delivery.body
