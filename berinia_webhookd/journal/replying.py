"""Replies that somebody waits for, and what becomes of them when nobody waits longer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import Row, and_, bindparam, select, update

from berinia_webhookd.journal import lines
from berinia_webhookd.journal.arriving import insert_entries
from berinia_webhookd.journal.contract import Reply, ReplyRoute
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.lines import Line
from berinia_webhookd.journal.schema import AT_ONCE, entries, events, replies
from berinia_webhookd.journal.settling import late_reply
from berinia_webhookd.model import EntryKind, EventId

logger = structlog.get_logger()

OF_EVENT: Final = (
    select(entries, replies.c.text, replies.c.route, replies.c.failed, replies.c.postable)
    .join_from(entries, replies, replies.c.event == entries.c.event, isouter=True)
    .where(and_(entries.c.event == bindparam("of_event"), entries.c.kind == EntryKind.AGENT.value))
)
CONVERSATIONS_OF: Final = select(events.c.conversation).where(
    events.c.id.in_(bindparam("events", expanding=True))
)
NOBODY_WAITS: Final = (
    update(entries)
    .where(entries.c.id == bindparam("waited_for"), entries.c.waiting_until.is_not(None))
    .values(waiting_until=AT_ONCE)
)
REROUTE: Final = (
    update(replies)
    .where(replies.c.event == bindparam("of_event"))
    .values(route=bindparam("new_route"))
)


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """Whoever waited for an event's reply waits no longer."""

    event_id: EventId
    hung_up: bool


def found_reply(row: Row[Any]) -> Reply | None:
    """The stored reply in a row of `OF_EVENT`."""
    return None if row.text is None else Reply(text=row.text, failed=row.failed)


def stop_waiting(transaction: Transaction, departures: Sequence[Departure]) -> list[Reply | None]:
    """From here on a reply is late; one decided inline is returned, or, after hanging up, late."""
    return [_stop_waiting(transaction, departure) for departure in departures]


def touched(transaction: Transaction, departures: Sequence[Departure]) -> Iterable[int]:
    """The conversations of these events."""
    asked = {"events": [departure.event_id for departure in departures]}
    return transaction.connection.execute(CONVERSATIONS_OF, asked).scalars()


def _stop_waiting(transaction: Transaction, departure: Departure) -> Reply | None:
    asked = {"of_event": departure.event_id}
    row = transaction.connection.execute(OF_EVENT, asked).one_or_none()
    if row is None:
        return None
    if transaction.locks_rows and row.conversation not in transaction.held:
        lines.hold(transaction, [row.conversation])
        row = transaction.connection.execute(OF_EVENT, asked).one()
    transaction.connection.execute(NOBODY_WAITS, {"waited_for": row.id})
    if row.route != ReplyRoute.INLINE.value:
        return None
    if not departure.hung_up:
        return found_reply(row)
    _post_late(transaction, row)
    return None


def _post_late(transaction: Transaction, row: Row[Any]) -> None:
    route = ReplyRoute.LATE if row.postable else ReplyRoute.UNDELIVERABLE
    connection = transaction.connection
    connection.execute(REROUTE, {"of_event": row.event, "new_route": route.value})
    if route is ReplyRoute.UNDELIVERABLE:
        logger.warning("reply.undeliverable", event_id=row.event, agent=row.agent)
        return
    insert_entries(connection, [late_reply(row, transaction.now)])
    lines.advance(transaction, [Line(row.conversation, EntryKind.REPLY.value, row.agent)])
