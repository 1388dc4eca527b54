"""The end of an attempt: what is recorded, what becomes of the entry, and where a reply goes. All
of it in one transaction, so that a reply is either a waiting caller's or posted late, never both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from berinia_webhookd.journal import gather, guards, order
from berinia_webhookd.journal import pause as pauses
from berinia_webhookd.journal.claim import Holder, still_held
from berinia_webhookd.journal.contract import ReplyRoute, Settled, Settlement
from berinia_webhookd.journal.database import Row, Transaction, microseconds
from berinia_webhookd.journal.deliveries import EVENTS_EACH
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.order import Queue
from berinia_webhookd.model import EntryKind, EntryState, OutcomeKind, Pause

# What was lost after it had begun is dead, and nobody else decides what became of it.
RESULT_COUNTS: Final = frozenset({EntryState.RUNNING, EntryState.DEAD})


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """One settlement, by the process that says it holds the lease."""

    holder: Holder
    settlement: Settlement


@dataclass(slots=True)
class Rows:
    """What a batch of settlements writes, table by table."""

    attempts: list[dict[str, Any]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    late: list[order.NewEntry] = field(default_factory=list)
    queues: set[Queue] = field(default_factory=set)
    told_before: list[int] = field(default_factory=list)  # events that end otherwise now
    pauses: dict[int, Pause] = field(default_factory=dict)  # by conversation


async def settle(transaction: Transaction, ended: Sequence[Ended]) -> list[Settled]:
    """Record attempts; one whose lease was lost is ignored, because another run decides."""
    await order.hold(transaction, await touched(transaction, ended))
    leases = [one.settlement.entry for one in ended]
    held = await still_held(transaction, ended[0].holder, leases, RESULT_COUNTS)
    members = await gather.members_of(transaction, [one.id for one in leases if one.members])
    rows = Rows()
    results: list[Settled] = []
    for one in ended:
        # Taken out, so that a settlement sent twice is recorded once.
        row = held.pop(one.settlement.entry.id, None)
        if row is None:
            results.append(Settled(kept=False))
        else:
            others = members.get(one.settlement.entry.id, [])
            results.append(_settle_one(transaction, one, [*others, row], rows))
    await _write(transaction, rows, members)
    return await _with_failures(transaction, ended, results)


async def _with_failures(
    transaction: Transaction, ended: Sequence[Ended], results: list[Settled]
) -> list[Settled]:
    """The results, the last of each agent with what its guards have to tell."""
    of_agents = {
        number: one.settlement.entry.agent
        for number, one in enumerate(ended)
        if results[number].kept and one.settlement.entry.kind is EntryKind.AGENT
    }
    outcomes = [(agent, ended[number].settlement.outcome) for number, agent in of_agents.items()]
    last = {agent: number for number, agent in of_agents.items()}
    for agent, failures in (await guards.note_outcomes(transaction, outcomes)).items():
        results[last[agent]] = replace(results[last[agent]], failures=failures)
    return results


async def touched(_: Transaction, ended: Sequence[Ended]) -> Iterable[int]:
    """Return the conversations whose entries end."""
    return [int(one.settlement.entry.conversation_id) for one in ended]


def _settle_one(
    transaction: Transaction, ended: Ended, messages: Sequence[Row], rows: Rows
) -> Settled:
    """Settle an entry; of its messages, its own is the last."""
    settlement, row = ended.settlement, messages[-1]
    entry, outcome = settlement.entry, settlement.outcome
    said = _reply_of(settlement, messages)
    route = ReplyRoute.NONE if said is None else said.route(messages)
    state = settlement.state
    told = route is not ReplyRoute.NONE and settlement.state is EntryState.DONE
    reply = None if told else outcome.reply
    rows.attempts.append(
        {
            "entry": entry.id,
            "number": entry.attempt,
            "node": ended.holder.node,
            "took": microseconds(settlement.took_seconds),
            "outcome": outcome.kind.value,
            "error": None if outcome.error is None else storable(outcome.error),
            "reply": None if reply is None else storable(reply),
        }
    )
    waits = state is EntryState.WAITING
    rows.entries.append(
        {
            "place": entry.id,
            "state": state.value,
            "due_in": microseconds(settlement.due_in_seconds) if waits else None,
            "hold_for": microseconds(settlement.hold_seconds),
            "retries": settlement.retries,
            "acted": int(settlement.may_have_acted or state is EntryState.DONE),
        }
    )
    kind, channel = entry.kind.value, entry.event.channel
    transaction.count(kind, channel, entry.agent, row["state"], -len(messages))
    transaction.count(kind, channel, entry.agent, state.value, len(messages))
    rows.queues.add(order.queue_of(row))
    if state is EntryState.DONE and entry.kind is EntryKind.AGENT:
        rows.told_before += [message["event"] for message in messages if message["has_reply"]]
    if settlement.pause is not None:
        rows.pauses[row["conversation"]] = settlement.pause
    transaction.changes.replies.update(
        message.event_id
        for message, its_row in zip(entry.messages, messages, strict=True)
        if its_row["had_caller"]
    )
    if said is not None and route is not ReplyRoute.NONE:
        rows.replies.append(said.row(gather.listener(messages)["event"], route))
    if route is ReplyRoute.LATE:
        rows.late.append(late_entry(transaction, row, channel))
        rows.queues.add(Queue(row["conversation"], EntryKind.REPLY.value, row["agent"]))
    return Settled(kept=True, reply=route)


@dataclass(frozen=True, slots=True)
class Said:
    """What a person is to be told at the end of an attempt."""

    text: str
    failed: bool  # not the agent's word of success
    late: bool  # whether it can be posted where nobody waits for it

    def route(self, messages: Sequence[Row]) -> ReplyRoute:
        """Return how it goes back, by who waits for any of the messages that it answers."""
        if any(row["has_caller"] for row in messages):
            return ReplyRoute.INLINE
        return self.later_route(messages)

    def later_route(self, messages: Sequence[Row]) -> ReplyRoute:
        """Return how it goes back without a caller."""
        if self.late:
            return ReplyRoute.LATE
        # A channel without replies never has a caller who waits.
        had_caller = any(row["had_caller"] for row in messages)
        return ReplyRoute.UNDELIVERABLE if had_caller else ReplyRoute.NONE

    def row(self, event: int, route: ReplyRoute) -> dict[str, Any]:
        """The row of the reply to an event."""
        return {
            "event": event,
            "text": storable(self.text),
            "route": route.value,
            "failed": int(self.failed),
            "postable": int(self.late),
        }


def _reply_of(settlement: Settlement, messages: Sequence[Row]) -> Said | None:
    """The agent's own words, where they end the entry; else those for an entry that nobody tries
    again, if the person has been told nothing.
    """
    if settlement.entry.kind is EntryKind.REPLY:
        return None
    outcome, failure = settlement.outcome, settlement.failure_reply
    if settlement.state is EntryState.DONE:
        failed = outcome.kind is not OutcomeKind.SUCCESS
        return Said(outcome.reply, failed, settlement.late) if outcome.reply else None
    told = any(row["has_reply"] for row in messages)
    if settlement.state is EntryState.DEAD and failure is not None and not told:
        return Said(failure.text, failed=True, late=failure.late)
    return None


def late_entry(transaction: Transaction, row: Row, channel: str) -> order.NewEntry:
    """The entry that posts the reply to the agent's entry of the given row; it has no place yet."""
    kind, ready = EntryKind.REPLY.value, EntryState.READY.value
    transaction.count(kind, channel, row["agent"], ready)
    return order.NewEntry(0, row["event"], kind, row["agent"], row["conversation"], 0, ready)


async def _withdraw(transaction: Transaction, rows: Rows) -> None:
    """Give up what waits to be posted and is not true any more: of a failure, before a success."""
    if not rows.told_before:
        return
    found = await transaction.execute("replies_to_post", events=rows.told_before)
    await transaction.many("discard_entry", [{"place": row["place"]} for row in found])
    await transaction.execute("forget_failure_replies", events=rows.told_before)
    for row in found:
        transaction.moved(row, EntryState.DISCARDED.value)
        rows.queues.add(order.queue_of(row))


async def insert_late(transaction: Transaction, entries: Sequence[order.NewEntry]) -> None:
    """Insert entries that post replies, behind all there are."""
    if entries:
        numbers = await transaction.numbers(len(entries))
        placed = [
            entry._replace(place=number * EVENTS_EACH)
            for entry, number in zip(entries, numbers, strict=True)
        ]
        await transaction.many("insert_entry", placed)


async def _write(transaction: Transaction, rows: Rows, bursts: Collection[int]) -> None:
    await transaction.many("insert_attempt", rows.attempts)
    await transaction.many("settle", rows.entries)
    await gather.share(transaction, bursts)
    await _withdraw(transaction, rows)
    await transaction.many("insert_reply", rows.replies)
    await insert_late(transaction, rows.late)
    for conversation, pause in rows.pauses.items():
        await pauses.pause(transaction, [conversation], pause)
    await order.advance_open(transaction, rows.queues)
