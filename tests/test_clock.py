"""Waiting, and pauses between retries."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from berinia_webhookd.clock import Deadlines, doubling_pauses, wait_for_event


@pytest.mark.parametrize("seconds", [None, 0, 60.0])
async def test_an_event_that_is_set_is_not_waited_for(seconds: float | None) -> None:
    """Not even without any time."""
    event = asyncio.Event()
    event.set()
    assert await wait_for_event(event, seconds)


@pytest.mark.parametrize("seconds", [-1.0, 0, 0.01])
async def test_waiting_ends_with_its_time(seconds: float) -> None:
    """A time that is over already is none."""
    assert not await wait_for_event(asyncio.Event(), seconds)


async def test_being_cancelled_is_no_timeout() -> None:
    """Whoever stops a task that waits does stop it."""
    waiting = asyncio.create_task(wait_for_event(asyncio.Event(), 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("how", ["done", "late", "cancelled"])
async def test_a_future_is_waited_for_and_never_cancelled(how: str) -> None:
    """Until it is done or too late, or whoever waits is cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    soon = loop.time() + (0 if how == "late" else 60)
    waiting = asyncio.create_task(Deadlines().wait(soon, future))
    await asyncio.sleep(0)
    if how == "done":
        future.set_result("said")
    elif how == "cancelled":
        waiting.cancel()
    await asyncio.wait((waiting,), timeout=90)
    assert waiting.cancelled() == (how == "cancelled")
    assert future.done() == (how == "done")
    assert not future.cancelled()


async def test_each_of_many_is_waited_for_until_its_own_deadline() -> None:
    """In whatever order they came, and whatever became of those before."""
    loop = asyncio.get_running_loop()
    deadlines, over = Deadlines(), list[float]()

    async def wait(seconds: float) -> None:
        await deadlines.wait(begun + seconds, loop.create_future())
        over.append(seconds)

    begun = loop.time()
    waiting = [asyncio.create_task(wait(seconds)) for seconds in (0.2, 60, 0.1, 0.3, 0)]
    _, pending = await asyncio.wait(waiting[:1] + waiting[2:], timeout=90)
    assert (over, pending, waiting[1].done()) == ([0, 0.1, 0.2, 0.3], set(), False)
    waiting[1].cancel()


def test_pauses_double_up_to_the_longest() -> None:
    """For ever."""
    assert list(itertools.islice(doubling_pauses(1.0, 6.0), 5)) == [1, 2, 4, 6, 6]
