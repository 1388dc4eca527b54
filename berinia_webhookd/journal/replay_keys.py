"""Replay keys, which identify one request, such as the digest of its signature. Each belongs to the
events that it came with first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from berinia_webhookd.journal.database import Transaction, stored
from berinia_webhookd.journal.deliveries import key_digest
from berinia_webhookd.model import EventId

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Arrival, Inserted


async def used(transaction: Transaction, arrivals: Sequence[Arrival]) -> dict[bytes, set[str]]:
    """Return by key the events that it belongs to; a replayed delivery may use its own key."""
    numbers = {key: one.number for one in arrivals if (key := one.delivery.replay_key) is not None}
    if not numbers:
        return {}
    keys = {key_digest(key): key for key in numbers}
    found = await transaction.execute("used_keys", keys=list(numbers), digests=list(keys))
    of_key: dict[bytes, set[str]] = {}
    for key, delivery, event in found:
        replay_key = keys.get(key, key)
        if delivery != numbers[replay_key]:
            of_key.setdefault(replay_key, set()).add(event)
    return of_key


async def may_use(
    transaction: Transaction,
    arrival: Arrival,
    known: Mapping[bytes, EventId],
    used: dict[bytes, set[str]],
    kept: Sequence[Inserted],
) -> bool:
    """Return whether a delivery may use its key: it is new, or belongs to these events."""
    key = arrival.delivery.replay_key or b""
    ids = {known.get(new.digest) for new in arrival.events}
    if None in ids or ids.isdisjoint(used.get(key, ids)):
        return False
    if key not in used:
        used[key] = {str(id_) for id_ in ids}
        if all(one.delivery.replay_key != key for one, _ in kept):
            await _remember_key(transaction, arrival, known[arrival.events[0].digest])
    return True


async def _remember_key(transaction: Transaction, arrival: Arrival, event: str) -> None:
    key = arrival.delivery.replay_key
    row = {
        "digest": key_digest(key or b""),
        "event": event,
        "received_at": stored(arrival.delivery.received_at),
    }
    await transaction.many("remember", [row])
