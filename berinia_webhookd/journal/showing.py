"""All that is known of one event or rejected delivery, for an operator's eyes. It only reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from berinia_webhookd.journal import event_text
from berinia_webhookd.journal.listing import Filters, event_ids_of
from berinia_webhookd.journal.schema import (
    attempts,
    deliveries,
    delivery_bodies,
    entries,
    events,
    replies,
    unavailable_agents,
)
from berinia_webhookd.model import EntryKind, EntryState


@dataclass(frozen=True, slots=True)
class ShownAttempt:
    """One try."""

    number: int
    node: str
    started_at: datetime
    ended_at: datetime
    outcome: str
    error: str | None
    reply: str | None


@dataclass(frozen=True, slots=True)
class ShownEntry:
    """One entry with its attempts."""

    id: str
    kind: str
    agent: str
    state: str
    place: int
    created_at: datetime
    due_at: datetime | None  # waiting only
    hold_until: datetime | None
    lease_until: datetime | None  # running only
    node: str | None
    started_at: datetime | None
    finished_at: datetime | None
    retries: int
    losses: int
    unavailable: str | None  # why the agent cannot be loaded
    attempts: tuple[ShownAttempt, ...]


@dataclass(frozen=True, slots=True)
class ShownReply:
    """What the agent said to the caller, and where that went."""

    text: str
    route: str
    failed: bool
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class Shown:
    """One event, or one rejected delivery (no entries then), with all that is known of it."""

    id: str
    state: str
    channel: str
    agent: str | None
    received_at: datetime
    node: str
    content_type: str
    body_bytes: int | None  # None once erased
    data: dict[str, Any] | None  # the event in our shape; None once erased, or rejected
    rejection: dict[str, Any] | None
    entries: tuple[ShownEntry, ...] = ()
    reply: ShownReply | None = None


def shown_event(connection: Connection, event_id: str) -> Shown:
    """All that is known of one event."""
    statement = (
        select(events, deliveries.c.node, deliveries.c.content_type, _body_length())
        .join_from(events, deliveries, deliveries.c.id == events.c.delivery)
        .outerjoin(delivery_bodies, delivery_bodies.c.delivery == deliveries.c.id)
        .where(events.c.id == event_id)
    )
    row = connection.execute(statement).one()
    of_event = connection.execute(
        select(entries).where(entries.c.event == event_id).order_by(entries.c.created_at)
    ).all()
    agents_entry = next(r for r in of_event if r.kind == EntryKind.AGENT.value)
    said = connection.execute(select(replies).where(replies.c.event == event_id)).one_or_none()
    return Shown(
        id=row.id,
        state=agents_entry.state,
        channel=row.channel,
        agent=agents_entry.agent,
        received_at=row.received_at,
        node=row.node,
        content_type=row.content_type,
        body_bytes=row.body_bytes,
        data=None if row.data is None else event_text.from_text(row.data),
        rejection=None,
        entries=tuple(_shown_entry(connection, entry) for entry in of_event),
        reply=said
        if said is None
        else ShownReply(said.text, said.route, said.failed, said.decided_at),
    )


def shown_delivery(connection: Connection, delivery_id: str) -> Shown:
    """All that is known of one rejected delivery."""
    row = connection.execute(
        select(deliveries, _body_length())
        .outerjoin(delivery_bodies, delivery_bodies.c.delivery == deliveries.c.id)
        .where(deliveries.c.id == delivery_id)
    ).one()
    return Shown(
        id=row.id,
        state="rejected",
        channel=row.channel,
        agent=None,
        received_at=row.received_at,
        node=row.node,
        content_type=row.content_type,
        body_bytes=row.body_bytes,
        data=None,
        rejection=event_text.from_text(row.rejection),
    )


def _body_length() -> Any:
    return func.length(delivery_bodies.c.body).label("body_bytes")


def _shown_entry(connection: Connection, row: Row[Any]) -> ShownEntry:
    tries = connection.execute(
        select(attempts).where(attempts.c.entry == row.id).order_by(attempts.c.number)
    )
    reason = None
    if row.state in {EntryState.READY.value, EntryState.WAITING.value}:
        reason = _why_unavailable(connection, row.agent)
    return ShownEntry(
        id=row.id,
        kind=row.kind,
        agent=row.agent,
        state=row.state,
        place=row.place,
        created_at=row.created_at,
        due_at=row.due_at,
        hold_until=row.hold_until,
        lease_until=row.lease_until,
        node=row.node,
        started_at=row.started_at,
        finished_at=row.finished_at,
        retries=row.retries,
        losses=row.losses,
        unavailable=reason,
        attempts=tuple(
            ShownAttempt(
                one.number,
                one.node,
                one.started_at,
                one.ended_at,
                one.outcome,
                one.error,
                one.reply,
            )
            for one in tries
        ),
    )


def _why_unavailable(connection: Connection, agent: str) -> str | None:
    """What the nodes that cannot load it say, each by its name where they are several."""
    notes = connection.execute(
        select(unavailable_agents.c.node, unavailable_agents.c.reason)
        .where(unavailable_agents.c.agent == agent)
        .order_by(unavailable_agents.c.node)
    ).all()
    if len(notes) == 1:
        return str(notes[0].reason)
    return "; ".join(f"{note.node}: {note.reason}" for note in notes) or None


def shown_page(
    connection: Connection, filters: Filters, *, after: str, limit: int
) -> Sequence[Shown]:
    """The next events behind the id `after` that the filters mean, oldest first."""
    ids = event_ids_of(connection, filters, after=after, limit=limit)
    return [shown_event(connection, id_) for id_ in ids]
