"""The queries of commands, status pages and the dispatcher: lists, ids, counts, ages, rates,
deliveries. They only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from berinia_webhookd import json_text
from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal import guards
from berinia_webhookd.journal.contract import (
    Backlog,
    Count,
    MissingAgent,
    Received,
    Statistics,
)
from berinia_webhookd.journal.database import (
    DAY,
    SECOND,
    Transaction,
    as_record,
    instant,
    stored,
)
from berinia_webhookd.journal.deliveries import EVENTS_EACH, restored
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.rejected_items import why_rejected
from berinia_webhookd.model import AgentName, EntryState, VerifiedDelivery

ListedState = EntryState | Literal["rejected"]
REPLAYABLE: Final[set[ListedState]] = {EntryState.DEAD, EntryState.DISCARDED}
DISCARDABLE: Final[set[ListedState]] = {EntryState.DEAD, EntryState.READY, EntryState.WAITING}
GIVEN_UP: Final = frozenset({EntryState.DEAD, EntryState.DISCARDED})
NEVER_BY_FILTER: Final[set[ListedState]] = {
    EntryState.DONE,
    EntryState.SKIPPED,
    EntryState.ERASED,
}
IN_FEW: Final = frozenset(EntryState) - NEVER_BY_FILTER  # states in which there are few
ID_CHARACTERS: Final = frozenset("0123456789abcdef-")
MOST_COUNTED: Final = 1000
ALL: Final = 2**62
CLOCK_SLACK: Final = timedelta(hours=1)  # clock differences between nodes, and clock changes
HOUR: Final = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Filters:
    """A filter of entries (or rejected deliveries); None matches all."""

    state: ListedState | None = None
    channel: str | None = None
    agent: str | None = None
    since: datetime | None = None
    sender: str | None = None  # in normal form, like the recipient and the group
    kind: str | None = None
    until: datetime | None = None
    recipient: str | None = None
    group: str | None = None
    message_id: str | None = None
    text: str | None = None  # words that the event must all contain
    error: str | None = None

    @property
    def few(self) -> bool:
        """Whether an index finds the matches, whatever the number of others."""
        return not (self.sender is self.group is None) or self.state in IN_FEW

    @property
    def is_scan(self) -> bool:
        """Whether all entries may have to be read to find few matches."""
        plain = Filters(since=self.since, until=self.until)
        return not self.few and self.state != "rejected" and self != plain

    @property
    def by_content(self) -> bool:
        """Whether the events' contents must be read to match."""
        return any(
            value is not None for value in (self.recipient, self.message_id, self.text, self.error)
        )


@dataclass(frozen=True, slots=True)
class Content:
    """The content of an event, as shown in lists; None once erased."""

    sender: str | None = None
    recipient: str | None = None
    group: str | None = None
    message_id: str | None = None
    subject: str | None = None
    text: str | None = None
    opt_out: str | None = None
    party: str | None = None  # the sender and party, in normal form
    error: str | None = None  # the last attempt's error, or the delivery's rejection


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a list: an entry, or a delivery that was rejected, at least in part."""

    id: str  # of the event, or of the delivery
    state: str
    channel: str
    agent: str | None  # None for a delivery, like the next ones
    kind: str | None  # of the event: message, receipt, other
    entry: str | None  # of the entry: agent, reply
    received_at: datetime
    attempts: int
    place: int = 0
    event: int = 0
    reason: str | None = None  # the reason why it is skipped, or held
    began: bool = False  # an at-most-once agent has acted, or may have
    gathered_into: str | None = None  # the event whose attempts it shares
    content: Content | None = None  # None: not requested

    @property
    def may_have_acted(self) -> bool:
        """Whether its at-most-once agent may have acted."""
        return bool(self.began) and self.state in GIVEN_UP


async def list_entries(
    transaction: Transaction,
    filters: Filters,
    *,
    first: int,
    end: int,
    limit: int = ALL,
) -> list[Listed]:
    """Return the entries that match, of events in a range of numbers, newest first."""
    name, values = "list_entries", _values(filters)
    if filters.group is not None:
        name = "list_of_person"
        values |= await _of_group(transaction, filters)
    elif filters.sender is not None:
        name = "list_of_person"
        values |= await person_of(transaction, filters.sender)
    elif filters.state in IN_FEW:
        name = "list_few"
    rows = await transaction.execute(name, **values, first=first, end=end, most=limit)
    found = [as_record(Listed, row, content=None) for row in rows]
    return sorted(found, key=lambda one: (one.event, one.place), reverse=True)


async def is_counted(transaction: Transaction, filters: Filters) -> bool:
    """Whether the tallies have any entry of this state, channel and agent; if not, no search is
    needed.
    """
    wanted = {"state": filters.state, "channel": filters.channel, "agent": filters.agent}
    given = {name: value for name, value in wanted.items() if value is not None}
    return not given or any(
        all(row[name] == value for name, value in given.items())
        for row in await transaction.execute("count_by_state")
    )


async def _of_group(transaction: Transaction, filters: Filters) -> dict[str, Any]:
    """Return the parameters for the senders in a group, or one of them."""
    of_group = {"channel": filters.channel, "party": storable(str(filters.group))}
    rows = await transaction.execute("conversations_of_group", **of_group)
    found = {row["id"] for row in rows}
    if filters.sender is not None:
        found &= set((await person_of(transaction, filters.sender))["conversations"])
    return {"sender": None, "conversations": sorted(found)}


async def person_of(transaction: Transaction, sender: str) -> dict[str, Any]:
    """Return the parameters for a person: conversations, and the address as an author's."""
    person = storable(sender)
    found = await transaction.execute("conversations_of_sender", sender=person)
    return {"sender": person, "conversations": [id_ for (id_,) in found]}


async def list_rejected(
    transaction: Transaction, filters: Filters, *, limit: int = ALL
) -> list[Listed]:
    """Return the matching rejected deliveries, newest first; they have no agent or known sender."""
    values = _values(filters)
    rows = await transaction.execute("list_rejected", **values, most=limit)
    return [
        Listed(
            id=row["id"],
            state="rejected",
            channel=row["channel"],
            agent=None,
            kind=None,
            entry=None,
            received_at=instant(row["received_at"]),
            attempts=0,
            content=Content(error=why_rejected(json_text.decode(row["rejection"]))),
        )
        for row in rows
    ]


def _values(filters: Filters) -> dict[str, Any]:
    return {
        "state": filters.state,
        "channel": filters.channel,
        "agent": filters.agent,
        "kind": filters.kind,
        "since": 0 if filters.since is None else stored(filters.since),
        "until": ALL if filters.until is None else stored(filters.until),
    }


async def numbers_of(transaction: Transaction, filters: Filters) -> tuple[int, int]:
    """Return the first and the last number of events that can match."""
    ((last,),) = await transaction.execute("last_number")
    first, end = 0, (last + 1) * EVENTS_EACH
    if filters.since is not None:
        first = await first_from(transaction, filters.since - CLOCK_SLACK)
    if filters.until is not None:
        end = await first_from(transaction, filters.until + CLOCK_SLACK)
    return first, end - 1


async def first_from(transaction: Transaction, moment: datetime) -> int:
    """Return the number of the first event received at an instant or later, by binary search:
    deliveries are numbered in the order of arrival.
    """
    ((last,),) = await transaction.execute("last_number")
    low, high, earliest = 0, last + 1, stored(moment)
    while low < high:
        middle = (low + high) // 2
        found = await transaction.execute("first_delivery_from", number=middle)
        if found and found[0]["received_at"] < earliest:
            low = found[0]["number"] + 1
        else:
            high = middle
    return low * EVENTS_EACH


async def received_from(transaction: Transaction, number: int) -> datetime | None:
    """Return when the first event of this number or a later one was received."""
    found = await transaction.execute("first_delivery_from", number=number // EVENTS_EACH)
    return instant(found[0]["received_at"]) if found else None


async def find(transaction: Transaction, prefix: str) -> tuple[str, str]:
    """Return the id with this prefix, and whether it is an event's or a delivery's.

    Raises:
        NotFound: there is none, or more than one.
    """
    wanted = prefix.strip().lower()
    if not wanted or not ID_CHARACTERS.issuperset(wanted):
        raise NotFound(f"{prefix!r} is no id", hint="`events list` shows ids")
    end = wanted + "~"  # sorts behind every character of an id
    rows = await transaction.execute("ids_between", first=wanted, end=end, most=MOST_COUNTED)
    if not rows:
        raise NotFound(f"no event has an id that begins with {wanted}", hint="see `events list`")
    if len(rows) > 1:
        count = f"{len(rows)}" if len(rows) < MOST_COUNTED else f"{MOST_COUNTED} or more"
        raise NotFound(f"{count} ids begin with {wanted}", hint="give more characters of the id")
    return rows[0]["id"], rows[0]["what"]


async def statistics(transaction: Transaction) -> Statistics:
    """Return counts, ages and rates."""
    ((now,),) = await transaction.execute("present")
    ((finished,),) = await transaction.execute("finished_since", since=now - HOUR)
    ((rejected,),) = await transaction.execute("count_rejected")
    return Statistics(
        counts=tuple(Count(*row) for row in await transaction.execute("count_by_state")),
        rejected=rejected,
        oldest_open_at=await oldest_open(transaction),
        received_last_hour=await _received_since(transaction, instant(now - HOUR)),
        received_last_day=await _received_since(transaction, instant(now - DAY)),
        finished_last_hour=finished,
        may_have_acted=dict(map(tuple, await transaction.execute("count_may_have_acted"))),
        failing_agents=await guards.failing_agents(transaction),
        held=await guards.held(transaction),
        agents_with_costs=tuple(
            agent for (agent,) in await transaction.execute("agents_with_costs")
        ),
    )


async def _received_since(transaction: Transaction, moment: datetime) -> int:
    first = await first_from(transaction, moment)
    for (id_,) in await transaction.execute("first_event_from", first=first):
        ((total,),) = await transaction.execute("received_since", id=id_)
        return int(total)
    return 0


async def oldest_open(transaction: Transaction) -> dict[str, datetime]:
    """Return since when the oldest entry of each agent waits, ready or for a retry."""
    return {agent: instant(at) for agent, at in await transaction.execute("oldest_open")}


async def backlog(transaction: Transaction) -> Backlog:
    """Return the number of entries by state, and how long each agent's oldest has been ready."""
    counts = dict.fromkeys(EntryState, 0)
    oldest: dict[AgentName, float] = {}
    for row in await transaction.execute("count_by_state"):
        counts[EntryState(row["state"])] += row["total"]
        if row["state"] == EntryState.READY:
            about = {"kind": row["kind"], "agent": row["agent"]}
            ((age,),) = await transaction.execute("oldest_ready", **about)
            if age is not None:
                agent = AgentName(row["agent"])
                oldest[agent] = max(age / SECOND, oldest.get(agent, 0.0))
    held = await guards.held(transaction)
    return Backlog(entries=counts, oldest_ready_seconds=oldest, held=held)


async def missing_agents(transaction: Transaction) -> list[MissingAgent]:
    """Return which agents cannot be loaded, where, and why."""
    rows = await transaction.execute("unavailable_agents")
    return [as_record(MissingAgent, row, since=instant(row["since"])) for row in rows]


async def last_received_at(transaction: Transaction) -> datetime | None:
    """Return when the newest delivery came, by the clock of the node that took it."""
    found = await transaction.execute("last_received_at")
    return instant(found[0]["received_at"]) if found else None


async def received_between(
    transaction: Transaction, since: datetime, until: datetime, most: int
) -> dict[str, Received]:
    """Return what was accepted on each channel, of the newest `most` deliveries in this time."""
    first, end = (
        await first_from(transaction, since) // EVENTS_EACH,
        await first_from(transaction, until) // EVENTS_EACH,
    )
    rows = await transaction.execute("received_by_channel", first=first, end=end, most=most)
    return {row["channel"]: Received(row["total"], instant(row["last_at"])) for row in rows}


async def server_settings(transaction: Transaction, names: Sequence[str]) -> dict[str, str]:
    """Return settings of the PostgreSQL server, as this connection has them; none on SQLite."""
    if not transaction.shared:
        return {}
    return {
        row["name"]: row["setting"]
        for row in await transaction.execute("server_settings", names=names)
    }


async def delivery_of(transaction: Transaction, id_: str) -> VerifiedDelivery | None:
    """Return the verified delivery of an event, or a rejected one; None once it is erased."""
    rows = await transaction.execute("delivery_of", id=id_)
    return restored(rows[0]) if rows else None
