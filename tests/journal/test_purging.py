"""What is past its retention goes by itself, and is recognised for longer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest

from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import EntryState, RejectedItem

from .world import (
    PostgresqlWorld,
    SqliteWorld,
    World,
    a_delivery,
    an_event,
    on_postgresql,
    on_sqlite,
)

DAY = 86_400


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Operations]:
    async with Operations(world.url, clock=world.clock) as operations:
        yield operations


async def finish(world: World, **changes: Any) -> None:
    for entry in await world.claim():
        await world.settle(entry, **changes)


async def test_old_data_goes_and_the_dead_stay(world: World, desk: Operations) -> None:
    """What is finished goes after its retention, what is dead or open never, digests later."""
    await world.reopen(retention_days=30, dedupe_days=400)
    await world.accept("done", sender="+33639980001")
    await world.accept("dead", sender="+33639980002")
    for entry in await world.claim():
        await world.settle(entry, state=EntryState(entry.event.body))
    await world.accept("discarded", sender="+33639980003")
    await desk.discard([one.id for one in await desk.list_events(Filters(state=EntryState.READY))])
    await world.accept("open", sender="+33639980004")
    await world.journal.reject(a_delivery(an_event("x")), {"kind": "MalformedDelivery"})
    world.clock.move(30 * DAY)
    assert await world.journal.purge() == 0
    world.clock.move(1)
    assert await world.journal.purge() == 3
    assert await world.journal.purge() == 0
    assert await world.states() == {"dead": 1, "ready": 1}
    assert await desk.list_events(Filters(state="rejected")) == []
    assert (await world.accept("done", sender="+33639980001")).duplicate
    world.clock.move(371 * DAY)
    assert await world.journal.purge() == 2
    assert not (await world.accept("done", sender="+33639980001")).duplicate


async def test_an_event_is_recognised_for_days_after_its_receipt(world: World) -> None:
    """However late it was finished, and however late it was purged."""
    receipt = await world.accept("once")
    world.clock.move(340 * DAY)
    await finish(world)
    world.clock.move(31 * DAY)
    assert await world.journal.purge() == 1
    assert await world.states() == {}
    again = await world.accept("once")
    assert (again.event_id, again.duplicate) == (receipt.event_id, True)
    world.clock.move(29 * DAY)
    assert await world.journal.purge() == 0
    world.clock.move(1)
    assert await world.journal.purge() == 1
    assert not (await world.accept("once")).duplicate


async def test_a_used_signature_outlives_its_event(world: World) -> None:
    """With another message it is refused, with the same it is answered as before."""
    event, key = an_event("once"), b"k" * 32
    receipt = await world.accept_event(event, replay_key=key)
    await finish(world)
    world.clock.move(31 * DAY)
    assert await world.journal.purge() == 1
    with pytest.raises(ReplayedSignature):
        await world.accept_event(an_event("another"), replay_key=key)
    assert (await world.accept_event(event, replay_key=key)).event_id == receipt.event_id


async def test_a_delivery_goes_with_the_last_of_its_events(world: World, desk: Operations) -> None:
    """While one of them is open or dead, all of it stays; then all of it goes at once."""
    events = [an_event(text, sender=f"+3363998000{n}") for n, text in enumerate("abc")]
    receipts = await world.accept_events(*events)
    first, second, third = await world.claim()
    await world.settle(first)
    await world.settle(second, state=EntryState.DEAD)
    world.clock.move(31 * DAY)
    await world.settle(third)
    assert await world.journal.purge() == 0
    await desk.discard([receipts[1].event_id])
    world.clock.move(31 * DAY)
    assert await world.journal.purge() == 1
    assert await world.states() == {}
    assert await desk.list_events(Filters()) == []
    again = await world.accept_events(*events)
    assert [one.event_id for one in again] == [one.event_id for one in receipts]
    assert all(one.duplicate for one in again)


async def test_a_delivery_that_was_rejected_in_part_goes_as_well(
    world: World, desk: Operations
) -> None:
    """With its events, whatever became of its rejected items."""
    await world.accept_events(an_event("one"), rejected=(RejectedItem("items.1", "no text"),))
    await finish(world)
    world.clock.move(31 * DAY)
    assert await world.journal.purge() == 1
    assert await desk.list_events(Filters(state="rejected")) == []


@on_sqlite
async def test_a_purge_that_fails_half_way_has_done_nothing(world: SqliteWorld) -> None:
    """Between writing digests down and deleting; a repeat that comes then is a repeat."""
    receipt = await world.accept("once")
    await finish(world)
    world.clock.move(31 * DAY)
    stop = (
        "BEFORE DELETE ON deliveries WHEN old.number = (SELECT min(number) FROM deliveries) "
        "BEGIN SELECT RAISE(ABORT, 'stopped'); END"
    )
    with closing(sqlite3.connect(world.file)) as other:
        other.execute(f"CREATE TRIGGER stop {stop}")
        with pytest.raises(JournalUnavailable):
            await world.journal.purge()
        assert other.execute("SELECT count(*) FROM seen").fetchone() == (0,)
        assert (await world.accept("once")).event_id == receipt.event_id
        other.execute("DROP TRIGGER stop")
    assert await world.journal.purge() == 1
    assert (await world.accept("once")).event_id == receipt.event_id
    assert await world.states() == {}


@on_postgresql
@pytest.mark.parametrize("locked", ["deliveries", "unavailable_agents"])
async def test_a_repeat_that_comes_while_a_purge_stands_still_is_a_repeat(
    world: PostgresqlWorld, locked: str
) -> None:
    """Between writing digests down and deleting, or between deleting and the commit."""
    receipt = await world.accept("once")
    await finish(world)
    await world.journal.note_unavailable(receipt.agent, "gone")
    world.clock.move(31 * DAY)
    there = await world.open(node="there")
    async with world.connected() as other:
        held = other.transaction()
        await held.start()
        await other.execute(f"SELECT 1 FROM {locked} FOR UPDATE")
        purge = asyncio.create_task(world.journals[0].purge())
        await waiting_for_locks(world, 1)
        repeat = asyncio.create_task(world.accept_event(an_event("once"), journal=there))
        await waiting_for_locks(world, 2)
        await held.rollback()
    assert await purge == 1
    again = await repeat
    assert (again.event_id, again.duplicate) == (receipt.event_id, True)
    assert await world.states() == {}
    assert (await world.accept("once")).event_id == receipt.event_id


async def waiting_for_locks(world: PostgresqlWorld, count: int) -> None:
    """Wait until so many sessions wait for others."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event_type = 'Lock'"
    )
    async with world.connected() as connection:
        while await connection.fetchval(query) < count:
            await connection.execute("SELECT pg_sleep(0.01)")


@on_sqlite
async def test_a_large_delivery_that_stays_does_not_slow_purging(world: SqliteWorld) -> None:
    """Ten times as many finished events beside a dead one cost about ten times as much to pass
    over, and not a hundred times, counted in steps of the database.
    """
    steps = []
    for size in (50, 500):
        sender = f"+33639980{size}"
        events = [an_event(sender=f"{sender}{n}") for n in range(size)]
        await world.accept_events(*events)
        *others, last = await world.claim(size)
        for entry in others:
            await world.settle(entry)
        await world.settle(last, state=EntryState.DEAD)
        world.clock.move(31 * DAY)
        steps.append(await steps_of_purge(world))
    assert steps[1] < 15 * steps[0]


async def steps_of_purge(world: SqliteWorld) -> int:
    """How many instructions of SQLite's machine a purge costs."""
    database: Any = world.journal._database
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    await database.do(lambda connection: connection.set_progress_handler(step, 1))
    assert await world.journal.purge() == 0
    await database.do(lambda connection: connection.set_progress_handler(None, 0))
    return count
