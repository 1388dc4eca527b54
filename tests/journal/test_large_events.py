"""Large events are claimed a few at a time, so that a heap of them fits into memory."""

from __future__ import annotations

from berinia_webhookd.journal import claim

from .world import World, an_event


async def test_a_claim_brings_so_many_bytes(world: World) -> None:
    """The rest is claimed later; small ones are not held up, and none is left behind."""
    half = "x" * (claim.CLAIM_BYTES // 2)
    for n in range(3):
        await world.accept(f"{n}{half}", sender=f"+3363998{n:04}")
    await world.accept("small", sender="+33639989999")
    first = await world.claim()
    assert [entry.event.body[:5] for entry in first] == ["0xxxx", "small"]
    assert first[0].size_bytes > len(half)
    second, third = await world.claim(), await world.claim()
    assert [entry.event.body[0] for entry in (*second, *third)] == ["1", "2"]


async def test_one_that_is_larger_is_claimed_alone(world: World) -> None:
    """Nothing is too large for ever."""
    event = an_event("x" * (claim.CLAIM_BYTES + 1))
    await world.accept_event(event)
    await world.accept("small", sender="+33639989999")
    assert [entry.event.body[0] for entry in await world.claim()] == ["x"]
    assert [entry.event.body for entry in await world.claim()] == ["small"]
