"""Detects mails known by callback or by reconciliation. A mail rebuilt from storage may be decoded
differently from its callback, so that the digests differ; the key is the same. Queried while the
conversation is locked, so that neither is inserted meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from berinia_webhookd.journal.database import Transaction
from berinia_webhookd.model import EventId

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Arrival, NewEvent


async def known(transaction: Transaction, arrivals: Sequence[Arrival]) -> dict[bytes, EventId]:
    """Return by digest the events that exist already: callbacks whose mail was rebuilt, and rebuilt
    mails that exist either way.
    """
    keyed = [new for one in arrivals for new in one.events if new.event.reconcile_key is not None]
    if not keyed:
        return {}
    rebuilt = [new for new in keyed if new.event.reconciled]
    found = await _events(transaction, "keyed_with", rebuilt)
    for new in rebuilt:  # two mails that are rebuilt together
        found.setdefault(new.event.reconcile_key, new.id)
    called = [new for new in keyed if not new.event.reconciled]
    found |= await _events(transaction, "rebuilt_with", called)
    return {
        new.event.digest: id_
        for new in keyed
        if (id_ := found.get(new.event.reconcile_key, new.id)) != new.id
    }


async def _events(
    transaction: Transaction, question: str, news: Sequence[NewEvent]
) -> dict[bytes | None, EventId]:
    if not news:
        return {}
    keys = [new.event.reconcile_key for new in news]
    return {bytes(key): event for key, event in await transaction.execute(question, keys=keys)}
