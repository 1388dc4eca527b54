"""No question the daemon asks while it runs reads through a table."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.config.values import Rate
from berinia_webhookd.journal import postgresql, sqlite
from berinia_webhookd.journal.contract import Budget, ClaimRequest
from berinia_webhookd.journal.deliveries import EVENTS_EACH
from berinia_webhookd.journal.gather import MOST_MESSAGES
from berinia_webhookd.model import (
    EntryKind,
    EntryState,
    OptOut,
    Outcome,
    OutcomeKind,
    Pause,
    PauseRequest,
)

from .world import (
    AGENT,
    SMS,
    PostgresqlWorld,
    SqliteWorld,
    World,
    a_delivery,
    an_event,
    on_postgresql,
    on_sqlite,
)

SMALL = {"tallies", "agents", "schema", "unavailable_agents", "sqlite_master"}

# Everybody who ever wrote to an address of ours.
MOST_ROWS = "of_group = 0"


class Statements:
    """Everything sent to a database with its values, each text once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, Sequence[Any]] = {}
        self.rows: list[int] = []  # how many came back, statement by statement
        for of_engine in (sqlite.SqliteTransaction, postgresql.PostgresqlTransaction):
            made = of_engine.__init__

            def make(transaction: Any, connection: Any, *rest: Any, made: Any = made) -> None:
                made(transaction, Noting(connection, self), *rest)

            monkeypatch.setattr(of_engine, "__init__", make)

    def of_few(self) -> dict[str, Sequence[Any]]:
        """Those that do not ask for most of the rows there are."""
        return {text: values for text, values in self.seen.items() if MOST_ROWS not in text}

    def scans(self, world: SqliteWorld) -> list[tuple[str, str]]:
        """Steps of query plans that read a whole table, or sort more than a batch."""
        found = []
        with closing(sqlite3.connect(world.file)) as connection:
            for statement, values in self.of_few().items():
                plan = connection.execute("EXPLAIN QUERY PLAN " + statement, values)
                found += [
                    (detail, statement)
                    for *_, detail in plan
                    if detail.startswith("SCAN ")
                    and detail.split()[1] not in SMALL
                    and not detail.endswith("CONSTANT ROWS")  # what an INSERT was given
                ]
        return found


class Noting:
    """A driver's connection whose statements are noted."""

    def __init__(self, connection: Any, statements: Statements) -> None:
        self._connection = connection
        self._statements = statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        self._statements.seen[statement] = values
        cursor = self._connection.execute(statement, values)
        return Counted(cursor, self._statements) if statement.startswith("SELECT") else cursor

    async def fetch(self, statement: str, *values: Any) -> Any:
        if not statement.startswith("LOCK"):  # which has no plan
            self._statements.seen[statement] = values
        return await self._connection.fetch(statement, *values)

    async def fetchmany(self, statement: str, rows: Sequence[Any]) -> Any:
        self._statements.seen[statement] = rows[0]
        return await self._connection.fetchmany(statement, rows)


class Counted:
    """A cursor whose rows are counted."""

    def __init__(self, cursor: Any, statements: Statements) -> None:
        self._cursor = cursor
        self._statements = statements

    def fetchall(self) -> Any:
        rows = self._cursor.fetchall()
        self._statements.rows.append(len(rows))
        return rows

    def __iter__(self) -> Any:
        return iter(self._cursor)


# Subqueries that were limited before, and partial indexes over a handful of rows.
HARMLESS = (
    "SCAN at_once",
    "SCAN behind",
    "SCAN ready",
    "SCAN fallen_due",
    "SCAN first",
    "SCAN recent",
    "SCAN candidates",
    "SCAN next",
    "SCAN outcome",
    "SCAN busy",  # agents with anything to do
    "SCAN held_conversations",
    "SCAN recent",
    "SCAN entries_of_conversations",
    "SCAN newest",
    "SCAN conversations USING INDEX conversations_paused",
    "SCAN entries USING INDEX entries_held",
    "SCAN CONSTANT ROW",
    "SCAN entries USING INDEX entries_running",
    "SCAN entries USING INDEX entries_callers",
    "SCAN entries USING INDEX entries_held",
    "SCAN wanted",  # the values that were asked about
    "SCAN kept USING INDEX deliveries_rejected",
    "SCAN deliveries USING INDEX deliveries_rejected",
)


async def live(world: World) -> None:
    """Everything that a daemon asks of its journal."""
    first, second = an_event("one"), an_event("two", sender="+33639980002")
    key = b"k" * 32
    receipt = await world.accept_event(first, replay_key=key, wait_seconds=0)
    await world.accept_event(first, wait_seconds=0)
    # Two at once: what SQLite does for one value it may not do for a list.
    third = an_event("three", sender="+33639980003")
    await asyncio.gather(*(world.accept_event(e) for e in (second, third)))
    await world.journal.reject(a_delivery(first), {"kind": "MalformedDelivery"})
    budgets = {AGENT: Budget(daily_cost=5, per_sender=(Rate(9, 3600),))}
    lanes = [
        ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 9, budgets),
        ClaimRequest(EntryKind.REPLY, None, 9),
    ]
    one, two, _ = (await world.journal.claim(lanes)).entries
    await world.journal.renew([one, two])
    reply = Outcome(OutcomeKind.SUCCESS, reply="yes", pause=Pause("an agent", seconds=1))
    await world.settle(one, outcome=reply, late=True)
    await world.accept("while it is paused")
    requests = [
        PauseRequest(SMS, None, "somewhere", Pause("bot")),
        PauseRequest(SMS, third.sender, None, Pause("bot", seconds=1)),
    ]
    await world.journal.pause(requests)
    await world.journal.release([two])
    await world.fail((await world.claim())[0], retry_in=5)
    await world.journal.wait_for_reply(receipt.event_id, 0)
    await world.journal.stop_waiting(receipt.event_id, hung_up=True)
    await world.journal.delivery_of(receipt.event_id)
    await world.journal.backlog()
    await world.journal.received_between(world.clock() - timedelta(hours=1), world.clock(), 100)
    await world.journal.agents_waiting()
    await world.journal.note_unavailable(AGENT, "gone")
    await world.journal.purge()
    (posted,) = (await world.journal.claim(lanes)).entries
    await world.settle(posted, state=EntryState.DEAD)
    said = an_event("STOP", sender="+33639980004", opt_out=OptOut.STOP)
    await world.accept_event(said)
    answer = an_event("Yes", sender=said.sender)
    answer = answer._replace(as_start=answer._replace(opt_out=OptOut.START))
    await world.accept_event(answer)
    world.clock.move(1)
    await world.reopen(gathering_of=lambda _: Gathering(5, 30))
    await world.journal.recover()
    await live_of_bursts(world)
    await world.reopen()
    await live_with_guards(world, lanes)


async def live_of_bursts(world: World) -> None:
    """The same of messages that are handed over together."""
    for text in ("four", "five", "six"):
        gathered = an_event(text, sender="+33639980009")
        receipt = await world.accept_event(gathered, wait_seconds=30)
    world.clock.move(5)
    (burst,) = [entry for entry in await world.claim() if entry.members]
    await world.journal.begin(burst)
    await world.fail(burst, retry_in=1)
    world.clock.move(1)
    (burst,) = [entry for entry in await world.claim() if entry.members]
    await world.journal.release([burst])
    (burst,) = [entry for entry in await world.claim() if entry.members]
    await world.journal.begin(burst)
    await world.settle(burst)
    await world.journal.wait_for_reply(receipt.event_id, 0)
    await world.accept("seven", sender="+33639980009")
    world.clock.move(5)
    await world.claim()
    await world.crash()


async def live_with_guards(world: World, lanes: Sequence[ClaimRequest]) -> None:
    """Everything that it asks where guards hold something."""
    for cost in (1, 9, 0):
        await world.accept("the same", sender="+33639980006")
        for entry in (await world.journal.claim(lanes)).entries:
            await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, cost=cost))
    await world.accept("costs too much", sender="+33639980007")
    assert (await world.journal.claim(lanes)).holds
    for number in range(5):
        await world.accept(f"broken {number}", sender="+33639980008")
        await world.journal.claim([replace(lanes[0], budgets={})])
    for entry in await world.claim():
        await world.settle(entry, outcome=Outcome(OutcomeKind.CRASH), state=EntryState.DEAD)
    await world.journal.claim(lanes)
    await world.journal.backlog()


@on_sqlite
async def test_nothing_reads_through_a_table(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every statement of the daemon's life finds its rows by an index."""
    statements = Statements(monkeypatch)
    await live(world)
    left = [(d, s) for d, s in statements.scans(world) if not d.startswith(HARMLESS)]
    assert not left, "\n".join(f"{detail}\n    {statement}" for detail, statement in left)
    assert len(statements.seen) > 30


@on_sqlite
async def test_a_long_queue_is_not_read(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepting and settling cost the same however much waits in a conversation."""
    for _ in range(3):
        await asyncio.gather(*(world.accept() for _ in range(20)))
    statements = Statements(monkeypatch)
    await world.accept()
    (entry,) = await world.claim(1)
    await world.settle(entry)
    assert await world.claim(1)
    assert max(statements.rows) == 1


@on_sqlite
async def test_what_does_not_concern_a_message_is_not_asked(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages without loop, budget or failure take four statements to claim and three to settle,
    and one that counts them: neither guards, bursts, replies nor their queues are asked.
    """
    await asyncio.gather(*(world.accept(sender=f"+336399800{n}") for n in range(10, 20)))
    statements = Statements(monkeypatch)
    entries = await world.claim(10)
    claiming = len(statements.seen.keys() - {"BEGIN IMMEDIATE", "COMMIT"})
    await asyncio.gather(*map(world.settle, entries))
    assert len(entries) == 10
    # The one that counts entries by state has the same text both times.
    assert (claiming, len(statements.seen.keys() - {"BEGIN IMMEDIATE", "COMMIT"})) == (5, 8)


async def steps_of_one_life(world: SqliteWorld, waiting: int, claimed: int) -> int:
    """How many steps of SQLite's machine one more message, and a pause, cost behind so many."""
    for start in range(0, waiting, 500):
        await asyncio.gather(*(world.accept() for _ in range(start, min(waiting, start + 500))))
    database: Any = world.journal._database
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    await database.do(lambda connection: connection.set_progress_handler(step, 1))
    await world.accept()
    world.clock.move(30)
    (entry,) = await world.claim(1)
    assert len(entry.messages) == claimed
    handed = Outcome(OutcomeKind.SUCCESS, pause=Pause("an agent"))
    await world.settle(entry, outcome=handed, state=EntryState.WAITING, due_in_seconds=5)
    await world.accept()
    await database.do(lambda connection: connection.set_progress_handler(None, 0))
    return count


@on_sqlite
async def test_ten_thousand_that_wait_cost_no_more_than_ten(
    closed_world: SqliteWorld, tmp_path: Path
) -> None:
    """Accepting, claiming and settling in one conversation, counted in steps of the database."""
    found = []
    for waiting in (10, 10_000):
        world = SqliteWorld(tmp_path / str(waiting))
        await world.open()
        found.append(await steps_of_one_life(world, waiting, 1))
        await world.journal.close()
    few, many = found
    assert many <= few * 1.1


@on_sqlite
async def test_ten_thousand_that_gather_cost_no_more_than_fifty(
    closed_world: SqliteWorld, tmp_path: Path
) -> None:
    """No more is looked at than what is handed over."""
    found = []
    for waiting in (MOST_MESSAGES, 10_000):
        world = SqliteWorld(tmp_path / str(waiting))
        await world.open(gathering_of=lambda _: Gathering(5, 30))
        found.append(await steps_of_one_life(world, waiting, MOST_MESSAGES))
        await world.journal.close()
    few, many = found
    assert many <= few * 1.1


MANY = 20_000
# A journal that has done its work for months.
FINISHED = f"""
DO $$ BEGIN
INSERT INTO deliveries (number, id, channel, target, content_type, node, received_at, state, body)
    SELECT -n, n::text, 'sms', '/', 'text/plain', 'here', n, 'accepted', 'body'
    FROM generate_series(1, {MANY}) n;
INSERT INTO conversations (id, channel, sender, party, of_group)
    SELECT n, 'sms', n::text, 'here', 0 FROM generate_series(1000000, 1000000 + {MANY} / 10) n;
INSERT INTO events (number, id, delivery, place, kind, conversation, digest, raw_in_body, data)
    SELECT -n * {EVENTS_EACH}::bigint, '00' || n, -n, -n * {EVENTS_EACH}::bigint, 'message',
           1000000 + n / 10, n::text::bytea, 0, '{{}}'
    FROM generate_series(1, {MANY}) n;
INSERT INTO authors SELECT number, number || '@example.com' FROM events;
INSERT INTO entries (place, event, kind, agent, conversation, opt_out, state,
                     attempts, retries, losses, created_at, finished_at)
    SELECT number, number, 'agent', '{AGENT}', conversation, 0, 'done',
           1, 0, 0, 0, 2000000000000000 FROM events;
INSERT INTO attempts (entry, number, node, started_at, ended_at, outcome)
    SELECT place, 1, 'here', 1, 2, 'success' FROM entries;
INSERT INTO replies SELECT number, 'said', 'inline', 0, 0, 1 FROM events;
INSERT INTO runs (sender, agent, started_at, entry)
    SELECT n::text, '{AGENT}', 2000000000000000, n FROM generate_series(1, {MANY}) n;
INSERT INTO seen (digest, event, received_at)
    SELECT ('gone' || n)::bytea, n::text, 2000000000000000 FROM generate_series(1, {MANY}) n;
INSERT INTO consents (address, channel, state, since, latest_at)
    SELECT '+' || n, 'sms', 'opted_out', 1, 1 FROM generate_series(1, {MANY}) n;
END $$
"""
FEW = {"schema", "agents", "unavailable_agents", "tallies", "pg_namespace", "pg_class", "sessions"}


def relations_read_through(plan: dict[str, Any]) -> set[str]:
    """The tables of which a plan reads every row."""
    found = {str(plan["Relation Name"])} if plan["Node Type"] == "Seq Scan" else set[str]()
    return found.union(*(relations_read_through(part) for part in plan.get("Plans", ())))


@on_postgresql
async def test_nothing_reads_through_a_large_table(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside very many finished entries every question is answered by an index, and the claim by
    its own; also by the plan that is made once for all values.
    """
    await world.execute(FINISHED)
    await world.execute("ANALYZE")
    statements = Statements(monkeypatch)
    await live(world)
    used: list[str] = []
    async with world.connected() as connection:
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for statement, values in statements.of_few().items():
                explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *values)
                plan = json.loads(explained)[0]["Plan"]
                assert relations_read_through(plan) <= FEW, statement
                claims = "SKIP LOCKED" in statement and "startable_at" in statement
                if claims and "opt_out = 1" not in statement:  # of those there are few
                    used.append(explained)
    assert len(used) > 1
    assert [plan for plan in used if '"entries_startable"' not in plan] == []
