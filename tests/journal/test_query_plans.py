"""No question the daemon asks while it runs reads through a table."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import Any

import pytest
from sqlalchemy import Engine, event

from berinia_webhookd.journal import prepared
from berinia_webhookd.journal.contract import Lane
from berinia_webhookd.model import EntryKind, EntryState, Outcome, OutcomeKind

from .world import (
    AGENT,
    PostgresqlWorld,
    SqliteWorld,
    World,
    a_delivery,
    an_event,
    on_postgresql,
    on_sqlite,
)

SMALL = {"tallies", "schema", "unavailable_agents"}


class Statements:
    """Everything sent to the database, each once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, Any] = {}
        event.listen(Engine, "before_cursor_execute", self._note)
        run = prepared.run

        def note_and_run(connection: Any, sql: str, parameters: Any = ()) -> Any:
            self.seen[sql] = parameters
            return run(connection, sql, parameters)

        monkeypatch.setattr(prepared, "run", note_and_run)

    def _note(self, _c: Any, _cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        many = rest[-1]
        self.seen[statement] = parameters[0] if many else parameters

    def stop(self) -> None:
        event.remove(Engine, "before_cursor_execute", self._note)

    def scans(self, world: SqliteWorld) -> list[tuple[str, str]]:
        """Steps of query plans that read a whole table, or sort more than a batch."""
        found = []
        with sqlite3.connect(world.file) as connection:
            for statement, parameters in self.seen.items():
                if not statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
                    continue
                plan = connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
                found += [
                    (detail, statement)
                    for *_, detail in plan
                    if detail.startswith("SCAN ") and detail.split()[1] not in SMALL
                ]
        connection.close()
        return found


# Subqueries that were limited before, and partial indexes over a handful of rows.
HARMLESS = (
    "SCAN at_once",
    "SCAN fallen_due",
    "SCAN first_ready",
    "SCAN ready_opt_out",
    "SCAN candidates",
    "SCAN nxt",
    "SCAN CONSTANT ROW",
    "SCAN entries USING INDEX entries_line_running",
    "SCAN entries USING INDEX entries_callers",
    "SCAN 2 CONSTANT ROWS",  # what an INSERT was given
    "SCAN wanted VIRTUAL TABLE",  # the values that were asked about
    "SCAN kept USING INDEX deliveries_rejected",
    "SCAN deliveries USING INDEX deliveries_rejected",
)


async def live(world: World) -> None:
    """Everything that a daemon asks of its journal."""
    first, second = an_event("one"), an_event("two", sender="+33639980002")
    key = b"k" * 32
    receipt = await world.journal.accept(
        a_delivery(first, replay_key=key), first, waiting_until=world.clock.now
    )
    await world.journal.accept(a_delivery(first), first, waiting_until=world.clock.now)
    # Two at once: what SQLite does for one value it may not do for a list.
    third = an_event("three", sender="+33639980003")
    await asyncio.gather(*(world.journal.accept(a_delivery(e), e) for e in (second, third)))
    await world.journal.reject(a_delivery(first), {"kind": "MalformedDelivery"})
    lanes = [Lane(EntryKind.AGENT, frozenset({AGENT}), 9), Lane(EntryKind.REPLY, None, 9)]
    one, two, _ = (await world.journal.claim(lanes)).entries
    await world.journal.renew([one, two])
    reply = Outcome(OutcomeKind.SUCCESS, reply="yes")
    await world.settle(one, outcome=reply, late=True)
    await world.journal.release([two])
    await world.fail((await world.claim())[0], retry_in=5)
    await world.journal.wait_for_reply(receipt.event_id, world.clock.now)
    await world.journal.stop_waiting(receipt.event_id, hung_up=True)
    await world.journal.delivery_of(receipt.event_id)
    await world.journal.backlog()
    await world.journal.agents_waiting()
    await world.journal.note_unavailable(AGENT, "gone")
    await world.journal.purge()
    (posted,) = (await world.journal.claim(lanes)).entries
    await world.settle(posted, state=EntryState.DEAD)
    await world.reopen()
    await world.journal.recover()


@on_sqlite
async def test_nothing_reads_through_a_table(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every statement of the daemon's life finds its rows by an index."""
    statements = Statements(monkeypatch)
    await live(world)
    statements.stop()
    left = [(d, s) for d, s in statements.scans(world) if not d.startswith(HARMLESS)]
    assert {"INSERT INTO seen", "INSERT INTO entries"} <= {
        " ".join(statement.split()[:3]) for statement in statements.seen
    }
    assert not left, "\n".join(f"{detail}\n    {statement}" for detail, statement in left)
    assert len(statements.seen) > 30


@on_sqlite
async def test_a_long_line_is_not_read(world: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepting and settling cost the same however much waits in a conversation."""
    for _ in range(3):
        await asyncio.gather(*(world.accept() for _ in range(20)))
    read: list[int] = []
    run = prepared.run

    def count_and_run(connection: Any, sql: str, parameters: Any = ()) -> Any:
        found = run(connection, sql, parameters)
        read.append(len(found))
        return found

    monkeypatch.setattr(prepared, "run", count_and_run)
    await world.accept()
    (entry,) = await world.claim(1)
    await world.settle(entry)
    assert await world.claim(1)
    assert max(read) == 1


MANY = 20_000
# A journal that has done its work for months. Who counts is told the result, not each step.
FINISHED = f"""
DO $$ BEGIN
ALTER TABLE entries DISABLE TRIGGER USER;
INSERT INTO deliveries (id, channel, content_type, node, received_at, state)
    SELECT n::text, 'sms', 'text/plain', 'here', n, 'accepted' FROM generate_series(1, {MANY}) n;
INSERT INTO delivery_bodies SELECT id, 'body' FROM deliveries;
INSERT INTO conversations (id, channel, sender, party)
    SELECT n, 'sms', n::text, 'here' FROM generate_series(1000000, 1000000 + {MANY} / 10) n;
INSERT INTO events (id, delivery, channel, conversation, digest, data, received_at)
    SELECT n::text, n::text, 'sms', 1000000 + n / 10, n::text::bytea, '{{}}', n
    FROM generate_series(1, {MANY}) n;
INSERT INTO entries (id, event, kind, channel, agent, conversation, opt_out, place, state,
                     attempts, retries, losses, created_at, finished_at)
    SELECT id, id, 'agent', 'sms', '{AGENT}', conversation, false, -received_at, 'done',
           1, 0, 0, received_at, 2000000000000000 FROM events;
INSERT INTO attempts (entry, number, node, started_at, ended_at, outcome)
    SELECT id, 1, 'here', 1, 2, 'success' FROM entries;
INSERT INTO replies SELECT id, 'said', 'inline', false, false, 1 FROM events;
INSERT INTO seen (key, event, seen_at) SELECT digest, id, 2000000000000000 FROM events;
ALTER TABLE entries ENABLE TRIGGER USER;
END $$
"""
FEW = {"schema", "unavailable_agents", "tally_shards", "pg_namespace"}


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
    statements.stop()
    used: list[str] = []
    async with world.connected() as connection:
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for statement, parameters in statements.seen.items():
                if not statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
                    continue
                explained = await connection.fetchval(
                    f"EXPLAIN (FORMAT JSON) {statement}", *parameters
                )
                plan = json.loads(explained)[0]["Plan"]
                assert relations_read_through(plan) <= FEW, statement
                if "SKIP LOCKED" in statement and "startable_at" in statement:
                    used.append(explained)
    assert len(used) > 1
    assert all('"entries_startable"' in plan for plan in used)
