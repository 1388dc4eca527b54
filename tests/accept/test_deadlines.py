"""Waiting for work, at most until a deadline."""

from __future__ import annotations

import asyncio

import pytest

from berinia_webhookd.accept.deadlines import Deadlines

SOON_SECONDS = 0.02
NEVER_SECONDS = 3600.0


async def test_work_that_ends_in_time_ends_the_wait() -> None:
    """However it ends."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    done, failed = loop.create_future(), loop.create_future()
    loop.call_soon(done.set_result, 1)
    loop.call_soon(failed.set_exception, ValueError())
    for work in (done, failed):
        await deadlines.wait(work, loop.time() + NEVER_SECONDS)
        assert work.done()
    assert isinstance(failed.exception(), ValueError)
    assert not len(deadlines)
    deadlines.close()


async def test_work_that_does_not_goes_on() -> None:
    """The wait is over at its deadline, also one that is past; the work is left alone."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    work = loop.create_future()
    for latest in (loop.time() + SOON_SECONDS, loop.time() - 1):
        await deadlines.wait(work, latest)
        assert loop.time() >= latest - SOON_SECONDS  # timers count whole milliseconds
        assert not work.done()
    work.cancel()


async def test_each_has_its_own_deadline() -> None:
    """Whoever comes first may have the longest patience, and the last the least."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    work = loop.create_future()
    ended: list[int] = []

    async def wait(number: int, seconds: float) -> None:
        await deadlines.wait(work, loop.time() + seconds)
        ended.append(number)

    patience = (NEVER_SECONDS, 4 * SOON_SECONDS, SOON_SECONDS, 8 * SOON_SECONDS)
    waits = [loop.create_task(wait(*pair)) for pair in enumerate(patience)]
    await asyncio.wait(waits[1:])
    assert sorted(ended) == [1, 2, 3]
    assert len(deadlines) == 1
    work.set_result(None)
    await waits[0]
    deadlines.close()


async def test_whoever_gives_up_leaves_the_work_alone() -> None:
    """A caller that hung up."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    work = loop.create_future()
    wait = loop.create_task(deadlines.wait(work, loop.time() + NEVER_SECONDS))
    await asyncio.sleep(0)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    assert not work.done()
    assert not len(deadlines)
    work.set_result(None)
    deadlines.close()
