"""Deletes data past its retention, in batches small enough not to delay other work; and outdated
notes about agents that cannot be loaded. The digests of deleted events are stored in the same
transaction, so that an event is recognised for the promised time after its receipt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from berinia_webhookd.journal.database import DAY, SECOND, Transaction
from berinia_webhookd.journal.deliveries import key_digest
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.model import AgentName

PURGE_ROWS: Final = 500
NOTES_KEPT: Final = 3600 * SECOND
LONGEST_BUDGET: Final = DAY  # the longest budget period of an agent
TURN: Final = "purge"  # the lock: one node purges at a time


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished entries are kept, and how long an event is recognised."""

    entries_days: float
    seen_days: float


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The reason why an agent cannot be loaded on a node; None: it can again."""

    agent: AgentName
    node: str
    reason: str | None


async def purge(transaction: Transaction, wanted: Sequence[Retention]) -> list[int]:
    """Delete one batch of each kind; deliveries are deleted with all that belongs to them."""
    return [await _purge(transaction, retention) for retention in wanted]


async def _purge(transaction: Transaction, retention: Retention) -> int:
    if not await transaction.take_turn(TURN):
        return 0  # another node is purging
    keep = round(retention.entries_days * DAY)
    conversations = await _conversations_of(transaction, await _purgeable(transaction, keep))
    ids = {id_ for some in conversations.values() for id_ in some}
    free = {id_ for (id_,) in await transaction.execute("free_conversations", ids=sorted(ids))}
    if transaction.shared:  # check again: they may have changed before they were locked
        still = await _purgeable(transaction, keep)
        conversations = {key: some for key, some in conversations.items() if key in still}
    accepted = [key for key, some in conversations.items() if some <= free]
    rejected = await transaction.execute("purgeable_rejected", keep=keep, most=PURGE_ROWS)
    await _delete(transaction, [*accepted, *(number for (number,) in rejected)])
    await transaction.execute("delete_empty_conversations", ids=sorted(free))
    await transaction.execute("forget_old_notes", keep=NOTES_KEPT)
    await transaction.execute("forget_old_runs", keep=LONGEST_BUDGET)
    seen_keep = round(retention.seen_days * DAY)
    forgotten = await transaction.execute("forget_seen", keep=seen_keep, most=PURGE_ROWS)
    return len(accepted) + len(rejected) + len(forgotten)


async def _purgeable(transaction: Transaction, keep: int) -> set[int]:
    """Return the next deliveries whose entries all finished long enough ago. Unfinished ones may
    precede them, each of which is read a few times, however many events it has.
    """
    found: set[int] = set()
    entries, finished_at, place = 0, 0, 0
    while entries < PURGE_ROWS:
        page = await transaction.execute(
            "finished", keep=keep, finished_at=finished_at, place=place, most=PURGE_ROWS
        )
        if not page:
            break
        finished_at, place, _ = page[-1]
        deliveries = sorted({row["delivery"] for row in page})
        kept = await transaction.execute("kept_deliveries", deliveries=deliveries, keep=keep)
        found |= set(deliveries) - {delivery for (delivery,) in kept}
        entries += sum(row["delivery"] in found for row in page)
    return found


async def _conversations_of(transaction: Transaction, deliveries: set[int]) -> dict[int, set[int]]:
    found: defaultdict[int, set[int]] = defaultdict(set)
    rows = await transaction.execute("conversations_of_deliveries", deliveries=sorted(deliveries))
    for delivery, conversation in rows:
        found[delivery].add(conversation)
    return found


async def _delete(transaction: Transaction, deliveries: Sequence[int]) -> None:
    """Delete deliveries with all that belongs to them, and store their digests and used keys."""
    if not deliveries:
        return
    await transaction.execute("remember_digests", deliveries=deliveries)
    await transaction.execute("remember_rebuilt", deliveries=deliveries)
    keys = await transaction.execute("replay_keys_of", deliveries=deliveries)
    await transaction.many(
        "remember",
        [
            {"digest": key_digest(key), "event": event, "received_at": received_at}
            for key, event, received_at in keys
        ],
    )
    await transaction.execute("leave_deliveries", deliveries=deliveries)
    for row in await transaction.execute("count_of_deliveries", deliveries=deliveries):
        kind, channel, agent, state, total = row
        transaction.count(kind, channel, agent, state, -total)
    await transaction.execute("delete_entries_of", deliveries=deliveries)
    await transaction.execute("delete_events_of", deliveries=deliveries)
    await transaction.execute("delete_deliveries", numbers=deliveries)


async def note_unavailable(transaction: Transaction, notes: Sequence[Unavailable]) -> list[None]:
    """Keep the latest reason per agent and node."""
    for note in notes:
        about = {"agent": note.agent, "node": note.node}
        if note.reason is None:
            await transaction.execute("forget_unavailable", **about)
        else:
            row = {**about, "reason": storable(note.reason)}
            await transaction.many("note_unavailable", [row])
    return [None] * len(notes)
