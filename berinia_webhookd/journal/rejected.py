"""Verified deliveries that fail validation, stored so that they can be replayed after a fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from berinia_webhookd.journal.database import Transaction
from berinia_webhookd.journal.deliveries import once_key, row_of
from berinia_webhookd.journal.event_text import to_text
from berinia_webhookd.model import VerifiedDelivery

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Arrival


@dataclass(frozen=True, slots=True, eq=False)
class Rejection:
    """One verified delivery that fails validation."""

    delivery: VerifiedDelivery
    reason: Mapping[str, object]
    node: str
    keep_most: int


async def reject(transaction: Transaction, rejections: Sequence[Rejection]) -> list[None]:
    """Store rejected deliveries, once each; above the limit the oldest are deleted."""
    by_key = {once_key(rejection.delivery): rejection for rejection in reversed(rejections)}
    for (kept,) in await transaction.execute("kept_once", keys=list(by_key)):
        del by_key[kept]
    if by_key:
        rows = [
            row_of(
                rejection.delivery,
                rejection.node,
                state="rejected",
                rejection=to_text(dict(rejection.reason)),
                once_key=key,
            )
            for key, rejection in sorted(by_key.items())
        ]
        await transaction.insert_numbered("insert_delivery", rows)
        await transaction.execute("drop_oldest_rejected", keep_most=rejections[0].keep_most)
    return [None] * len(rejections)


async def without_kept_items(
    transaction: Transaction, arrivals: Sequence[Arrival]
) -> list[Arrival]:
    """Return the arrivals without rejected items that are stored already, from the same body."""
    keys = {id(one): once_key(one.delivery) for one in arrivals if one.rejected}
    kept = {key for (key,) in await transaction.execute("kept_once", keys=list(keys.values()))}
    result: list[Arrival] = []
    for one in arrivals:
        key = keys.get(id(one))
        result.append(replace(one, rejected=()) if key in kept and one.number is None else one)
        if key is not None:
            kept.add(key)
    return result
