"""What keeps a journal healthy: notes about agents that are away, and deleting what is past its
retention, in batches small enough that nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import bindparam, delete, exists, insert, literal_column, not_, or_, select

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


def purge(transaction: Transaction, wanted: Sequence[Retention]) -> list[int]:
    """Delete one batch of each kind; what belongs to a delivery goes with it."""
    return [_purge(transaction, retention) for retention in wanted]


def _purge(transaction: Transaction, retention: Retention) -> int:
    connection = transaction.connection
    before = {"before": transaction.now - timedelta(days=retention.entries_days)}
    old = connection.execute(OLD_DELIVERIES, before).all()
    ids = {row.delivery for row in old} | set(connection.execute(OLD_REJECTED, before).scalars())
    if ids:
        connection.execute(DELETE_DELIVERIES, {"ids": list(ids)})
        connection.execute(DELETE_CONVERSATIONS, {"ids": list({row.conversation for row in old})})
    forgotten = {"before": transaction.now - timedelta(days=retention.seen_days)}
    keys = list(connection.execute(OLD_SEEN, forgotten).scalars())
    if keys:
        connection.execute(DELETE_SEEN, {"keys": keys})
    return len(ids) + len(keys)
