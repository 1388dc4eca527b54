"""Leases: claiming what may start now, extending it, and giving it back.

Which entry of a conversation is next was decided when it last changed (`lines.py`); here the next
ones of all conversations are handed out in the order of their places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from berinia_webhookd.journal import event_text, lines
from berinia_webhookd.journal.contract import Claimed, Lane
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.lines import Line
from berinia_webhookd.journal.prepared import VALUES, AnyOf, Batch, Question
from berinia_webhookd.journal.schema import (
    Instant,
    delivery_bodies,
    entries,
    events,
    replies,
    state_is,
    tallies,
)
from berinia_webhookd.model import (
    AgentName,
    Entry,
    EntryId,
    EntryKind,
    EntryState,
    EventId,
)

# One claim brings no more of large events into memory, but for one that is larger alone.
CLAIM_BYTES: Final = 16 * 1024 * 1024

OPEN_STATES: Final = (EntryState.READY, EntryState.WAITING, EntryState.RUNNING)


@dataclass(frozen=True, slots=True)
class Holder:
    """This process as a holder of leases."""

    name: str  # unique to the process
    node: str
    lease_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """What one dispatcher can start."""

    holder: Holder
    lanes: Sequence[Lane]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Leases that somebody says are theirs."""

    holder: Holder
    entries: Sequence[Entry]


_of_agent = and_(
    entries.c.kind == bindparam("of_kind"),
    entries.c.agent == bindparam("of_agent"),
    entries.c.startable_at.is_not(None),
)
_AT_ONCE: Final = (
    select(entries.c.id, entries.c.place)
    .where(_of_agent, entries.c.startable_at == literal_column("0", Instant))
    .order_by(entries.c.place)
    .limit(bindparam("most"))
)
_FALLEN_DUE: Final = (
    select(entries.c.id, entries.c.place)
    .where(
        _of_agent,
        entries.c.startable_at > literal_column("0", Instant),
        entries.c.startable_at <= bindparam("at"),
    )
    .order_by(entries.c.startable_at, entries.c.place)
    .limit(bindparam("most"))
)
STARTABLE: Final = Question(
    union_all(select(_AT_ONCE.subquery("at_once")), select(_FALLEN_DUE.subquery("fallen_due"))),
    # Another node may be claiming some of them: those are passed over for later ones.
    postgresql=union_all(
        select(_AT_ONCE.with_for_update(skip_locked=True).subquery("at_once")),
        select(_FALLEN_DUE.with_for_update(skip_locked=True).subquery("fallen_due")),
    ),
)
NEXT_STARTABLE: Final = Question(
    select(func.min(entries.c.startable_at).label("at")).where(
        _of_agent, entries.c.startable_at > bindparam("at")
    )
)
LEASE: Final = Batch(
    update(entries)
    .where(entries.c.id == bindparam("claimed"))
    .values(
        state=EntryState.RUNNING.value,
        startable_at=None,
        due_at=None,
        lease_until=bindparam("until"),
        lease_holder=bindparam("holder"),
        node=bindparam("on_node"),
        started_at=bindparam("at"),
        attempts=entries.c.attempts + 1,
    )
)
SIZES: Final = AnyOf(
    select(entries.c.id, func.length(delivery_bodies.c.body).label("size_bytes"))
    .join_from(entries, events, entries.c.event == events.c.id)
    .join(delivery_bodies, delivery_bodies.c.delivery == events.c.delivery)
    .where(entries.c.id.in_(bindparam(VALUES, expanding=True)))
)
LEASED: Final = AnyOf(
    select(
        *(entries.c.id, entries.c.event, entries.c.kind, entries.c.agent, entries.c.conversation),
        *(entries.c.place, entries.c.attempts, entries.c.retries, entries.c.hold_until),
        events.c.data,
        replies.c.text.label("reply_text"),
        replies.c.decided_at.label("replied_at"),
    )
    .join_from(entries, events, entries.c.event == events.c.id)
    .outerjoin(
        replies,
        and_(replies.c.event == events.c.id, entries.c.kind == EntryKind.REPLY.value),
    )
    .where(entries.c.id.in_(bindparam(VALUES, expanding=True)))
)
AGENTS: Final = Question(
    select(tallies.c.agent)
    .distinct()
    .where(
        tallies.c.kind == bindparam("of_kind"),
        or_(*(state_is(state, tallies) for state in OPEN_STATES)),
        tallies.c.total > literal_column("0"),
    )
)


def claim(transaction: Transaction, claims: Sequence[Claim]) -> list[Claimed]:
    """Lease to each what may start now."""
    return [_claim_lanes(transaction, asked) for asked in claims]


def _claim_lanes(transaction: Transaction, asked: Claim) -> Claimed:
    chosen: dict[str, int] = {}
    upcoming: list[datetime] = []
    for lane in asked.lanes:
        candidates: dict[str, int] = {}
        for agent in _agents_of(transaction, lane):
            about = {"of_kind": lane.kind.value, "of_agent": agent, "at": transaction.now}
            candidates |= _startable(transaction, about, lane.limit + len(chosen))
            ((next_at,),) = NEXT_STARTABLE.execute(transaction.connection, **about)
            if next_at is not None:
                upcoming.append(next_at)
        in_order = sorted(candidates.keys() - chosen.keys(), key=candidates.__getitem__)
        chosen |= {id_: candidates[id_] for id_ in in_order[: lane.limit]}
        if transaction.locks_rows and len(in_order) > lane.limit:
            # Other nodes passed over what is locked and left: they look again after the commit.
            transaction.news.work = True
    next_due_at = min(upcoming, default=None)
    ids = _within_memory(transaction, list(chosen))
    return Claimed(_lease(transaction, asked.holder, ids), next_due_at)


def _within_memory(transaction: Transaction, ids: list[str]) -> list[str]:
    """Without those whose events would be too large together: they are claimed later."""
    if len(ids) <= 1:
        return ids
    sizes = {row.id: row.size_bytes for row in SIZES.execute(transaction.connection, ids)}
    kept: list[str] = []
    room_bytes = CLAIM_BYTES
    for id_ in ids:
        size_bytes = sizes.get(id_, 0)
        if size_bytes <= room_bytes or not kept:
            kept.append(id_)
            room_bytes -= size_bytes
    return kept


def _agents_of(transaction: Transaction, lane: Lane) -> Iterable[str]:
    if lane.agents is not None:
        return sorted(lane.agents)
    return agents_with_open(transaction.connection, lane.kind)


def agents_with_open(connection: Connection, kind: EntryKind) -> list[str]:
    """The agents that have open entries."""
    return [row.agent for row in AGENTS.execute(connection, of_kind=kind.value)]


def _startable(transaction: Transaction, about: dict[str, Any], most: int) -> dict[str, int]:
    found = STARTABLE.execute(transaction.connection, **about, most=most)
    return {row.id: row.place for row in found}


def _lease(transaction: Transaction, holder: Holder, ids: list[str]) -> list[Entry]:
    if not ids:
        return []
    lease = {
        "until": transaction.now + timedelta(seconds=holder.lease_seconds),
        "holder": holder.name,
        "on_node": holder.node,
        "at": transaction.now,
    }
    LEASE.execute(transaction.connection, [{"claimed": id_, **lease} for id_ in ids])
    found = LEASED.execute(transaction.connection, ids)
    return [_entry(row) for row in sorted(found, key=attrgetter("place"))]


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        id=EntryId(row.id),
        event_id=EventId(row.event),
        kind=EntryKind(row.kind),
        agent=AgentName(row.agent),
        conversation_id=str(row.conversation),
        place=row.place,
        attempt=row.attempts,
        retries=row.retries,
        hold_until=row.hold_until,
        event=event_text.decode(row.data),
        size_bytes=len(row.data),
        reply_text=row.reply_text,
        replied_at=row.replied_at,
    )


_held: Final = select(
    *(entries.c.id, entries.c.event, entries.c.kind, entries.c.channel, entries.c.agent),
    *(entries.c.conversation, entries.c.attempts, entries.c.waiting_until),
).where(
    entries.c.id.in_(bindparam(VALUES, expanding=True)),
    state_is(EntryState.RUNNING),
    entries.c.lease_holder == bindparam("holder"),
)
HELD: Final = AnyOf(_held, "holder", postgresql=_held.with_for_update())
EXTEND: Final = (
    update(entries).where(entries.c.id == bindparam("held")).values(lease_until=bindparam("until"))
)
GIVE_BACK: Final = (
    update(entries)
    .where(entries.c.id == bindparam("held"))
    .values(
        state=EntryState.READY.value,
        lease_until=None,
        lease_holder=None,
        started_at=None,
        attempts=entries.c.attempts - 1,
    )
)


def still_held(
    transaction: Transaction, holder: Holder, leases: Iterable[Entry]
) -> dict[EntryId, Row[Any]]:
    """Those of the leases that are still this holder's, and for the same attempt."""
    numbers = {entry.id: entry.attempt for entry in leases}
    found = HELD.execute(transaction.connection, numbers, holder=holder.name)
    return {EntryId(row.id): row for row in found if numbers[EntryId(row.id)] == row.attempts}


def renew(transaction: Transaction, wanted: Sequence[Held]) -> list[list[Entry]]:
    """Extend leases; says which were lost already."""
    lost: list[list[Entry]] = []
    for held in wanted:
        ours = still_held(transaction, held.holder, held.entries)
        until = transaction.now + timedelta(seconds=held.holder.lease_seconds)
        if ours:
            rows = [{"held": id_, "until": until} for id_ in ours]
            transaction.connection.execute(EXTEND, rows)
        lost.append([entry for entry in held.entries if entry.id not in ours])
    return lost


def touched(_: Transaction, wanted: Sequence[Held]) -> Iterable[int]:
    """The conversations of these leases."""
    return (int(entry.conversation_id) for held in wanted for entry in held.entries)


def release(transaction: Transaction, wanted: Sequence[Held]) -> list[None]:
    """Give leases back as if they had never been taken."""
    lines.hold(transaction, touched(transaction, wanted))
    for held in wanted:
        ours = still_held(transaction, held.holder, held.entries)
        if ours:
            transaction.connection.execute(GIVE_BACK, [{"held": id_} for id_ in ours])
            lines.advance(transaction, map(line_of, ours.values()))
    return [None] * len(wanted)


def line_of(row: Row[Any]) -> Line:
    """The line of an entry's row."""
    return Line(row.conversation, row.kind, row.agent)
