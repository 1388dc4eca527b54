"""What keeps a journal healthy: notes about agents that are away, and deleting what is past its
retention, in batches small enough that nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import (
    Connection,
    bindparam,
    delete,
    exists,
    insert,
    literal_column,
    not_,
    or_,
    select,
    text,
)

from berinia_webhookd.journal import postgresql
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.schema import (
    conversations,
    deliveries,
    entries,
    events,
    rejected,
    seen,
    unavailable_agents,
)
from berinia_webhookd.model import AgentName

PURGE_ROWS: Final = 500
NOTES_KEPT: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why an agent cannot be loaded on a node; None: it can again."""

    agent: AgentName
    node: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished entries are kept, and how long an event is recognised."""

    entries_days: float
    seen_days: float


FORGET_NOTE: Final = delete(unavailable_agents).where(
    unavailable_agents.c.agent == bindparam("of_agent"),
    unavailable_agents.c.node == bindparam("on_node"),
)


def note_unavailable(transaction: Transaction, notes: Sequence[Unavailable]) -> list[None]:
    """Keep the latest reason per agent and node."""
    for note in notes:
        about = {"of_agent": note.agent, "on_node": note.node}
        transaction.connection.execute(FORGET_NOTE, about)
        if note.reason is not None:
            transaction.connection.execute(
                insert(unavailable_agents),
                {
                    "agent": note.agent,
                    "node": note.node,
                    "reason": storable(note.reason),
                    "since": transaction.now,
                },
            )
    return [None] * len(notes)


_other = entries.alias("other")
_PURGEABLE: Final = entries.c.finished_at.is_not(None) & (
    entries.c.state != literal_column("'dead'")
)
_kept = exists().where(
    _other.c.event == entries.c.event,
    or_(
        _other.c.finished_at.is_(None),
        _other.c.finished_at >= bindparam("before"),
        _other.c.state == literal_column("'dead'"),
    ),
)
OLD_DELIVERIES: Final = (
    select(events.c.delivery, events.c.conversation)
    .join_from(entries, events, events.c.id == entries.c.event)
    .where(_PURGEABLE, entries.c.finished_at < bindparam("before"), not_(_kept))
    .order_by(entries.c.finished_at)
    .limit(PURGE_ROWS)
)
OLD_REJECTED: Final = (
    select(deliveries.c.id)
    .where(rejected(), deliveries.c.received_at < bindparam("before"))
    .order_by(deliveries.c.id)
    .limit(PURGE_ROWS)
)
OLD_SEEN: Final = (
    select(seen.c.key)
    .where(seen.c.seen_at < bindparam("before"))
    .order_by(seen.c.seen_at)
    .limit(PURGE_ROWS)
)
DELETE_DELIVERIES: Final = delete(deliveries).where(
    deliveries.c.id.in_(bindparam("ids", expanding=True))
)
DELETE_SEEN: Final = delete(seen).where(seen.c.key.in_(bindparam("keys", expanding=True)))
DELETE_CONVERSATIONS: Final = delete(conversations).where(
    conversations.c.id.in_(bindparam("ids", expanding=True)),
    not_(exists().where(events.c.conversation == conversations.c.id)),
)


# Nodes repeat theirs every few minutes at most: the others are those of nodes that are gone.
FORGET_OLD_NOTES: Final = delete(unavailable_agents).where(
    unavailable_agents.c.since < bindparam("before")
)
FREE_CONVERSATIONS: Final = (
    select(conversations.c.id)
    .where(conversations.c.id.in_(bindparam("ids", expanding=True)))
    .with_for_update(skip_locked=True)
)
# PostgreSQL only: what sessions that have ended counted (see the first migration).
FOLD_TALLIES: Final = text("""
    WITH ended AS (
        DELETE FROM tally_shards WHERE (session, kind, channel, agent, state) IN (
            SELECT session, kind, channel, agent, state FROM tally_shards
            WHERE session <> 0 AND session NOT IN (SELECT pid FROM pg_stat_activity)
            FOR UPDATE SKIP LOCKED
        ) RETURNING *
    )
    INSERT INTO tally_shards AS t
    SELECT 0, kind, channel, agent, state, sum(total) FROM ended
    GROUP BY kind, channel, agent, state
    ON CONFLICT (session, kind, channel, agent, state)
    DO UPDATE SET total = t.total + excluded.total
""")


def fold_tallies(connection: Connection) -> None:
    """Add up what ended sessions counted, so that these rows do not grow in number."""
    connection.execute(FOLD_TALLIES)


def purge(transaction: Transaction, wanted: Sequence[Retention]) -> list[int]:
    """Delete one batch of each kind; what belongs to a delivery goes with it."""
    return [_purge(transaction, retention) for retention in wanted]


def _purge(transaction: Transaction, retention: Retention) -> int:
    connection = transaction.connection
    if transaction.locks_rows and not postgresql.take_turn(connection, postgresql.PURGING):
        return 0  # another node sees to it
    before = {"before": transaction.now - timedelta(days=retention.entries_days)}
    old = connection.execute(OLD_DELIVERIES, before).all()
    if transaction.locks_rows:
        fold_tallies(connection)
        # What somebody is changing is left for the next time, and the rest is looked at again.
        asked = {"ids": list({row.conversation for row in old})}
        free = set(connection.execute(FREE_CONVERSATIONS, asked).scalars())
        old = [r for r in connection.execute(OLD_DELIVERIES, before) if r.conversation in free]
    ids = {row.delivery for row in old} | set(connection.execute(OLD_REJECTED, before).scalars())
    if ids:
        connection.execute(DELETE_DELIVERIES, {"ids": list(ids)})
        connection.execute(DELETE_CONVERSATIONS, {"ids": list({row.conversation for row in old})})
    connection.execute(FORGET_OLD_NOTES, {"before": transaction.now - NOTES_KEPT})
    forgotten = {"before": transaction.now - timedelta(days=retention.seen_days)}
    keys = list(connection.execute(OLD_SEEN, forgotten).scalars())
    if keys:
        connection.execute(DELETE_SEEN, {"keys": keys})
    return len(ids) + len(keys)
