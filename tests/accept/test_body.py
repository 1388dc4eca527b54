"""Turns by weight: large bodies are worked on a few at a time, in the order they came."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from berinia_webhookd.accept.body import (
    LONG_BODY_BYTES,
    SHORT_BODY_BYTES,
    BodyBudget,
    ByteSemaphore,
    Reservation,
)
from berinia_webhookd.errors import Overloaded


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_fits_is_let_in_at_once() -> None:
    """Up to the limit, and again when it was given back."""
    semaphore = ByteSemaphore(10)
    assert [await semaphore.take(4), await semaphore.take(6)] == [4, 6]
    semaphore.give(4)
    assert await semaphore.take(3) == 3


async def test_first_come_first_served() -> None:
    """A small one that would fit does not overtake a large one, which would wait for ever."""
    semaphore, order = ByteSemaphore(10), []

    async def work(name: str, size: int) -> None:
        taken = await semaphore.take(size)
        order.append(name)
        semaphore.give(taken)

    held = await semaphore.take(5)
    async with asyncio.TaskGroup() as group:
        group.create_task(work("large", 8))
        group.create_task(work("small", 1))
        await settle()
        assert order == []
        semaphore.give(held)
    assert order == ["large", "small"]


async def test_one_beyond_the_limit_is_let_in_alone() -> None:
    """It weighs as much as there is."""
    semaphore = ByteSemaphore(10)
    assert await semaphore.take(50) == 10
    assert semaphore.free_bytes == 0


async def test_who_gives_up_makes_room() -> None:
    """Whether the turn had come by then or not."""
    semaphore = ByteSemaphore(10)
    held = await semaphore.take(10)
    waiting = [asyncio.create_task(semaphore.take(size)) for size in (7, 6, 3)]
    await settle()
    waiting[0].cancel()
    await settle()
    semaphore.give(held)
    waiting[1].cancel()  # let in at this very moment
    await asyncio.gather(*waiting, return_exceptions=True)
    assert waiting[2].result() == 3
    semaphore.give(3)
    assert semaphore.free_bytes == 10


async def test_a_large_body_waits_no_longer_than_it_may() -> None:
    """Then it is refused for now; a short one never waits."""
    budget = BodyBudget(1 << 30)
    budget.semaphore.limit_bytes = budget.semaphore.free_bytes = LONG_BODY_BYTES + 1
    with Reservation(budget, b"a") as first, Reservation(budget, b"b") as second:
        await first.begin_work(LONG_BODY_BYTES + 1, 1)
        await second.begin_work(LONG_BODY_BYTES, 0)
        with pytest.raises(Overloaded):
            await second.begin_work(LONG_BODY_BYTES + 1, 0)
        first.end_work()
        await second.begin_work(LONG_BODY_BYTES + 1, 1)
    assert budget.semaphore.free_bytes == LONG_BODY_BYTES + 1


async def test_a_late_commit_keeps_its_turn() -> None:
    """What outlives its request still weighs, until it is stored."""
    budget = BodyBudget(1 << 30)
    with Reservation(budget, b"a") as reservation:
        await reservation.begin_work(LONG_BODY_BYTES + 1, 1)
        kept = reservation.hand_over()
    free = budget.semaphore.free_bytes
    assert free == budget.semaphore.limit_bytes - LONG_BODY_BYTES - 1
    with kept:
        pass
    assert budget.semaphore.free_bytes == budget.semaphore.limit_bytes


def test_large_bodies_leave_a_quarter_to_short_ones() -> None:
    """Whoever sends them, and whatever they announce; one client holds a quarter at most."""
    part = 4 * SHORT_BODY_BYTES
    budget = BodyBudget(4 * part)
    with ExitStack() as stack:
        clients = [stack.enter_context(Reservation(budget, bytes([n]))) for n in range(5)]
        clients[0].require_room(part)  # announced, which takes nothing
        for client in clients[:3]:
            client.grow_to(part)
        with pytest.raises(Overloaded):
            clients[0].grow_to(part + 1)
        with pytest.raises(Overloaded):
            clients[3].grow_to(SHORT_BODY_BYTES + 1)
        for client in clients[3:]:
            client.grow_to(SHORT_BODY_BYTES)
        with pytest.raises(Overloaded):
            clients[3].grow_to(SHORT_BODY_BYTES + 1)
        assert budget.used_bytes == 3 * part + 2 * SHORT_BODY_BYTES
    assert budget.used_bytes == 0
    assert not budget.unverified_bytes


async def test_what_is_proven_keeps_its_clients_next_one_waiting() -> None:
    """Together they hold a quarter at most; nobody else waits, and nothing is refused for it."""
    budget, large = BodyBudget(16 * SHORT_BODY_BYTES), 3 * SHORT_BODY_BYTES
    with ExitStack() as stack:
        second = stack.enter_context(Reservation(budget, b"a"))
        other = stack.enter_context(Reservation(budget, b"b"))
        with Reservation(budget, b"a") as first:
            first.grow_to(large)
            first.verified()
            second.grow_to(SHORT_BODY_BYTES)  # that much is left
            assert second.must_wait(large)
            assert not other.must_wait(large)
            with pytest.raises(Overloaded):
                await second.wait_for_room(large, 0)
            waiting = asyncio.create_task(second.wait_for_room(large, 60))
            await settle()
            assert not waiting.done()
        await waiting
        second.grow_to(large)
    assert not budget.unverified_bytes
    assert not budget.verified_bytes


async def test_a_late_commit_counts_in_its_clients_share() -> None:
    """Until it has ended."""
    budget, large = BodyBudget(16 * SHORT_BODY_BYTES), 3 * SHORT_BODY_BYTES
    with Reservation(budget, b"a") as first:
        first.grow_to(large)
        first.verified()
        kept = first.hand_over()
    with Reservation(budget, b"a") as second:
        assert second.must_wait(large)
        with kept:
            pass
        assert not second.must_wait(large)
    assert not budget.verified_bytes
