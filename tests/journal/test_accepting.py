"""What arrives: durable, once, and what cannot be stored fails alone."""

from __future__ import annotations

import asyncio

import pytest

from berinia_webhookd.journal.contract import ReplayedSignature

from .world import World, an_event


async def test_an_event_is_there_after_a_restart(world: World) -> None:
    """What was accepted is delivered by the next process."""
    receipt = await world.accept("hello")
    await world.reopen()
    (entry,) = await world.claim()
    assert entry.event_id == receipt.event_id
    assert entry.event == an_event("hello")


@pytest.mark.parametrize("text", ["\ud83d half an emoji", "nul \0 inside", "é🙂\u2028", "'\"\\%_"])
async def test_provider_values_are_kept_exactly(world: World, text: str) -> None:
    """Values that are no valid Unicode come out as they went in."""
    event = an_event(text, sender=text, raw={text: text, "big": 2**70})
    await world.accept_event(event)
    (entry,) = await world.claim()
    assert entry.event == event


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
