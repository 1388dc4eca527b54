"""Mails that came another way already. What reconciliation rebuilds from a stored mail may be read
differently from its callback, so their digests may differ; the key is the same. Asked while the
conversation is held, so neither can come between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from berinia_webhookd.journal.database import Transaction
from berinia_webhookd.model import EventId

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Arrival, NewEvent


async def known(transaction: Transaction, arrivals: Sequence[Arrival]) -> dict[bytes, EventId]:
    """Return by their digests which events are here already: of callbacks those that were rebuilt,
    of rebuilt ones all.
    """
    keyed = [new for one in arrivals for new in one.events if new.event.reconcile_key is not None]
    if not keyed:
        return {}
    rebuilt = [new for new in keyed if new.event.reconciled]
    found = await _events(transaction, "keyed_with", rebuilt)
    for new in rebuilt:  # two that are rebuilt together
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
