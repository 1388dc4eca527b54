"""What operators ask costs no more beside very many finished events."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from berinia_webhookd.journal import console, queries, sessions
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.database import DAY, stored
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.pause import Whose
from berinia_webhookd.journal.postgresql import Prepared
from berinia_webhookd.journal.purge import PURGE_ROWS
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.sessions import Person
from berinia_webhookd.journal.sql import text_of
from berinia_webhookd.model import EntryState, EventId, OptOut, Pause

from .batches import a_batch, decode, message
from .test_query_plans import FEW, FINISHED, HARMLESS, Statements, relations_read_through
from .world import (
    AGENT,
    START,
    PostgresqlWorld,
    SqliteWorld,
    World,
    an_event,
    on_postgresql,
    on_sqlite,
)

ANNA = "+33639980071"
# Partial indexes over the few that are open, dead or rejected.
HARMLESS_TOO = (
    *HARMLESS,
    "SCAN entries USING COVERING INDEX entries_startable",  # of each queue, one
    "SCAN entries USING INDEX entries_startable",
    "SCAN entries USING INDEX entries_oldest_ready",
    "SCAN entries USING INDEX entries_waiting",
    "SCAN entries USING INDEX entries_dead",
    "SCAN entries USING INDEX entries_discarded",
    "SCAN found",  # different errors of what is dead
    "SCAN open_entries",  # what those partial indexes find
    "SCAN sessions",  # of people who are logged in
    "SCAN consents USING INDEX consents_latest",  # from its end, as many as are asked for
)
HOUR = timedelta(hours=1)
ACTIONS = """
INSERT INTO actions (at, who, way, what)
SELECT n, 'me', 'command', 'events replay' FROM generate_series(1, 20000) n
"""
A_DAY_AGO = stored(START) - DAY


async def look_at_pages(world: World, id_: str) -> None:
    """What the console asks beside that."""
    async with ConsoleJournal(world.url, clock=world.clock) as desk:
        await desk.read(console.overview, [str(AGENT)])
        assert await desk.read(console.received_by_hour, 0)
        assert await desk.read(console.last_of_channel, "sms")
        await desk.read(console.counts)
        dead = await desk.read(console.dead)
        places = await desk.places_of(dead.groups[0], dead.until)
        assert places
        assert await desk.read(console.entry_of, EventId(id_))
        await desk.read(console.recent_actions)
        assert await desk.read(queries.delivery_of, id_)
        assert await desk.read(console.event_of_digests, [b"unknown"]) is None
        await desk.write(sessions.add_link, "link", Person("me", viewer=True))
        assert await desk.log_in("link", "login")
        assert await desk.read(sessions.person_of, "login")
        await desk.write(sessions.log_out, "login")


async def look(world: World) -> None:
    """Everything that an operator asks, and some of what they change."""
    batch = a_batch(message(ANNA, "one"), message("+33639980072", "two"), {"from": ANNA})
    await world.journal.accept(batch, decode(batch))
    await world.accept("three")
    await world.settle((await world.claim(1))[0], state=EntryState.DEAD)
    await world.accept("STOP", sender=ANNA, opt_out=OptOut.STOP)
    async with Operations(world.url, clock=world.clock, key=ConsentsKey("k" * 32)) as desk:
        for state in (None, *EntryState, "rejected"):
            await desk.list_events(Filters(state=state, channel="chat"))
        for filters in (Filters(sender=ANNA), Filters(agent=AGENT), Filters(since=world.clock.now)):
            found = await desk.list_events(filters)
        for filters in (
            Filters(kind="message", until=world.clock.now),
            Filters(group="support", sender=ANNA),
            Filters(recipient="+33639980000", text="one", since=world.clock.now - HOUR),
            Filters(message_id="x", error="y", since=world.clock.now - HOUR),
        ):
            await desk.search(filters)
        assert len(await desk.short_ids(one.id for one in found)) == len({o.id for o in found})
        await desk.show(found[0].id)
        assert [one async for one in desk.export(Filters(sender=ANNA))]
        await desk.pause(Whose(ANNA), Pause("me"))
        await desk.pause(Whose(party=an_event().conversation.party), Pause("me"))
        for paused in (True, False):
            assert await desk.list_conversations(paused=paused)
        assert (await desk.show_conversation(found[0].id)).messages
        assert await desk.show_conversations(Whose(ANNA))
        await desk.resume(Whose(ANNA), discard=True)
        await desk.stats()
        await look_at_pages(world, found[0].id)
        await desk.last_received_at()
        await desk.replay_matching(Filters(state=EntryState.DEAD), decode=decode)
        await desk.replay_matching(Filters(state="rejected"), decode=decode)
        await desk.discard([found[0].id])
        await desk.discard_matching(Filters(state=EntryState.READY, text="one"))
        await desk.consents(channel="sms")
        await desk.consents_of(ANNA)
        assert [one async for one in desk.export_consents()]
        await desk.erase(ANNA, patience_seconds=0)
    await world.journal.purge()


@on_sqlite
async def test_nothing_reads_through_a_table(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every statement finds its rows by an index; the newest ones without sorting the others."""
    statements = Statements(monkeypatch)
    await look(world)
    left = [(d, s) for d, s in statements.scans(world) if not d.startswith(HARMLESS_TOO)]
    assert not left, "\n".join(f"{detail}\n    {statement}" for detail, statement in left)
    assert len(statements.seen) > 40


@on_sqlite
async def test_what_came_is_counted_without_reading_it(world: SqliteWorld) -> None:
    """However much came within a day, its ids are all that is looked at."""
    with closing(sqlite3.connect(world.file)) as journal:
        asked = journal.execute(f"EXPLAIN QUERY PLAN {text_of('sqlite', 'received_since')}", ("",))
        assert [step[-1] for step in asked] == [
            "SEARCH events USING COVERING INDEX events_id (id>?)",
        ]


@on_postgresql
async def test_nothing_reads_through_a_large_table(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside very many finished entries every question is answered by an index."""
    await world.execute(FINISHED)
    await world.execute(f"UPDATE entries SET finished_at = {A_DAY_AGO}")
    await world.execute(ACTIONS)
    await world.execute("SELECT setval('numbers', 2000)")  # behind a gap, which misleads estimates
    await world.execute("ANALYZE")
    statements = Statements(monkeypatch)
    await look(world)
    for statement, values in statements.of_few().items():
        if not statement.startswith("LOCK"):  # which has no plan
            await assert_indexed(world, statement, *values)


@on_postgresql
async def test_a_purge_finds_the_oldest_where_all_are_old(world: PostgresqlWorld) -> None:
    """A batch costs no more when retention was shortened, and very many are to go."""
    await world.execute(FINISHED)
    await world.execute(f"UPDATE entries SET finished_at = {A_DAY_AGO} + place")
    await world.execute("ANALYZE")
    world.clock.move(31 * 86_400)
    await assert_indexed(world, Prepared("finished").text, 30 * DAY, 0, 0, PURGE_ROWS)
    # With their digests: they were received long before.
    assert await world.journal.purge() == 2 * PURGE_ROWS


async def assert_indexed(world: PostgresqlWorld, statement: str, *values: object) -> None:
    """A statement reads through no table but the small ones."""
    (explained,) = await world.execute(f"EXPLAIN (FORMAT JSON) {statement}", *values)
    plan = json.loads(explained[0])[0]["Plan"]
    assert relations_read_through(plan) <= FEW, (statement, values)


@on_sqlite
async def test_the_newest_are_found_without_sorting_all(world: SqliteWorld) -> None:
    """A list ends with its last row, however many events came before."""
    await world.accept()
    values = {"first": 0, "end": 2**62, "since": 0, "until": 2**62, "most": 50}
    nothing = dict.fromkeys(("kind", "channel", "agent", "state"))
    with closing(sqlite3.connect(world.file)) as journal:
        statement = f"EXPLAIN QUERY PLAN {text_of('sqlite', 'list_entries')}"
        plan = [detail for *_, detail in journal.execute(statement, {**values, **nothing})]
    assert plan[0].startswith("SEARCH events USING INTEGER PRIMARY KEY")
    assert not [step for step in plan if "ORDER BY" in step]


@on_postgresql
async def test_the_newest_are_found_without_sorting_all_in_a_database(
    world: PostgresqlWorld,
) -> None:
    await world.execute(FINISHED)
    await world.execute("ANALYZE")
    values = dict.fromkeys(("kind", "channel", "agent", "state"), "NULL")
    values |= {"first": "0", "end": str(2**62), "since": "0", "until": str(2**62), "most": "50"}
    text = text_of("postgresql", "list_entries")
    for name, value in values.items():
        text = re.sub(rf"(?<!:):{name}\b", value, text)
    (explained,) = await world.execute(f"EXPLAIN (FORMAT JSON) {text}")
    assert "Sort" not in kinds_of(json.loads(explained[0])[0]["Plan"])


def kinds_of(plan: dict[str, Any]) -> set[str]:
    """The kinds of the nodes of a plan."""
    return {str(plan["Node Type"])}.union(*map(kinds_of, plan.get("Plans", ())))
