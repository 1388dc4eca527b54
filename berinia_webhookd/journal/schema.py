"""The journal's tables and indexes. Queries live with what they are for; how a journal gets from
one version of this to the next is in `migrations/`.

Partial indexes over the few open entries keep every question of the dispatcher fast beside millions
of finished ones. Their conditions are written as literals, because SQLite uses a partial index only
where it can see that the query's condition implies the index's.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    literal_column,
)

from berinia_webhookd.model import EntryState

SCHEMA_VERSION: Final = 1  # of the last step in `migrations/versions`

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
AT_ONCE: Final = EPOCH  # the `startable_at` of what waits for no instant


class Instant(TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since the epoch."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - the signature is given
    ) -> int | None:
        """Microseconds for the database."""
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(
        self,
        value: Any | None,
        dialect: Dialect,  # noqa: ARG002 - the signature is given
    ) -> datetime | None:
        """A datetime for us."""
        return None if value is None else EPOCH + int(value) * MICROSECOND


# Compared byte by byte on either engine, whatever the database's language: ids are read in their
# order, and by their beginning.
WORDS: Final = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", WORDS, primary_key=True),  # UUIDv7, as all ids that are text
    Column("channel", WORDS, nullable=False),
    Column("content_type", WORDS, nullable=False),
    Column("node", WORDS, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("state", WORDS, nullable=False),  # accepted, rejected
    Column("rejection", WORDS),  # JSON
    Column("replay_key", LargeBinary),
    Column("once_key", LargeBinary),  # of a rejected one: it is kept once
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
    Column("sender", WORDS),  # normal forms; NULL once erased
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
    Column("data", WORDS),  # JSON of the normalised event; NULL once erased
    Column("opt_out", WORDS),
    Column("received_at", Instant, nullable=False),
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
    # From when it may start: set on at most one entry of a line, the next one (`lines.py`).
    Column("startable_at", Instant),
    Column("due_at", Instant),
    Column("hold_until", Instant),
    Column("lease_until", Instant),
    Column("lease_holder", WORDS),
    Column("node", WORDS),  # where it ran last
    Column("started_at", Instant),
    Column("attempts", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("waiting_until", Instant),  # until when a caller waits for the reply
    Column("created_at", Instant, nullable=False),
    Column("finished_at", Instant),
)


def state_is(state: EntryState, table: FromClause = entries) -> ColumnElement[bool]:
    """The condition, spelled as the partial indexes spell it."""
    return table.c.state == literal_column(f"'{state.value}'")


def rejected(table: FromClause = deliveries) -> ColumnElement[bool]:
    """The condition, spelled as the partial index spells it."""
    return table.c.state == literal_column("'rejected'")


def _index(
    name: str, *columns: Column[Any], where: ColumnElement[bool] | None = None, unique: bool = False
) -> None:
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_index("deliveries_rejected", deliveries.c.id, where=rejected())
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
_index("entries_line_ready", *_LINE, entries.c.place, where=state_is(EntryState.READY))
_index(
    "entries_line_ready_opt_out",
    *_LINE,
    entries.c.place,
    where=state_is(EntryState.READY) & entries.c.opt_out,
)
_index("entries_line_waiting", *_LINE, entries.c.place, where=state_is(EntryState.WAITING))
_index("entries_line_running", *_LINE, where=state_is(EntryState.RUNNING), unique=True)
_index("entries_line_next", *_LINE, where=_STARTABLE, unique=True)
_index(
    "entries_startable",
    entries.c.kind,
    entries.c.agent,
    entries.c.startable_at,
    entries.c.place,
    where=_STARTABLE,
)
_index("entries_oldest_ready", entries.c.agent, entries.c.place, where=state_is(EntryState.READY))
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
_index("entries_dead", entries.c.place, where=state_is(EntryState.DEAD))

attempts = Table(
    "attempts",
    metadata,
    Column("entry", WORDS, ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("node", WORDS, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=False),
    Column("outcome", WORDS, nullable=False),
    Column("error", WORDS),
    Column("reply", WORDS),  # where it went nowhere; else it is in `replies`
    sqlite_with_rowid=False,
)

replies = Table(
    "replies",
    metadata,
    Column("event", WORDS, ForeignKey("events.id", ondelete="CASCADE"), primary_key=True),
    Column("text", WORDS, nullable=False),
    Column("route", WORDS, nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("postable", Boolean, nullable=False),  # may be posted late
    Column("decided_at", Instant, nullable=False),
)

# Digests of events, and keys made of Mailgun signatures; both outlive what they point to.
seen = Table(
    "seen",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("event", WORDS, nullable=False),
    Column("seen_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)
Index("seen_seen_at", seen.c.seen_at)

# How many entries are in each state: kept by triggers, so that no way of changing one forgets it.
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

# Why an agent cannot be loaded, by the node that tried.
unavailable_agents = Table(
    "unavailable_agents",
    metadata,
    Column("agent", WORDS, primary_key=True),
    Column("node", WORDS, primary_key=True),
    Column("reason", WORDS, nullable=False),
    Column("since", Instant, nullable=False),
)

schema = Table(
    "schema",
    metadata,
    Column("version", Integer, nullable=False),
    Column("oldest_program", WORDS, nullable=False),
)
