"""What the daemon reads while others write: deliveries, and the counts of the status pages. And
what it notes about agents that cannot be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from berinia_webhookd import json_text
from berinia_webhookd.journal.contract import Backlog
from berinia_webhookd.journal.database import SECOND, Row, Transaction, instant
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    EntryState,
    EventId,
    VerifiedDelivery,
)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why an agent cannot be loaded on a node; None: it can again."""

    agent: AgentName
    node: str
    reason: str | None


async def delivery_of(transaction: Transaction, event_id: EventId) -> VerifiedDelivery | None:
    """Return the delivery an event came with, as it was verified then."""
    rows = await transaction.execute("delivery_of", event=event_id)
    return restored(rows[0]) if rows else None


def restored(row: Row) -> VerifiedDelivery:
    """The delivery of a row that was verified when it came."""
    return VerifiedDelivery(
        channel=ChannelName(row["channel"]),
        content_type_header=row["content_type"],
        body=bytes(row["body"]),
        received_at=instant(row["received_at"]),
        replay_key=row["replay_key"],
        target=row["target"],
        headers=json_text.decode(row["headers"]) if row["headers"] else {},
    )


async def backlog(transaction: Transaction) -> Backlog:
    """Return how many entries are in each state, and how long each agent's oldest is ready."""
    counts = dict.fromkeys(EntryState, 0)
    agents: set[str] = set()
    for agent, state, total in await transaction.execute("counts"):
        counts[EntryState(state)] += total
        if total > 0 and state == EntryState.READY:
            agents.add(agent)
    oldest: dict[AgentName, float] = {}
    for agent in sorted(agents):
        for (age,) in await transaction.execute("oldest_ready", agent=agent):
            oldest[AgentName(agent)] = age / SECOND
    return Backlog(entries=counts, oldest_ready_seconds=oldest)


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
