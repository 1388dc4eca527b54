"""Manual changes by operators: entries made ready again or discarded, and rejected deliveries
decoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from berinia_webhookd.errors import DeliveryRejected, MalformedDelivery
from berinia_webhookd.journal import order, rejected_items
from berinia_webhookd.journal.accept import Arrival, GatheringOf, accept
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.database import Row, Transaction
from berinia_webhookd.journal.deliveries import EVENTS_EACH, restored
from berinia_webhookd.model import (
    Decoded,
    EntryKind,
    EntryState,
    EventId,
    Receipt,
    Receipts,
    VerifiedDelivery,
)

_OVER: Final = frozenset({EntryState.DONE, EntryState.SKIPPED, EntryState.ERASED})
Decode = Callable[[VerifiedDelivery], Decoded]


@dataclass(frozen=True, slots=True)
class Changed:
    """The result of one requested change: `refused` says why it was not done."""

    id: str  # of the event (or the rejected delivery)
    agent: str | None
    was: str  # its state before
    refused: str | None = None
    event_id: str | None = None  # the receipts of a rejected delivery
    passed_over: bool = False  # refused, because its agent has acted, may have, or is running
    consent: str | None = None  # the change of consent by the sender


REFUSED_REPLAY: Final = {
    EntryState.RUNNING: "it is running; wait for its outcome",
    EntryState.READY: "it is ready already",
    EntryState.ERASED: "its data is erased",
}
MAY_HAVE_ACTED: Final = "its agent may have acted already, and must not do it twice"
REFUSED_DISCARD: Final = {
    EntryState.RUNNING: "it is running; wait for its outcome",
    EntryState.DONE: "it is done already",
    EntryState.SKIPPED: "it is skipped already",
    EntryState.DISCARDED: "it is discarded already",
    EntryState.ERASED: "its data is erased",
}


async def replay_events(
    transaction: Transaction, event_ids: Sequence[str], *, dry_run: bool, once_again: bool = False
) -> list[Changed]:
    """Replay events by id: an event's dead entries, else its agent's entry in any final state."""
    rows = await _held(transaction, "entries_of_events", events=event_ids)
    dead = {row["id"] for row in rows if row["state"] == EntryState.DEAD}
    chosen = [
        row
        for row in rows
        if row["state"] == EntryState.DEAD
        or (row["id"] not in dead and row["kind"] == EntryKind.AGENT)
    ]
    return await _replay(transaction, chosen, dry_run=dry_run, once_again=once_again)


async def replay_entries(
    transaction: Transaction, places: Sequence[int], *, dry_run: bool, once_again: bool = False
) -> list[Changed]:
    """Replay the entries that are still at the places where they were found, in order."""
    rows = await _held(transaction, "entries_at", places=places)
    open_ones = [row for row in rows if row["state"] not in {EntryState.DONE, EntryState.SKIPPED}]
    return await _replay(transaction, open_ones, dry_run=dry_run, once_again=once_again)


async def _replay(
    transaction: Transaction, rows: Sequence[Row], *, dry_run: bool, once_again: bool
) -> list[Changed]:
    """Replay these; begun ones of at-most-once agents only with `once_again`."""
    refusals = [
        REFUSED_REPLAY.get(EntryState(row["state"]))
        or (MAY_HAVE_ACTED if row["began_at"] is not None and not once_again else None)
        for row in rows
    ]
    again = [row for row, refused in zip(rows, refusals, strict=True) if refused is None]
    if again and not dry_run:
        numbers = await transaction.numbers(len(again))
        moves = [
            {"place": row["place"], "event": row["event"], "to": number * EVENTS_EACH}
            for row, number in zip(again, numbers, strict=True)
        ]
        await transaction.many("replay_entry", moves)
        await transaction.many("move_entry_of_event", moves)
        for row in again:
            transaction.moved(row, EntryState.READY.value)
        await order.advance(transaction, map(order.queue_of, again))
    return [_changed(row, why) for row, why in zip(rows, refusals, strict=True)]


async def discard_events(
    transaction: Transaction, event_ids: Sequence[str], *, dry_run: bool
) -> list[Changed]:
    """Discard unfinished or dead entries of events."""
    rows = await _held(transaction, "entries_of_events", events=event_ids)
    return await _discard(transaction, rows, dry_run=dry_run)


async def discard_entries(
    transaction: Transaction, places: Sequence[int], *, dry_run: bool
) -> list[Changed]:
    """Do the same with entries that are still at the places where they were found."""
    rows = await _held(transaction, "entries_at", places=places)
    open_ones = [row for row in rows if row["state"] not in _OVER]
    return await _discard(transaction, open_ones, dry_run=dry_run)


async def _discard(
    transaction: Transaction, rows: Sequence[Row], *, dry_run: bool
) -> list[Changed]:
    results: list[Changed] = []
    gone: list[Row] = []
    for row in rows:
        refused = REFUSED_DISCARD.get(EntryState(row["state"]))
        if refused is not None and row["kind"] == EntryKind.REPLY:
            continue  # report only the event's own entry
        results.append(_changed(row, refused))
        if refused is None:
            gone.append(row)
    if not dry_run:
        await order.discard(transaction, gone)
    return results


def _changed(row: Row, refused: str | None) -> Changed:
    passed_over = refused in {MAY_HAVE_ACTED, REFUSED_DISCARD[EntryState.RUNNING]}
    return Changed(row["id"], row["agent"], row["state"], refused, passed_over=passed_over)


async def _held(transaction: Transaction, name: str, **values: object) -> Sequence[Row]:
    """Lock the conversations of the rows, and return their current rows with those of messages that
    share an attempt with them.
    """
    rows = await transaction.execute(name, **values)
    if transaction.shared:
        await order.hold(transaction, [row["conversation"] for row in rows])
        rows = await transaction.execute(name, **values)
    places = {row["place"] for row in rows}
    sharing = await transaction.execute("bursts_of", places=list(places))
    others = {row["place"] for row in sharing} - places
    if not others:
        return rows
    more = await transaction.execute("entries_at", places=list(others))
    return sorted([*rows, *more], key=lambda row: int(row["place"]))


async def replay_delivery(
    transaction: Transaction,
    delivery_id: str,
    decode: Decode,
    *,
    node: str,
    key: ConsentsKey | None,
    gathering_of: GatheringOf,
    dry_run: bool,
) -> list[Changed]:
    """Decode a delivery again that was rejected, at least in part: items that decode now become
    events, and those accepted before are recognised by digest.
    """

    def refused(why: str) -> list[Changed]:
        return [Changed(delivery_id, None, "rejected", why)]

    rows = await transaction.execute("rejected_delivery", id=delivery_id)
    if not rows:
        return refused("it is not rejected any more")
    kept = rows[0]
    items = rejected_items.items_of(kept["rejection"], None)
    body = rejected_items.body_of(items) if kept["body"] is None else bytes(kept["body"])
    delivery = restored({**dict(kept), "body": body})
    try:
        decoded = decode(delivery)
    except DeliveryRejected as error:
        why = error.in_full if isinstance(error, MalformedDelivery) else str(error)
        return refused(f"still refused: {why}")
    if not decoded.events and not decoded.rejected:
        return refused("nothing in it is an event")
    own = await transaction.execute("events_of_delivery", delivery=kept["number"])
    arrival = Arrival.of(
        delivery,
        decoded,
        node=node,
        key=key,
        gathering_of=gathering_of,
        number=kept["number"],
        events_before=own[-1]["number"] % EVENTS_EACH + 1 if own else 0,
    )
    told = await (_foreseen if dry_run else _accept)(transaction, arrival)
    if isinstance(told, ReplayedSignature):
        return refused(str(told))
    known = {row["id"] for row in own}
    if not dry_run and (known or not all(receipt.duplicate for receipt in told)):
        left = rejected_items.as_items(decoded.rejected)
        if kept["body"] is None:
            left = rejected_items.with_json(left, body)
        text = rejected_items.rejection_text(left)
        await transaction.execute("accept_again", number=kept["number"], rejection=text)
    return [
        *(_read_again(delivery_id, one) for one in told if one.event_id not in known),
        *(
            Changed(delivery_id, None, "rejected", f"still refused: {item.path}: {item.reason}")
            for item in decoded.rejected
        ),
    ]


def _read_again(delivery_id: str, receipt: Receipt) -> Changed:
    refused = f"it was received again as {receipt.event_id}" if receipt.duplicate else None
    return Changed(
        delivery_id,
        receipt.agent,
        "rejected",
        refused,
        receipt.event_id or None,
        consent=receipt.consent,
    )


async def _accept(transaction: Transaction, arrival: Arrival) -> Receipts | ReplayedSignature:
    (told,) = await accept(transaction, [arrival])
    return told


async def _foreseen(transaction: Transaction, arrival: Arrival) -> Receipts:
    """Return the receipts that accepting would give; without ids for new events."""
    digests = [new.event.digest for new in arrival.events]
    seen: dict[bytes, EventId] = dict(await transaction.execute("events_with", digests=digests))
    seen |= dict(await transaction.execute("already_seen", digests=digests))
    return tuple(
        Receipt(seen.get(digest, EventId("")), new.event.agent, digest in seen)
        for digest, new in zip(digests, arrival.events, strict=True)
    )
