"""Verified deliveries that fail validation: kept, so that they can be replayed after a fix."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select

from berinia_webhookd.journal import event_text
from berinia_webhookd.journal.arriving import new_id, signature_key
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.schema import deliveries, delivery_bodies, rejected
from berinia_webhookd.model import VerifiedDelivery


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """One verified delivery that fails validation."""

    delivery: VerifiedDelivery
    reason: Mapping[str, object]
    node: str
    keep_most: int


FIND_KEPT: Final = select(deliveries.c.once_key).where(
    deliveries.c.once_key.in_(bindparam("keys", expanding=True))
)


def reject(transaction: Transaction, refusals: Sequence[Refusal]) -> list[None]:
    """Keep refused deliveries, once each; the oldest go when there are too many."""
    connection = transaction.connection
    by_key = {_once_key(refusal.delivery): refusal for refusal in reversed(refusals)}
    kept = connection.execute(FIND_KEPT, {"keys": list(by_key)}).scalars()
    for key in [bytes(key) for key in kept]:
        del by_key[key]
    if by_key:
        ids = {key: new_id() for key in by_key}
        connection.execute(
            insert(deliveries), [_refused(r, ids[key], key) for key, r in by_key.items()]
        )
        connection.execute(
            insert(delivery_bodies),
            [{"delivery": ids[key], "body": r.delivery.body} for key, r in by_key.items()],
        )
        _drop_oldest_rejected(transaction, refusals[0].keep_most)
    return [None] * len(refusals)


def _once_key(delivery: VerifiedDelivery) -> bytes:
    if delivery.replay_key is not None:
        return signature_key(delivery.replay_key)
    return hashlib.sha256(delivery.channel.encode() + b"\0" + delivery.body).digest()


def _refused(refusal: Refusal, delivery_id: str, once_key: bytes) -> dict[str, Any]:
    delivery = refusal.delivery
    return {
        "id": delivery_id,
        "channel": delivery.channel,
        "content_type": storable(delivery.content_type_header),
        "node": refusal.node,
        "received_at": delivery.received_at,
        "state": "rejected",
        "rejection": event_text.to_text(dict(refusal.reason)),
        "replay_key": delivery.replay_key,
        "once_key": once_key,
    }


def _drop_oldest_rejected(transaction: Transaction, keep_most: int) -> None:
    kept = deliveries.alias("kept")
    newest_too_many = (
        select(kept.c.id)
        .where(rejected(kept))
        .order_by(kept.c.id.desc())
        .limit(1)
        .offset(keep_most)
        .scalar_subquery()
    )
    transaction.connection.execute(
        delete(deliveries).where(rejected(), deliveries.c.id <= newest_too_many)
    )
