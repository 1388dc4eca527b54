"""The settlement of an attempt: its record, the entry's next state, and the reply's route, in one
transaction, so that a reply is either given to a waiting caller or posted late, never both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from berinia_webhookd.journal import gather, guards, order
from berinia_webhookd.journal import pause as pauses
from berinia_webhookd.journal.claim import Holder, still_held
from berinia_webhookd.journal.contract import ReplyRoute, Settled, Settlement
from berinia_webhookd.journal.database import Move, Row, Transaction, microseconds
from berinia_webhookd.journal.deliveries import EVENTS_EACH
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.order import Queue
from berinia_webhookd.model import (
    AgentName,
    EntryKind,
    EntryState,
    Outcome,
    OutcomeKind,
    Pause,
)

# An at-most-once attempt lost after its beginning: dead, but its holder may still settle it.
RESULT_COUNTS: Final = frozenset({EntryState.RUNNING, EntryState.DEAD})
# Looked up once: access to an enumeration's member costs a call.
AGENT, NO_REPLY = EntryKind.AGENT, ReplyRoute.NONE
DONE, WAITING, DEAD = EntryState.DONE, EntryState.WAITING, EntryState.DEAD
UNPOSTED: Final = frozenset({EntryState.READY, EntryState.WAITING})
KEPT: Final = Settled(kept=True)
After = tuple[str, int | None, int | None, int, int]
AFTER: Final = ("state", "due_in", "hold_for", "retries", "acted")


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """One settlement, by the process that says it holds the lease."""

    holder: Holder
    settlement: Settlement


@dataclass(slots=True)
class Rows:
    """The rows that a batch of settlements writes, by table."""

    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    # The places of entries, by the columns of AFTER that they get.
    entries: defaultdict[After, list[int]] = field(default_factory=lambda: defaultdict(list))
    moved: Counter[Move] = field(default_factory=Counter)
    replies: list[dict[str, Any]] = field(default_factory=list)
    late: list[order.NewEntry] = field(default_factory=list)
    queues: set[Queue] = field(default_factory=set)
    outcomes: list[tuple[AgentName, Outcome]] = field(default_factory=list)
    failing: dict[AgentName, int] = field(default_factory=dict)  # how often before, in a row
    told_before: list[int] = field(default_factory=list)  # events that have a reply and end again
    pauses: dict[int, Pause] = field(default_factory=dict)  # by conversation


async def settle(transaction: Transaction, ended: Sequence[Ended]) -> list[Settled]:
    """Record attempts; settlements of lost leases are ignored, because another run decides."""
    await order.hold(transaction, await touched(transaction, ended))
    leases = [one.settlement.entry for one in ended]
    held = await still_held(transaction, ended[0].holder, leases, RESULT_COUNTS)
    bursts = [one.id for one in leases if one.members]
    members = await gather.members_of(transaction, bursts) if bursts else {}
    rows = Rows()
    results: list[Settled] = []
    for one in ended:
        # Removed, so that a settlement sent twice is recorded once.
        row = held.pop(one.settlement.entry.id, None)
        if row is None:
            results.append(Settled(kept=False))
        else:
            others = members.get(one.settlement.entry.id, [])
            results.append(_settle_one(transaction, one, [*others, row], rows))
    await _write(transaction, rows, members)
    if rows.failing or any(not one.agent_works or one.cost for _, one in rows.outcomes):
        told = await guards.note_outcomes(transaction, rows.outcomes, rows.failing)
        for agent, failures in told.items():
            last = _last_of(agent, ended, results)
            results[last] = replace(results[last], failures=failures)
    return results


def _last_of(agent: AgentName, ended: Sequence[Ended], results: Sequence[Settled]) -> int:
    """Return the number of an agent's last settlement that is kept."""
    return max(
        number
        for number, (one, result) in enumerate(zip(ended, results, strict=True))
        if result.kept and (one.settlement.entry.kind, one.settlement.entry.agent) == (AGENT, agent)
    )


async def touched(_: Transaction, ended: Sequence[Ended]) -> Iterable[int]:
    """Return the conversations whose entries end."""
    return (int(one.settlement.entry.conversation_id) for one in ended)


def _settle_one(
    transaction: Transaction, ended: Ended, messages: Sequence[Row], rows: Rows
) -> Settled:
    """Settle an entry; its own message is the last of the messages."""
    settlement, (*others, row) = ended.settlement, messages
    _, event, kind, agent, conversation, _, before, has_reply, had_caller, *more = row
    _, has_next, failures = more
    entry, outcome, state = settlement.entry, settlement.outcome, settlement.state
    said = _reply_of(settlement, messages)
    route = NO_REPLY if said is None else said.route(messages)
    done, after = state is DONE, str(state)
    error = None if outcome.error is None else storable(outcome.error)
    told_so = outcome.reply is None or (done and route is not NO_REPLY)
    reply = None if told_so else storable(outcome.reply or "")
    took = microseconds(settlement.took_seconds)
    of_attempt = (entry.id, entry.attempt, ended.holder.node, took, str(outcome.kind))
    rows.attempts.append((*of_attempt, error, reply))
    due_in = microseconds(settlement.due_in_seconds) if state is WAITING else None
    hold_for = microseconds(settlement.hold_seconds)
    acted = int(settlement.may_have_acted or done)
    rows.entries[after, due_in, hold_for, settlement.retries, acted].append(entry.id)
    rows.moved[kind, entry.event.channel, agent, before, after] += len(messages)
    if state is WAITING or has_next:
        rows.queues.add((conversation, kind, agent))
    if entry.kind is AGENT:
        rows.outcomes.append((entry.agent, outcome))
        if failures:
            rows.failing[entry.agent] = failures
    if done and entry.kind is AGENT and (has_reply or others):
        rows.told_before += [message["event"] for message in messages if message["has_reply"]]
    if outcome.pause is not None:
        rows.pauses[conversation] = outcome.pause
    if had_caller or others:
        of_rows = zip(entry.messages, messages, strict=True)
        transaction.changes.replies.update(
            one.event_id for one, its in of_rows if its["had_caller"]
        )
    if said is not None and route is not NO_REPLY:
        event = gather.listener(messages)["event"] if others else event
        rows.replies.append(said.row(event, route))
    if route is ReplyRoute.LATE:
        rows.late.append(late_entry(transaction, row, entry.event.channel))
        rows.queues.add((conversation, EntryKind.REPLY.value, agent))
    return KEPT if route is NO_REPLY else Settled(kept=True, reply=route)


@dataclass(frozen=True, slots=True)
class Said:
    """The reply to a person at the end of an attempt."""

    text: str
    failed: bool  # a failure's reply, not a successful one
    late: bool  # whether it can be posted without a waiting caller

    def route(self, messages: Sequence[Row]) -> ReplyRoute:
        """Return its route, by the waiting callers of the messages that it answers."""
        if any(row["has_caller"] for row in messages):
            return ReplyRoute.INLINE
        return self.later_route(messages)

    def later_route(self, messages: Sequence[Row]) -> ReplyRoute:
        """Return its route without a caller."""
        if self.late:
            return ReplyRoute.LATE
        # A channel without replies never has a caller who waits.
        had_caller = any(row["had_caller"] for row in messages)
        return ReplyRoute.UNDELIVERABLE if had_caller else ReplyRoute.NONE

    def row(self, event: int, route: ReplyRoute) -> dict[str, Any]:
        """Return the row of the reply to an event."""
        return {
            "event": event,
            "text": storable(self.text),
            "route": route.value,
            "failed": int(self.failed),
            "postable": int(self.late),
        }


def _reply_of(settlement: Settlement, messages: Sequence[Row]) -> Said | None:
    """Return the agent's reply if the entry is done; if dead without a reply, the failure reply."""
    if settlement.entry.kind is not AGENT:
        return None
    outcome, failure = settlement.outcome, settlement.failure_reply
    if settlement.state is DONE:
        if not outcome.reply:
            return None
        return Said(outcome.reply, outcome.kind is not OutcomeKind.SUCCESS, settlement.late)
    if settlement.state is not DEAD or failure is None:
        return None
    told = any(row["has_reply"] for row in messages)
    return None if told else Said(failure.text, failed=True, late=failure.late)


def late_entry(transaction: Transaction, row: Row, channel: str) -> order.NewEntry:
    """Return the entry that posts the reply to the given row's entry; it has no place yet."""
    kind, ready = EntryKind.REPLY.value, EntryState.READY.value
    transaction.count(kind, channel, row["agent"], ready)
    return order.NewEntry(0, row["event"], kind, row["agent"], row["conversation"], 0, ready)


async def _withdraw(transaction: Transaction, rows: Rows) -> None:
    """Discard unposted failure replies of events that succeed now."""
    entries = await transaction.execute("entries_of", events=rows.told_before)
    found = [row for row in entries if row["kind"] == EntryKind.REPLY and row["state"] in UNPOSTED]
    await transaction.many("discard_entry", [{"place": row["place"]} for row in found])
    await transaction.execute("forget_failure_replies", events=rows.told_before)
    for row in found:
        transaction.moved(row, EntryState.DISCARDED.value)
        rows.queues.add(order.queue_of(row))


async def insert_late(transaction: Transaction, entries: Sequence[order.NewEntry]) -> None:
    """Insert entries that post replies, after all existing ones."""
    if entries:
        numbers = await transaction.numbers(len(entries))
        placed = [
            entry._replace(place=number * EVENTS_EACH)
            for entry, number in zip(entries, numbers, strict=True)
        ]
        await transaction.many("insert_entry", placed)


async def _write(transaction: Transaction, rows: Rows, bursts: Collection[int]) -> None:
    await transaction.many("insert_attempt", rows.attempts)
    for after, places in rows.entries.items():
        becomes = dict(zip(AFTER, after, strict=True))
        await transaction.execute("settle", **becomes, places=places)
    transaction.count_moves(rows.moved)
    if bursts:
        await gather.share(transaction, bursts)
    if rows.told_before:
        await _withdraw(transaction, rows)
    if rows.replies:
        await transaction.many("insert_reply", rows.replies)
    if rows.late:
        await insert_late(transaction, rows.late)
    for conversation, pause in rows.pauses.items():
        await pauses.pause(transaction, [conversation], pause)
    if rows.queues:
        await order.advance(transaction, rows.queues)
