"""Events that a rule of their channel skips: kept, shown, and handed to nobody unless replayed."""

from __future__ import annotations

from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import Decoded, EntryState, OptOut, VerifiedDelivery

from .world import World, an_event


def nothing_to_decode(_: VerifiedDelivery) -> Decoded:
    raise AssertionError("no delivery was rejected")


async def test_a_skipped_event_is_kept_and_handed_to_nobody(world: World) -> None:
    """It holds nothing back, and whoever sent it again is told the same."""
    receipt = await world.accept("x", skipped="empty")
    await world.accept("one")
    assert receipt.skipped == "empty"
    assert await world.claim_bodies() == ["one"]
    assert await world.states() == {"skipped": 1, "running": 1}
    again = await world.accept("x", skipped="empty")
    assert (again.duplicate, again.event_id, again.skipped) == (True, receipt.event_id, "empty")


async def test_who_waits_is_not_kept_waiting_by_a_skipped_event(world: World) -> None:
    """There is no reply, and it is known at once."""
    receipt = await world.accept_event(an_event("x", skipped="empty"), wait_seconds=30)
    assert await world.journal.wait_for_reply(receipt.event_id, 30) is None


async def test_an_operator_sees_why_and_dispatches_it_by_its_id(world: World) -> None:
    """By a filter never: nobody means hundreds of stories."""
    receipt = await world.accept("x", skipped="broadcast")
    async with Operations(world.url, clock=world.clock) as journal:
        (listed,) = await journal.list_events(Filters(state=EntryState.SKIPPED), 10)
        shown = await journal.show(receipt.event_id)
        assert (listed.id, listed.state, shown.skipped) == (
            receipt.event_id,
            "skipped",
            "broadcast",
        )
        assert await journal.replay_matching(Filters(), decode=nothing_to_decode) == []
        (changed,) = await journal.discard([receipt.event_id])
        assert changed.refused == "it is skipped already"
        (changed,) = await journal.replay([receipt.event_id], decode=nothing_to_decode)
        assert (changed.was, changed.refused) == ("skipped", None)
    (entry,) = await world.claim()
    assert entry.event_id == receipt.event_id
    await world.settle(entry)
    assert await world.states() == {"done": 1}
    again = await world.accept("x", skipped="broadcast")
    assert (again.duplicate, again.skipped) == (True, None)


async def test_skipped_events_are_purged_as_done_ones(world: World) -> None:
    await world.accept("x", skipped="receipt")
    world.clock.move(31 * 86_400)
    assert await world.journal.purge() == 1
    assert await world.states() == {}
    assert (await world.accept("x", skipped="receipt")).duplicate


async def test_a_skipped_opt_out_is_handed_to_nobody(world: World) -> None:
    """Nor does it hold back what follows."""
    await world.accept("STOP", opt_out=OptOut.STOP, skipped="blocked")
    await world.accept("one")
    assert await world.claim_bodies() == ["one"]
