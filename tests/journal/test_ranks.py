"""Receipts of one message come in any order, and the one that says most stands."""

from __future__ import annotations

from typing import Any

from berinia_webhookd.model import ChannelName, EventKind, Receipt

from .world import World, an_event

RANKS = {"sent": 0, "delivered": 1, "read": 2}


async def told(world: World, status: str, about: str = "m1", **changes: Any) -> Receipt:
    event = an_event(f"{about} {status}", kind=EventKind.RECEIPT, status=status, **changes)
    return await world.accept_event(event._replace(about=about, rank=RANKS.get(status)))


async def test_one_that_says_less_is_skipped(world: World) -> None:
    """Whatever was accepted before, over restarts; a status that has no rank never is."""
    assert (await told(world, "delivered")).skipped is None
    assert (await told(world, "sent")).skipped == "outranked"
    await world.reopen()
    assert (await told(world, "read")).skipped is None
    assert (await told(world, "failed")).skipped is None
    again = await told(world, "sent")
    assert (again.duplicate, again.skipped) == (True, "outranked")
    assert await world.states() == {"ready": 3, "skipped": 1}


async def test_messages_and_channels_count_apart(world: World) -> None:
    """One says nothing of another."""
    await told(world, "read")
    assert (await told(world, "sent", about="m2")).skipped is None
    other = await told(world, "sent", channel=ChannelName("other"))
    assert other.skipped is None


async def test_those_of_one_delivery_count_in_their_order(world: World) -> None:
    """As if each had come alone."""
    events = [
        an_event(f"m1 {status}", kind=EventKind.RECEIPT)._replace(about="m1", rank=RANKS[status])
        for status in ("delivered", "sent", "read", "delivered")
    ]
    receipts = await world.accept_events(*events[:3])
    assert [one.skipped for one in receipts] == [None, "outranked", None]
