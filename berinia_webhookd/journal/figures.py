"""The figures of `events stats`: how many, how old, how fast. It only reads."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, literal_column, select

from berinia_webhookd.journal.contract import Count, Statistics
from berinia_webhookd.journal.schema import (
    deliveries,
    entries,
    events,
    rejected,
    state_is,
    tallies,
)
from berinia_webhookd.model import EntryState


def statistics(connection: Connection, now: datetime) -> Statistics:
    """Counts, ages and rates."""
    counts = tuple(
        Count(row.kind, row.channel, row.agent, row.state, row.total)
        for row in connection.execute(select(tallies).where(tallies.c.total > 0))
    )
    hour, day = now - timedelta(hours=1), now - timedelta(days=1)
    return Statistics(
        counts=counts,
        rejected=connection.execute(
            select(func.count()).select_from(deliveries).where(rejected())
        ).scalar_one(),
        oldest_open_at=_oldest_open(connection, {count.agent for count in counts}),
        received_last_hour=_received_since(connection, hour),
        received_last_day=_received_since(connection, day),
        finished_last_hour=connection.execute(
            select(func.count())
            .select_from(entries)
            .where(
                entries.c.finished_at >= hour,
                entries.c.finished_at.is_not(None),
                entries.c.state != literal_column("'dead'"),
            )
        ).scalar_one(),
    )


def _oldest_open(connection: Connection, agents: Iterable[str]) -> dict[str, datetime]:
    oldest: dict[str, datetime] = {}
    for agent in sorted(agents):
        for state in (EntryState.READY, EntryState.WAITING):
            since = connection.execute(
                select(func.min(entries.c.created_at)).where(
                    entries.c.agent == agent, state_is(state)
                )
            ).scalar()
            if since is not None:
                oldest[agent] = min(since, oldest.get(agent, since))
    return oldest


def _received_since(connection: Connection, since: datetime) -> int:
    """Counted by id, whose first bits are the time, so that no index on the time is needed."""
    milliseconds = f"{int(since.timestamp() * 1000):012x}"
    first = f"{milliseconds[:8]}-{milliseconds[8:]}"
    return connection.execute(
        select(func.count()).select_from(events).where(events.c.id >= first)
    ).scalar_one()
