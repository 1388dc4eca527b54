"""Leases: claiming what may start now, extending it, and giving it back.

Which entry of a conversation is next was decided when it last changed (`order.py`); here the next
ones of all conversations are handed out in the order of their places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from berinia_webhookd.journal import event_text, gather, guards, order
from berinia_webhookd.journal.consents import consent_of
from berinia_webhookd.journal.contract import Claimed, ClaimRequest, Hold
from berinia_webhookd.journal.database import SECOND, Row, Transaction, instant
from berinia_webhookd.model import (
    AgentName,
    Entry,
    EntryId,
    EntryKind,
    EntryState,
    EventId,
)

# When to look again at what somebody was changing.
BUSY: Final = SECOND // 20
# One claim brings no more of large events into memory, but for one that is larger alone.
CLAIM_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Holder:
    """This process as a holder of leases."""

    name: str  # unique to the process
    node: str
    lease_seconds: float

    @property
    def lease(self) -> int:
        """As it is stored."""
        return round(self.lease_seconds * SECOND)


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """What one dispatcher can start."""

    holder: Holder
    requests: Sequence[ClaimRequest]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Leases that somebody says are theirs."""

    holder: Holder
    entries: Sequence[Entry]


async def claim(transaction: Transaction, claims: Sequence[Claim]) -> list[Claimed]:
    """Lease to each what may start now."""
    return [await _claim(transaction, asked) for asked in claims]


async def _claim(transaction: Transaction, asked: Claim) -> Claimed:
    chosen: dict[int, Row] = {}  # by place, as it is until now
    upcoming: list[int] = []
    holds: list[Hold] = []
    for request in asked.requests:
        found: dict[int, Row] = {}
        for agent in await _agents_of(transaction, request):
            about = {"kind": request.kind.value, "agent": agent}
            (known,) = await transaction.execute("next_startable", **about)
            most = request.limit + len(chosen)
            passing = await guards.passing(transaction, request, agent, known, most)
            found |= passing.found
            holds += passing.holds
            upcoming += [at for at in (known["due_in"], passing.opens_in) if at is not None]
        in_order = sorted(found.keys() - chosen.keys())
        chosen |= {place: found[place] for place in in_order[: request.limit]}
        if transaction.shared and len(in_order) > request.limit:
            # Other nodes passed over what is locked and left: they look again after the commit.
            transaction.changes.work = True
    places = await _within_memory(transaction, list(chosen))
    budgets = {agent: one for request in asked.requests for agent, one in request.budgets.items()}
    leases = {place: chosen[place] for place in places}
    examined = await guards.examine(transaction, leases, budgets)
    upcoming += examined.opens_in
    leases = {place: row for place, row in leases.items() if place not in examined.places}
    if gathering := [row for row in leases.values() if row["gather_by"] is not None]:
        bursts = await gather.put_together(transaction, gathering)
        if len(bursts) < len(gathering):
            upcoming.append(BUSY)
        leases = {place: row for place, row in leases.items() if row["gather_by"] is None} | bursts
    entries = await _lease(transaction, asked.holder, leases)
    await guards.note_runs(transaction, entries, budgets)
    for entry in entries:
        _count(transaction, entry, leases[entry.id]["state"], -1)
        _count(transaction, entry, EntryState.RUNNING)
    next_due_seconds = min(upcoming) / SECOND if upcoming else None
    return Claimed(entries, next_due_seconds, holds + examined.holds)


def _count(transaction: Transaction, entry: Entry, state: str, by: int = 1) -> None:
    """Note that an entry and its members came into a state, or left it."""
    by *= len(entry.members) + 1
    transaction.count(entry.kind.value, entry.event.channel, entry.agent, state, by)


async def _within_memory(transaction: Transaction, places: list[int]) -> list[int]:
    """Without those whose events would be too large together: they are claimed later."""
    if len(places) <= 1:
        return places
    sizes = dict(await transaction.execute("sizes", places=places))
    kept: list[int] = []
    room_bytes = CLAIM_BYTES
    for place in places:
        size_bytes = sizes.get(place) or 0
        if size_bytes <= room_bytes or not kept:
            kept.append(place)
            room_bytes -= size_bytes
    return kept


async def _agents_of(transaction: Transaction, request: ClaimRequest) -> Iterable[str]:
    if request.agents is not None:
        return sorted(request.agents)
    return await agents_with_open(transaction, request.kind)


async def agents_with_open(transaction: Transaction, kind: EntryKind) -> list[str]:
    """Return the agents that have open entries."""
    rows = await transaction.execute("agents_with_open", kind=kind.value)
    return [row["agent"] for row in rows]


async def _lease(
    transaction: Transaction, holder: Holder, leases: Mapping[int, Row]
) -> list[Entry]:
    if not leases:
        return []
    places = list(leases)
    await transaction.execute(
        "lease", places=places, lease=holder.lease, holder=holder.name, node=holder.node
    )
    entries = [_entry(row) for row in await transaction.execute("leased", places=places)]
    if gathering := [e for e in entries if leases[e.id]["gather_by"] is not None]:
        complete = await gather.with_members(transaction, gathering)
        of_place = {entry.id: entry for entry in [*entries, *complete]}
        return [of_place[entry.id] for entry in entries]
    return entries


def _entry(row: Row) -> Entry:
    replied_at = row["replied_at"]
    return Entry(
        id=EntryId(row["place"]),
        event_id=EventId(row["event"]),
        kind=EntryKind(row["kind"]),
        agent=AgentName(row["agent"]),
        conversation_id=str(row["conversation"]),
        attempt=row["attempts"],
        retries=row["retries"],
        event=event_text.decode(row["data"], row["form"]),
        consent=consent_of(row["consent"], row["consent_since"]),
        size_bytes=len(row["data"]),
        reply_text=row["reply_text"],
        replied_at=None if replied_at is None else instant(replied_at),
    )


async def still_held(
    transaction: Transaction,
    holder: Holder,
    leases: Iterable[Entry],
    states: Collection[str] = (EntryState.RUNNING,),
) -> dict[EntryId, Row]:
    """Return those of the leases that are still this holder's, and for the same attempt. One that
    was lost after it had begun is in state `dead`.
    """
    numbers: dict[Any, int] = {entry.id: entry.attempt for entry in leases}
    found = await transaction.execute("held", places=list(numbers), holder=holder.name)
    return {
        row["place"]: row
        for row in found
        if numbers[row["place"]] == row["attempts"] and row["state"] in states
    }


async def begin(transaction: Transaction, wanted: Sequence[Held]) -> list[bool]:
    """Write down that attempts begin which must not be made twice; says whose leases are held."""
    await order.hold(transaction, await touched(transaction, wanted))
    begun: list[bool] = []
    for held in wanted:
        ours = await still_held(transaction, held.holder, held.entries)
        await transaction.execute("begin", places=list(ours))
        await gather.share(transaction, _bursts(held, ours))
        begun.append(len(ours) == len(held.entries))
    return begun


async def renew(transaction: Transaction, wanted: Sequence[Held]) -> list[list[Entry]]:
    """Extend leases; says which were lost already."""
    lost: list[list[Entry]] = []
    for held in wanted:
        ours = await still_held(transaction, held.holder, held.entries)
        await transaction.execute("extend", places=list(ours), lease=held.holder.lease)
        lost.append([entry for entry in held.entries if entry.id not in ours])
    return lost


async def touched(_: Transaction, wanted: Sequence[Held]) -> Iterable[int]:
    """Return the conversations of these leases."""
    return [int(entry.conversation_id) for held in wanted for entry in held.entries]


async def release(transaction: Transaction, wanted: Sequence[Held]) -> list[None]:
    """Give leases back as if they had never been taken."""
    await order.hold(transaction, await touched(transaction, wanted))
    for held in wanted:
        ours = await still_held(transaction, held.holder, held.entries)
        await transaction.execute("forget_runs", places=list(ours))
        await transaction.execute("give_back", places=list(ours))
        bursts = _bursts(held, ours)
        await gather.share(transaction, bursts)
        await gather.disband(transaction, bursts)
        await order.advance(transaction, map(order.queue_of, ours.values()))
        for entry in held.entries:
            if entry.id in ours:
                _count(transaction, entry, EntryState.RUNNING, -1)
                _count(transaction, entry, EntryState.READY)
    return [None] * len(wanted)


def _bursts(held: Held, ours: Collection[int]) -> list[int]:
    """The places of those that have members."""
    return [entry.id for entry in held.entries if entry.members and entry.id in ours]
