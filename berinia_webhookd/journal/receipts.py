"""The receipts of accepted deliveries: for new events, and for known ones with the agents that they
went to. A caller of a known event waits for the same reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from berinia_webhookd.journal import replay_keys
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.database import Transaction, microseconds
from berinia_webhookd.model import AgentName, EventId, Receipt, Receipts

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Arrival, Inserted


async def of(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    known: Mapping[bytes, EventId],
    used: dict[bytes, set[str]],
    kept: Sequence[Inserted],
) -> list[Receipts | ReplayedSignature]:
    """Return the receipts; replay keys of known events are stored."""
    results: list[Receipts | ReplayedSignature] = []
    repeated: list[tuple[Arrival, EventId]] = []
    for one in arrivals:
        key = one.delivery.replay_key
        if key is not None and not await replay_keys.may_use(transaction, one, known, used, kept):
            results.append(ReplayedSignature("the signature was used with another message"))
            continue
        receipts: list[Receipt] = []
        for new in one.events:
            event, id_ = new.event, known[new.digest]
            duplicate = id_ != new.id
            receipts.append(Receipt(id_, event.agent, duplicate, event.skipped, new.consent))
            if duplicate:
                repeated.append((one, id_))
        results.append(tuple(receipts))
    return await _of_the_first_time(transaction, results, repeated) if repeated else results


async def _of_the_first_time(
    transaction: Transaction,
    results: Sequence[Receipts | ReplayedSignature],
    repeated: Sequence[tuple[Arrival, EventId]],
) -> list[Receipts | ReplayedSignature]:
    """Return receipts with the agents the events went to; callers wait for their replies."""
    found = await transaction.execute(
        "agents_of_events", events=list({event for _, event in repeated})
    )
    first = {row["event"]: (AgentName(row["agent"]), row["skipped"]) for row in found}
    waiting = [
        {"event": event, "wait": microseconds(arrival.wait_seconds)}
        for arrival, event in repeated
        if arrival.wait_seconds is not None
    ]
    await transaction.many("wait_with", waiting)
    return [
        result
        if isinstance(result, ReplayedSignature)
        else tuple(
            _as_the_first(one, *first.get(one.event_id, (one.agent, None))) for one in result
        )
        for result in results
    ]


def _as_the_first(receipt: Receipt, agent: AgentName, skipped: str | None) -> Receipt:
    return receipt._replace(agent=agent, skipped=skipped) if receipt.duplicate else receipt
