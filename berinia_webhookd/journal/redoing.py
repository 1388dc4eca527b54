"""What an operator changes by hand: entries made ready again, or given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, select, update

from berinia_webhookd.errors import DeliveryRejected, MalformedDelivery
from berinia_webhookd.journal import event_text, lines
from berinia_webhookd.journal.arriving import Arrival, accept, new_id, next_place
from berinia_webhookd.journal.claiming import line_of
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.schema import Instant, deliveries, delivery_bodies, entries
from berinia_webhookd.model import (
    ChannelName,
    EntryKind,
    EntryState,
    Event,
    EventId,
    VerifiedDelivery,
)

Decode = Callable[[VerifiedDelivery], Event]


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of one wish: `refused` says why nothing was done."""

    id: str  # of the event (or the rejected delivery)
    agent: str | None
    was: str  # its state before
    refused: str | None = None
    event_id: str | None = None  # of a rejected delivery that became an event


REFUSED_REPLAY: Final = {
    EntryState.RUNNING: "it is running; wait for its outcome",
    EntryState.READY: "it is ready already",
    EntryState.ERASED: "its data is erased",
}
REFUSED_DISCARD: Final = {
    EntryState.RUNNING: "it is running; wait for its outcome",
    EntryState.DONE: "it is done already",
    EntryState.DISCARDED: "it is discarded already",
    EntryState.ERASED: "its data is erased",
}
PLACES: Final = {name: next_place(name) for name in ("sqlite", "postgresql")}
AGAIN: Final = {
    name: update(entries)
    .where(entries.c.id == bindparam("again"))
    .values(
        place=place,
        state=EntryState.READY.value,
        startable_at=None,
        due_at=None,
        hold_until=None,
        retries=0,
        losses=0,
        finished_at=None,
    )
    for name, place in PLACES.items()
}
DISCARD: Final = (
    update(entries)
    .where(entries.c.id == bindparam("discarded"))
    .values(
        state=EntryState.DISCARDED.value,
        startable_at=None,
        due_at=None,
        finished_at=bindparam("at", type_=Instant),
    )
)
OF_EVENTS: Final = (
    select(entries)
    .where(entries.c.event.in_(bindparam("events", expanding=True)))
    .order_by(entries.c.place)
)
BY_ID: Final = (
    select(entries)
    .where(entries.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(entries.c.place)
)
REJECTED_BY_ID: Final = (
    select(deliveries, delivery_bodies.c.body)
    .join_from(deliveries, delivery_bodies, delivery_bodies.c.delivery == deliveries.c.id)
    .where(deliveries.c.id == bindparam("delivery_id"))
)


def replay_events(
    transaction: Transaction, event_ids: Sequence[str], *, dry_run: bool
) -> list[Changed]:
    """By id: what is dead of an event, else its agent's entry, in whatever state it ended."""
    chosen: list[Row[Any]] = []
    for event_id in event_ids:
        rows = _rows_of(transaction, [event_id])
        dead = [row for row in rows if row.state == EntryState.DEAD.value]
        chosen += dead or [row for row in rows if row.kind == EntryKind.AGENT.value]
    return _replay(transaction, sorted(chosen, key=lambda row: int(row.place)), dry_run=dry_run)


def replay_entries(
    transaction: Transaction, entry_ids: Sequence[str], *, dry_run: bool
) -> list[Changed]:
    """By filter: those that are still as they were found, in the order of their places."""
    rows = transaction.connection.execute(BY_ID, {"ids": list(entry_ids)}).all()
    if transaction.locks_rows:
        lines.hold(transaction, (row.conversation for row in rows))
        rows = transaction.connection.execute(BY_ID, {"ids": list(entry_ids)}).all()
    open_ones = [row for row in rows if row.state != EntryState.DONE.value]
    return _replay(transaction, open_ones, dry_run=dry_run)


def _replay(transaction: Transaction, rows: Sequence[Row[Any]], *, dry_run: bool) -> list[Changed]:
    results, again = [], []
    for row in rows:
        refused = REFUSED_REPLAY.get(EntryState(row.state))
        results.append(Changed(row.event, row.agent, row.state, refused))
        if refused is None:
            again.append(row)
    if again and not dry_run:
        statement = AGAIN[transaction.connection.dialect.name]
        transaction.connection.execute(statement, [{"again": row.id} for row in again])
        lines.advance(transaction, map(line_of, again))
    return results


def discard_events(transaction: Transaction, event_ids: Sequence[str]) -> list[Changed]:
    """Give up what is not finished, or dead."""
    results, gone = [], []
    for row in _rows_of(transaction, event_ids):
        refused = REFUSED_DISCARD.get(EntryState(row.state))
        if refused is not None and row.kind == EntryKind.REPLY.value:
            continue  # the event's own entry says enough
        results.append(Changed(row.event, row.agent, row.state, refused))
        if refused is None:
            gone.append(row)
    if gone:
        rows = [{"discarded": row.id, "at": transaction.now} for row in gone]
        transaction.connection.execute(DISCARD, rows)
        lines.advance(transaction, map(line_of, gone))
    return results


def _rows_of(transaction: Transaction, event_ids: Sequence[str]) -> Sequence[Row[Any]]:
    rows = transaction.connection.execute(OF_EVENTS, {"events": list(event_ids)}).all()
    if transaction.locks_rows:
        lines.hold(transaction, (row.conversation for row in rows))
        rows = transaction.connection.execute(OF_EVENTS, {"events": list(event_ids)}).all()
    return rows


def replay_delivery(
    transaction: Transaction, delivery_id: str, decode: Decode, *, node: str, dry_run: bool
) -> Changed:
    """A rejected delivery re-enters at decoding, and becomes an event if that works now."""
    row = transaction.connection.execute(REJECTED_BY_ID, {"delivery_id": delivery_id}).one()
    delivery = VerifiedDelivery(
        channel=ChannelName(row.channel),
        content_type_header=row.content_type,
        body=bytes(row.body),
        received_at=row.received_at,
        replay_key=row.replay_key,
    )
    try:
        event = decode(delivery)
    except DeliveryRejected as error:
        why = error.in_full if isinstance(error, MalformedDelivery) else str(error)
        return Changed(delivery_id, None, "rejected", f"still refused: {why}")
    if dry_run:
        return Changed(delivery_id, event.agent, "rejected")
    arrival = Arrival(
        event_id=EventId(new_id()),
        delivery=delivery,
        event=event,
        event_data=event_text.encode(event),
        node=node,
        delivery_id=delivery_id,
    )
    (receipt,) = accept(transaction, [arrival])
    if isinstance(receipt, ReplayedSignature):
        return Changed(delivery_id, event.agent, "rejected", str(receipt))
    if receipt.duplicate:
        refused = f"it was received again as {receipt.event_id}"
        return Changed(delivery_id, event.agent, "rejected", refused, receipt.event_id)
    return Changed(delivery_id, event.agent, "rejected", None, receipt.event_id)
