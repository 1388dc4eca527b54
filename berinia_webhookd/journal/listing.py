"""Which entries an operator means, and lists of them. It only reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Connection, Select, func, select

from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.schema import (
    attempts,
    conversations,
    deliveries,
    entries,
    events,
    rejected,
    state_is,
)
from berinia_webhookd.model import EntryState

ListedState = EntryState | Literal["rejected"]
ID_CHARACTERS: Final = frozenset("0123456789abcdef-")
MOST_COUNTED: Final = 1000


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries (or rejected deliveries) are meant; all that is None does not matter."""

    state: ListedState | None = None
    channel: str | None = None
    agent: str | None = None
    since: datetime | None = None
    sender: str | None = None  # in normal form


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a list: an entry, or a rejected delivery (`agent` is None then)."""

    id: str  # of the event, or of the rejected delivery
    kind: str  # agent, reply, or delivery
    state: str
    channel: str
    agent: str | None
    received_at: datetime
    attempts: int


class Identified(NamedTuple):
    """What an id stands for."""

    id: str
    what: str  # event, or delivery (a rejected one)


def entries_of(filters: Filters) -> Select[Any]:
    """The entries the filters mean, with their event's time."""
    statement = select(entries, events.c.received_at).join_from(
        entries, events, events.c.id == entries.c.event
    )
    if filters.state is not None:
        statement = statement.where(state_is(EntryState(filters.state)))
    if filters.channel is not None:
        statement = statement.where(entries.c.channel == filters.channel)
    if filters.agent is not None:
        statement = statement.where(entries.c.agent == filters.agent)
    if filters.since is not None:
        statement = statement.where(events.c.received_at >= filters.since)
    if filters.sender is not None:
        of_sender = select(conversations.c.id).where(
            conversations.c.sender == storable(filters.sender)
        )
        statement = statement.where(events.c.conversation.in_(of_sender))
    return statement


def rejected_of(filters: Filters) -> Select[Any]:
    """The rejected deliveries the filters mean; they have neither agent nor known sender."""
    statement = select(deliveries).where(rejected())
    if filters.channel is not None:
        statement = statement.where(deliveries.c.channel == filters.channel)
    if filters.since is not None:
        statement = statement.where(deliveries.c.received_at >= filters.since)
    return statement


def listed(connection: Connection, filters: Filters, limit: int) -> list[Listed]:
    """Newest first."""
    if filters.state == "rejected":
        found = connection.execute(
            rejected_of(filters).order_by(deliveries.c.id.desc()).limit(limit)
        )
        return [
            Listed(row.id, "delivery", "rejected", row.channel, None, row.received_at, 0)
            for row in found
        ]
    newest = entries_of(filters).order_by(entries.c.event.desc(), entries.c.place.desc())
    rows = connection.execute(newest.limit(limit)).all()
    tried = _attempts_made(connection, [row.id for row in rows])
    return [
        Listed(
            id=row.event,
            kind=row.kind,
            state=row.state,
            channel=row.channel,
            agent=row.agent,
            received_at=row.received_at,
            attempts=tried.get(row.id, 0),
        )
        for row in rows
    ]


def _attempts_made(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    counted = select(attempts.c.entry, func.count().label("made")).group_by(attempts.c.entry)
    found: dict[str, int] = {}
    for start in range(0, len(ids), 500):
        some = counted.where(attempts.c.entry.in_(ids[start : start + 500]))
        found |= {row.entry: row.made for row in connection.execute(some)}
    return found


def find(connection: Connection, prefix: str) -> Identified:
    """The one event or rejected delivery whose id begins like this.

    Raises:
        NotFound: there is none, or more than one.
    """
    wanted = prefix.strip().lower()
    if not wanted or not ID_CHARACTERS.issuperset(wanted):
        raise NotFound(f"{prefix!r} is no id", hint="`events list` shows ids")
    end = wanted + "~"  # sorts behind every character of an id
    found: list[Identified] = []
    of_events = select(events.c.id).where(events.c.id >= wanted, events.c.id < end)
    of_deliveries = select(deliveries.c.id).where(
        deliveries.c.id >= wanted, deliveries.c.id < end, rejected()
    )
    for statement, what in ((of_events, "event"), (of_deliveries, "delivery")):
        ids = connection.execute(statement.limit(MOST_COUNTED)).scalars()
        found += [Identified(id_, what) for id_ in ids]
    if not found:
        raise NotFound(f"no event has an id that begins with {wanted}", hint="see `events list`")
    if len(found) > 1:
        count = f"{len(found)}" if len(found) < MOST_COUNTED else f"{MOST_COUNTED} or more"
        raise NotFound(f"{count} ids begin with {wanted}", hint="give more characters of the id")
    return found[0]


def event_ids_of(
    connection: Connection, filters: Filters, *, after: str, limit: int
) -> Sequence[str]:
    """The next ids of events behind `after`, oldest first, each once."""
    found = entries_of(filters).where(entries.c.event > after).order_by(entries.c.event)
    only_ids = found.with_only_columns(entries.c.event, maintain_column_froms=True).distinct()
    return connection.execute(only_ids.limit(limit)).scalars().all()


def replayable_of(connection: Connection, filters: Filters) -> Sequence[str]:
    """The ids of entries that a replay by these filters is about, in the order of their places;
    without a state those that are dead or discarded, and never what is done, erased or running.
    """
    states = (
        {EntryState.DEAD, EntryState.DISCARDED}
        if filters.state is None
        else {EntryState(filters.state)} - {EntryState.DONE, EntryState.ERASED}
    )
    found = (
        entries_of(filters)
        .where(entries.c.state.in_([state.value for state in states]))
        .with_only_columns(entries.c.id, maintain_column_froms=True)
        .order_by(entries.c.place)
    )
    return connection.execute(found).scalars().all()


def rejected_ids_of(connection: Connection, filters: Filters) -> Sequence[str]:
    """The ids of rejected deliveries, oldest first."""
    found = rejected_of(filters).with_only_columns(deliveries.c.id).order_by(deliveries.c.id)
    return connection.execute(found).scalars().all()
