"""Leases: claiming what may start now, extending it, and giving it back.

Which entry of a conversation is next was decided when it last changed (`order.py`); here the next
ones of all conversations are leased in the order of their places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from berinia_webhookd.journal import event_text, gather, guards, order
from berinia_webhookd.journal.consents import consent_of
from berinia_webhookd.journal.contract import Budget, Claimed, ClaimRequest, Hold
from berinia_webhookd.journal.database import SECOND, Move, Row, Transaction, instant
from berinia_webhookd.journal.order import Startable
from berinia_webhookd.model import (
    AgentName,
    Entry,
    EntryId,
    EntryKind,
    EntryState,
    EventId,
)

READY, RUNNING = EntryState.READY.value, EntryState.RUNNING.value
# Looked up once: access to an enumeration's member costs a call.
KINDS: Final = {kind.value: kind for kind in EntryKind}
AGENT: Final = EntryKind.AGENT
# When to look again at conversations that were locked.
BUSY: Final = SECOND // 20
# The most event data of one claim, except for a single larger event.
CLAIM_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Holder:
    """This process as a holder of leases."""

    name: str  # unique to the process
    node: str
    lease_seconds: float

    @property
    def lease(self) -> int:
        """The lease's duration in microseconds."""
        return round(self.lease_seconds * SECOND)


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """The claim of one dispatcher."""

    holder: Holder
    requests: Sequence[ClaimRequest]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Leases that a holder claims to have."""

    holder: Holder
    entries: Sequence[Entry]


async def claim(transaction: Transaction, claims: Sequence[Claim]) -> list[Claimed]:
    """Lease to each claim the entries that may start now."""
    return [await _claim(transaction, asked) for asked in claims]


async def _claim(transaction: Transaction, asked: Claim) -> Claimed:
    chosen: dict[int, Startable] = {}  # by place, with the row before the claim
    upcoming: list[int] = []
    holds: list[Hold] = []
    budgets = {agent: one for request in asked.requests for agent, one in request.budgets.items()}
    busy = await transaction.execute("next_startable")
    for request in asked.requests:
        found: dict[int, Startable] = {}
        for known in _of_request(busy, request):
            most = request.limit + len(chosen)
            if known["due_in"] is not None:
                upcoming.append(known["due_in"])
            if request.kind is AGENT and _is_guarded(known, budgets):
                passing = await guards.passing(transaction, budgets, known, most)
                found |= passing.found
                holds += passing.holds
                upcoming += passing.opens_in
            else:
                found |= await order.startable(transaction, known["kind"], known["agent"], most)
        in_order = sorted(found.keys() - chosen.keys())
        chosen |= {place: found[place] for place in in_order[: request.limit]}
        if transaction.shared and len(in_order) > request.limit:
            # Other nodes skipped the locked rows that were not leased: wake them after the commit.
            transaction.changes.work = True
    leases = _within_memory(chosen)
    by_person = any(budget.per_sender for budget in budgets.values())
    if by_person or any(row.doubtful for row in leases.values()):
        examined = await guards.examine(transaction, leases, budgets)
        upcoming += examined.opens_in
        holds += examined.holds
        leases = {place: row for place, row in leases.items() if place not in examined.places}
    if gathering := [row for row in leases.values() if row.gather_by is not None]:
        bursts = await gather.put_together(transaction, gathering)
        if len(bursts) < len(gathering):
            upcoming.append(BUSY)
        leases = {place: row for place, row in leases.items() if row.gather_by is None} | bursts
    entries = await _lease(transaction, asked.holder, leases)
    if by_person:
        await guards.note_runs(transaction, entries, budgets)
    _count(transaction, entries, {place: row.state for place, row in leases.items()}, RUNNING)
    next_due_seconds = min(upcoming) / SECOND if upcoming else None
    return Claimed(entries, next_due_seconds, holds)


def _of_request(busy: Iterable[Row], request: ClaimRequest) -> list[Row]:
    """Return the agents of a request that have open entries."""
    kind, agents = request.kind.value, request.agents
    return [
        row for row in busy if row["kind"] == kind and (agents is None or row["agent"] in agents)
    ]


def _is_guarded(known: Row, budgets: Mapping[AgentName, Budget]) -> bool:
    """Whether a guard of the agent as a whole may hold its entries."""
    budget = budgets.get(known["agent"])
    has_cost = budget is not None and budget.daily_cost is not None
    return bool(has_cost or known["failures"] or known["spent"])


def _count(
    transaction: Transaction, entries: Iterable[Entry], before: Mapping[int, str], after: str
) -> None:
    """Count entries and their members that changed from one state to another."""
    moves: Counter[Move] = Counter()
    for entry in entries:
        of_entry = (str(entry.kind), entry.event.channel, entry.agent, before[entry.id], after)
        moves[of_entry] += len(entry.members) + 1
    transaction.count_moves(moves)


def _within_memory(rows: Mapping[int, Startable]) -> dict[int, Startable]:
    """Return the first rows whose events fit the memory limit; others are claimed later."""
    kept: dict[int, Startable] = {}
    room_bytes = CLAIM_BYTES
    for place, row in rows.items():
        size_bytes = row.size_bytes or 0
        if size_bytes <= room_bytes or not kept:
            kept[place] = row
            room_bytes -= size_bytes
    return kept


async def agents_with_open(transaction: Transaction, kind: EntryKind) -> list[str]:
    """Return the agents that have open entries."""
    rows = await transaction.execute("agents_with_open", kind=kind.value)
    return [row["agent"] for row in rows]


async def _lease(
    transaction: Transaction, holder: Holder, leases: Mapping[int, Startable]
) -> list[Entry]:
    if not leases:
        return []
    places = list(leases)
    await transaction.execute(
        "lease", places=places, lease=holder.lease, holder=holder.name, node=holder.node
    )
    entries = [entry_of(row) for row in await transaction.execute("leased", places=places)]
    if gathering := [e for e in entries if leases[e.id].gather_by is not None]:
        complete = await gather.with_members(transaction, gathering)
        of_place = {entry.id: entry for entry in [*entries, *complete]}
        return [of_place[entry.id] for entry in entries]
    return entries


def entry_of(row: Row) -> Entry:
    """Return the entry of a row of `leased`, without members of its burst."""
    place, event, kind, agent, conversation, attempts, retries, data, form, *rest = row
    consent, consent_since, reply_text, replied_at = rest
    return Entry(
        EntryId(place),
        EventId(event),
        KINDS[kind],
        AgentName(agent),
        str(conversation),
        attempts,
        retries,
        event_text.decode(data, form),
        consent_of(consent, consent_since),
        reply_text,
        None if replied_at is None else instant(replied_at),
        len(data),
    )


async def still_held(
    transaction: Transaction,
    holder: Holder,
    leases: Iterable[Entry],
    states: Collection[str] = (EntryState.RUNNING,),
) -> dict[EntryId, Row]:
    """Return the leases that are still this holder's, and for the same attempt. One that was lost
    after its attempt began is in state `dead`.
    """
    numbers: dict[Any, int] = {entry.id: entry.attempt for entry in leases}
    found = await transaction.execute("held", places=list(numbers), holder=holder.name)
    return {
        place: row
        for row in found
        for place, _, _, _, _, attempts, state, *_ in (row,)
        if numbers[place] == attempts and state in states
    }


async def begin(transaction: Transaction, wanted: Sequence[Held]) -> list[bool]:
    """Record that at-most-once attempts begin; returns whose leases are held."""
    await order.hold(transaction, await touched(transaction, wanted))
    ours = await _ours(transaction, wanted)
    await transaction.execute("begin", places=list(ours))
    await gather.share(transaction, _bursts(wanted, ours))
    return [all(entry.id in ours for entry in held.entries) for held in wanted]


async def renew(transaction: Transaction, wanted: Sequence[Held]) -> list[list[Entry]]:
    """Extend leases; returns those that were already lost."""
    ours = await _ours(transaction, wanted)
    await transaction.execute("extend", places=list(ours), lease=wanted[0].holder.lease)
    return [[entry for entry in held.entries if entry.id not in ours] for held in wanted]


async def touched(_: Transaction, wanted: Sequence[Held]) -> Iterable[int]:
    """Return the conversations of these leases."""
    return (int(entry.conversation_id) for held in wanted for entry in held.entries)


async def release(transaction: Transaction, wanted: Sequence[Held]) -> list[None]:
    """Give leases back as if they had never been taken."""
    await order.hold(transaction, await touched(transaction, wanted))
    ours = await _ours(transaction, wanted)
    await transaction.execute("forget_runs", places=list(ours))
    await transaction.execute("give_back", places=list(ours))
    bursts = _bursts(wanted, ours)
    await gather.share(transaction, bursts)
    await gather.disband(transaction, bursts)
    await order.advance(transaction, map(order.queue_of, ours.values()))
    entries = {entry.id: entry for held in wanted for entry in held.entries if entry.id in ours}
    _count(transaction, entries.values(), dict.fromkeys(entries, RUNNING), READY)
    return [None] * len(wanted)


async def _ours(transaction: Transaction, wanted: Sequence[Held]) -> dict[EntryId, Row]:
    """Return the entries still held; all claims are by this process."""
    entries = [entry for held in wanted for entry in held.entries]
    return await still_held(transaction, wanted[0].holder, entries)


def _bursts(wanted: Sequence[Held], ours: Collection[int]) -> list[int]:
    """Return the places of held entries with members."""
    entries = (entry for held in wanted for entry in held.entries)
    return [entry.id for entry in entries if entry.members and entry.id in ours]
