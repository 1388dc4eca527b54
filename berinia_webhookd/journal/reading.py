"""What is read while others write: replies, deliveries, and the figures of the status pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, func, select

from berinia_webhookd.journal.claiming import agents_with_open
from berinia_webhookd.journal.contract import Backlog, Reply, ReplyRoute
from berinia_webhookd.journal.replying import OF_EVENT, found_reply
from berinia_webhookd.journal.schema import (
    deliveries,
    delivery_bodies,
    entries,
    events,
    state_is,
    tallies,
)
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    EntryKind,
    EntryState,
    EventId,
    VerifiedDelivery,
)


@dataclass(frozen=True, slots=True)
class FoundReply:
    """The reply of an event's agent as far as it is known; `over` when nothing more will come."""

    reply: Reply | None
    inline: bool
    over: bool


COUNTS: Final = select(
    tallies.c.agent, tallies.c.kind, tallies.c.state, func.sum(tallies.c.total).label("total")
).group_by(tallies.c.agent, tallies.c.kind, tallies.c.state)
OLDEST_READY: Final = (
    select(entries.c.created_at)
    .where(entries.c.agent == bindparam("of_agent"), state_is(EntryState.READY))
    .order_by(entries.c.place)
    .limit(1)
)
DELIVERY_OF: Final = (
    select(deliveries, delivery_bodies.c.body)
    .join_from(deliveries, delivery_bodies, delivery_bodies.c.delivery == deliveries.c.id)
    .join(events, events.c.delivery == deliveries.c.id)
    .where(events.c.id == bindparam("of_event"))
)


def reply_to(connection: Connection, event_id: EventId) -> FoundReply:
    """What is known of an event's reply."""
    row = connection.execute(OF_EVENT, {"of_event": event_id}).one_or_none()
    if row is None:
        return FoundReply(None, inline=False, over=True)
    reply = found_reply(row)
    over = reply is not None or row.finished_at is not None
    return FoundReply(reply, inline=row.route == ReplyRoute.INLINE.value, over=over)


def delivery_of(connection: Connection, event_id: EventId) -> VerifiedDelivery | None:
    """The delivery an event came with, as it was verified then."""
    row = connection.execute(DELIVERY_OF, {"of_event": event_id}).one_or_none()
    if row is None:
        return None
    return VerifiedDelivery(
        channel=ChannelName(row.channel),
        content_type_header=row.content_type,
        body=bytes(row.body),
        received_at=row.received_at,
        replay_key=row.replay_key,
    )


def agents_waiting(connection: Connection) -> frozenset[AgentName]:
    """The agents that have open entries of their own."""
    return frozenset(map(AgentName, agents_with_open(connection, EntryKind.AGENT)))


def backlog(connection: Connection) -> Backlog:
    """How many entries are in each state, and since when each agent's oldest is ready."""
    counts = dict.fromkeys(EntryState, 0)
    agents: set[str] = set()
    for row in connection.execute(COUNTS):
        state = EntryState(row.state)
        counts[state] += int(row.total)
        if row.total > 0 and state is EntryState.READY:
            agents.add(row.agent)
    oldest = {
        AgentName(agent): since
        for agent in sorted(agents)
        if (since := connection.execute(OLDEST_READY, {"of_agent": agent}).scalar()) is not None
    }
    return Backlog(entries=counts, oldest_ready_at=oldest)
