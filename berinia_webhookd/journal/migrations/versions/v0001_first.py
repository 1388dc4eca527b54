"""The first schema, with its tables as they were then: `journal/schema.py` has moved on, and what
later steps add to it must be missing here.
"""

from __future__ import annotations

from typing import Any, Final

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    literal_column,
    text,
)

revision = "0001"
down_revision = None

WORDS: Final = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", WORDS, primary_key=True),
    Column("channel", WORDS, nullable=False),
    Column("content_type", WORDS, nullable=False),
    Column("node", WORDS, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("state", WORDS, nullable=False),
    Column("rejection", WORDS),
    Column("replay_key", LargeBinary),
    Column("once_key", LargeBinary),
)

delivery_bodies = Table(
    "delivery_bodies",
    metadata,
    Column("delivery", WORDS, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("channel", WORDS, nullable=False),
    Column("sender", WORDS),
    Column("party", WORDS),
    sqlite_autoincrement=True,
)
Index(
    "conversations_parties",
    conversations.c.channel,
    conversations.c.sender,
    conversations.c.party,
    unique=True,
)

events = Table(
    "events",
    metadata,
    Column("id", WORDS, primary_key=True),
    Column(
        "delivery",
        WORDS,
        ForeignKey("deliveries.id", ondelete="CASCADE"),
        nullable=False,
        unique=True,
    ),
    Column("channel", WORDS, nullable=False),
    Column("conversation", BigInteger, ForeignKey("conversations.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("data", WORDS),
    Column("opt_out", WORDS),
    Column("received_at", BigInteger, nullable=False),
)
Index("events_conversation", events.c.conversation)

entries = Table(
    "entries",
    metadata,
    Column("id", WORDS, primary_key=True),
    Column("event", WORDS, ForeignKey("events.id", ondelete="CASCADE"), nullable=False),
    Column("kind", WORDS, nullable=False),
    Column("channel", WORDS, nullable=False),
    Column("agent", WORDS, nullable=False),
    Column("conversation", BigInteger, nullable=False),
    Column("opt_out", Boolean, nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("state", WORDS, nullable=False),
    Column("startable_at", BigInteger),
    Column("due_at", BigInteger),
    Column("hold_until", BigInteger),
    Column("lease_until", BigInteger),
    Column("lease_holder", WORDS),
    Column("node", WORDS),
    Column("started_at", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("waiting_until", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
)


def _state_is(state: str) -> ColumnElement[bool]:
    return entries.c.state == literal_column(f"'{state}'")


def _index(
    name: str, *columns: Column[Any], where: ColumnElement[bool] | None = None, unique: bool = False
) -> None:
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_index(
    "deliveries_rejected", deliveries.c.id, where=deliveries.c.state == literal_column("'rejected'")
)
_index(
    "deliveries_once",
    deliveries.c.once_key,
    where=deliveries.c.once_key.is_not(None),
    unique=True,
)

_LINE: Final = (entries.c.conversation, entries.c.kind, entries.c.agent)
_STARTABLE: Final = entries.c.startable_at.is_not(None)

_index("entries_place", entries.c.place, unique=True)
_index("entries_event", entries.c.event, entries.c.kind)
_index("entries_line_ready", *_LINE, entries.c.place, where=_state_is("ready"))
_index(
    "entries_line_ready_opt_out",
    *_LINE,
    entries.c.place,
    where=_state_is("ready") & entries.c.opt_out,
)
_index("entries_line_waiting", *_LINE, entries.c.place, where=_state_is("waiting"))
_index("entries_line_running", *_LINE, where=_state_is("running"), unique=True)
_index("entries_line_next", *_LINE, where=_STARTABLE, unique=True)
_index(
    "entries_startable",
    entries.c.kind,
    entries.c.agent,
    entries.c.startable_at,
    entries.c.place,
    where=_STARTABLE,
)
_index("entries_oldest_ready", entries.c.agent, entries.c.place, where=_state_is("ready"))
_index(
    "entries_finished",
    entries.c.finished_at,
    where=entries.c.finished_at.is_not(None) & (entries.c.state != literal_column("'dead'")),
)
_index(
    "entries_callers",
    entries.c.waiting_until,
    where=entries.c.waiting_until.is_not(None) & entries.c.finished_at.is_(None),
)
_index("entries_dead", entries.c.place, where=_state_is("dead"))

attempts = Table(
    "attempts",
    metadata,
    Column("entry", WORDS, ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("node", WORDS, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("outcome", WORDS, nullable=False),
    Column("error", WORDS),
    Column("reply", WORDS),
    sqlite_with_rowid=False,
)

replies = Table(
    "replies",
    metadata,
    Column("event", WORDS, ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    Column("text", WORDS, nullable=False),
    Column("route", WORDS, nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("postable", Boolean, nullable=False),
    Column("decided_at", BigInteger, nullable=False),
)

seen = Table(
    "seen",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("event", WORDS, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
Index("seen_seen_at", seen.c.seen_at)

tallies = Table(
    "tallies",
    metadata,
    Column("kind", WORDS, primary_key=True),
    Column("channel", WORDS, primary_key=True),
    Column("agent", WORDS, primary_key=True),
    Column("state", WORDS, primary_key=True),
    Column("total", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

unavailable_agents = Table(
    "unavailable_agents",
    metadata,
    Column("agent", WORDS, primary_key=True),
    Column("node", WORDS, primary_key=True),
    Column("reason", WORDS, nullable=False),
    Column("since", BigInteger, nullable=False),
)

schema = Table(
    "schema",
    metadata,
    Column("version", Integer, nullable=False),
    Column("oldest_program", WORDS, nullable=False),
)

# Each state change of an entry moves one count, whoever makes it and by whatever statement.
COUNT = "INSERT INTO tallies (kind, channel, agent, state, total) VALUES ({row}, {by}) "
COUNT += "ON CONFLICT (kind, channel, agent, state) DO UPDATE SET total = total + excluded.total;"
INTO_NEW = COUNT.format(row="new.kind, new.channel, new.agent, new.state", by="1")
OUT_OF_OLD = COUNT.format(row="old.kind, old.channel, old.agent, old.state", by="-1")
TRIGGERS = {
    "entries_come": f"AFTER INSERT ON entries BEGIN {INTO_NEW} END",
    "entries_change": "AFTER UPDATE OF state ON entries WHEN old.state <> new.state "
    f"BEGIN {OUT_OF_OLD} {INTO_NEW} END",
    "entries_go": f"AFTER DELETE ON entries BEGIN {OUT_OF_OLD} END",
}

# On PostgreSQL every session counts in rows of its own, so that nobody waits for another's commit;
# `upkeep.fold_tallies` adds up what ended sessions left.
EACH = "FOR EACH ROW EXECUTE FUNCTION count_entry()"
EACH_CHANGE = EACH.replace("EXECUTE", "WHEN (old.state <> new.state) EXECUTE")
POSTGRESQL = (
    "CREATE SEQUENCE entry_places",
    """
    CREATE TABLE tally_shards (
        session integer, kind text COLLATE "C", channel text COLLATE "C",
        agent text COLLATE "C", state text COLLATE "C", total bigint NOT NULL,
        PRIMARY KEY (session, kind, channel, agent, state)
    ) WITH (fillfactor = 50)
    """,
    """
    CREATE VIEW tallies AS
    SELECT kind, channel, agent, state, sum(total)::bigint AS total
    FROM tally_shards GROUP BY kind, channel, agent, state
    """,
    """
    CREATE FUNCTION count_entry() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO {tally_shards} AS t VALUES
                (pg_backend_pid(), old.kind, old.channel, old.agent, old.state, -1)
            ON CONFLICT (session, kind, channel, agent, state) DO UPDATE SET total = t.total - 1;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO {tally_shards} AS t VALUES
                (pg_backend_pid(), new.kind, new.channel, new.agent, new.state, 1)
            ON CONFLICT (session, kind, channel, agent, state) DO UPDATE SET total = t.total + 1;
        END IF;
        RETURN NULL;
    END $$
    """,
    f"CREATE TRIGGER entries_come AFTER INSERT ON entries {EACH}",
    f"CREATE TRIGGER entries_change AFTER UPDATE OF state ON entries {EACH_CHANGE}",
    f"CREATE TRIGGER entries_go AFTER DELETE ON entries {EACH}",
)


def upgrade() -> None:
    """Make all tables."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        metadata.create_all(connection)
        for name, what in TRIGGERS.items():
            op.execute(f"CREATE TRIGGER {name} {what}")
    else:
        tables = [table for table in metadata.sorted_tables if table is not tallies]
        metadata.create_all(connection, tables)
        # Named in full, because an operator's session may look elsewhere.
        where = connection.execute(text("SELECT quote_ident(current_schema())")).scalar_one()
        for statement in POSTGRESQL:
            op.execute(statement.replace("{tally_shards}", f"{where}.tally_shards"))
    connection.execute(insert(schema).values(version=1, oldest_program="0.1.0"))
