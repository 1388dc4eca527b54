"""What a page of the console asks reads few rows, however many events there are: counted by
PostgreSQL itself, which plans by what it believes of tables.
"""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from berinia_webhookd.journal import console, queries
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import EntryState, EventId

from .test_query_plans import FINISHED, Statements
from .world import AGENT, PostgresqlWorld, on_postgresql

ANNA: Final = "+33639980071"
ROWS: Final = 51
MOST_ROWS: Final = 5000  # a quarter of what there is of events; of conversations there are fewer
SEARCHES: Final = {
    "the newest": Filters(),
    "of a state": Filters(state=EntryState.DONE),
    "of a state with few": Filters(state=EntryState.DEAD),
    "of a channel": Filters(channel="sms"),
    "of an agent": Filters(agent=str(AGENT)),
    "of somebody unknown": Filters(sender="+33600000000"),
    "of a person": Filters(sender=ANNA),
    "of one with many": Filters(sender="7"),
    "of a group": Filters(group="support"),
    "of an author": Filters(sender="1048576@example.com"),
}


@pytest.fixture
async def long_world(world: PostgresqlWorld) -> PostgresqlWorld:
    """A journal of very many events that are done, and one of a person's."""
    await world.execute(FINISHED.replace("-n", "n"))  # numbers as they are drawn
    count = "SELECT 'agent', 'sms', $1, 'done', 0, count(*) FROM events"
    await world.execute(
        f"INSERT INTO tallies (kind, channel, agent, state, shard, total) {count}", str(AGENT)
    )
    await world.execute("SELECT setval('numbers', 30000)")
    await world.accept(sender=ANNA)
    await world.execute("ANALYZE")
    return world


@on_postgresql
@pytest.mark.parametrize("what", SEARCHES)
async def test_a_first_page_reads_few_rows(
    long_world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    statements = Statements(monkeypatch)
    async with ConsoleJournal(long_world.url, clock=long_world.clock) as desk:
        await desk.search(SEARCHES[what], ROWS)
    await assert_few_rows(long_world, statements)


@on_postgresql
async def test_a_message_and_its_conversation_read_few_rows(
    long_world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = await long_world.accept(sender=ANNA)
    statements = Statements(monkeypatch)
    async with ConsoleJournal(long_world.url, clock=long_world.clock) as desk:
        await desk.show(receipt.event_id)
        await desk.read(queries.delivery_of, receipt.event_id)
        await desk.read(console.entry_of, EventId(receipt.event_id))
        await desk.show_conversation(receipt.event_id, limit=ROWS)
        await desk.read(console.event_of_digests, [b"unknown"])
        await desk.read(console.counts)
        await desk.read(console.dead)
        await desk.read(console.recent_actions)
    await assert_few_rows(long_world, statements)


@on_postgresql
async def test_a_list_of_conversations_reads_few_events_for_each(
    long_world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where most of the newest are of different people; all the same, one with few is complete."""
    for number in range(60):
        await long_world.accept(sender=f"+3363998{number:04d}")
    statements = Statements(monkeypatch)
    async with ConsoleJournal(long_world.url, clock=long_world.clock) as desk:
        newest = await desk.list_conversations(paused=False, limit=ROWS)
    assert [one.sender for one in newest] == [f"+3363998{n:04d}" for n in range(59, 59 - ROWS, -1)]
    await assert_few_rows(long_world, statements, most=1000)
    async with ConsoleJournal(long_world.url, clock=long_world.clock) as desk:
        assert len(await desk.list_conversations(paused=False, limit=400)) == 400


async def assert_few_rows(
    world: PostgresqlWorld, statements: Statements, *, most: int = MOST_ROWS
) -> None:
    for statement, values in list(statements.seen.items()):
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
        (explained,) = await world.execute(explain, *values)
        plan = json.loads(explained[0])[0]["Plan"]
        assert rows_read(plan) <= most, (statement, values)


def rows_read(plan: dict[str, Any]) -> float:
    """The rows that a plan's largest step made or threw away."""
    thrown = sum(plan[name] for name in plan if name.startswith("Rows Removed by"))
    own = (plan["Actual Rows"] + thrown) * plan["Actual Loops"]
    return max([float(own), *map(rows_read, plan.get("Plans", ()))])
