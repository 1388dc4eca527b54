"""The end of an attempt: what is recorded, what becomes of the entry, and where a reply goes. All
of it in one transaction, so that a reply is either a waiting caller's or posted late, never both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, bindparam, delete, insert, update

from berinia_webhookd.journal import lines
from berinia_webhookd.journal.arriving import insert_entries, new_id
from berinia_webhookd.journal.claiming import Holder, line_of, still_held
from berinia_webhookd.journal.contract import ReplyRoute, Settled
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.lines import Line
from berinia_webhookd.journal.prepared import Batch
from berinia_webhookd.journal.schema import attempts, entries, replies
from berinia_webhookd.model import EntryKind, EntryState, OutcomeKind, Settlement

FINISHED: Final = frozenset({EntryState.DONE, EntryState.DEAD})


@dataclass(frozen=True, slots=True, eq=False)
class Ending:
    """One settlement, by the process that says it holds the lease."""

    holder: Holder
    settlement: Settlement


INSERT_ATTEMPTS: Final = Batch(
    insert(attempts),
    *("entry", "number", "node", "started_at", "ended_at", "outcome", "error", "reply"),
)
RECORD: Final = Batch(
    update(entries)
    .where(entries.c.id == bindparam("settled"))
    .values(
        state=bindparam("to_state"),
        due_at=bindparam("due"),
        hold_until=bindparam("hold"),
        retries=bindparam("used_retries"),
        finished_at=bindparam("finished"),
        lease_until=None,
        lease_holder=None,
    )
)
FORGET_REPLIES: Final = delete(replies).where(replies.c.event == bindparam("of_event"))


@dataclass(slots=True)
class Rows:
    """What a batch of settlements writes, table by table."""

    attempts: list[dict[str, Any]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    lines: set[Line] = field(default_factory=set)


def settle(transaction: Transaction, endings: Sequence[Ending]) -> list[Settled]:
    """Record attempts; one whose lease was lost is ignored, because another run decides."""
    leases = [ending.settlement.entry for ending in endings]
    lines.hold(transaction, touched(transaction, endings))
    held = still_held(transaction, endings[0].holder, leases)
    rows = Rows()
    results: list[Settled] = []
    for ending in endings:
        # Taken out, so that a settlement sent twice is recorded once.
        row = held.pop(ending.settlement.entry.id, None)
        if row is None:
            results.append(Settled(kept=False))
        else:
            results.append(_settle_one(transaction, ending, row, rows))
    _write(transaction, rows)
    return results


def touched(_: Transaction, endings: Sequence[Ending]) -> Iterable[int]:
    """The conversations whose entries end."""
    return (int(ending.settlement.entry.conversation_id) for ending in endings)


def _settle_one(transaction: Transaction, ending: Ending, row: Row[Any], rows: Rows) -> Settled:
    settlement = ending.settlement
    entry, outcome = settlement.entry, settlement.outcome
    route = _route(settlement, row.waiting_until, transaction.now)
    failed = outcome.kind is not OutcomeKind.SUCCESS
    # A caller who was given the error's text has his answer; trying again would give a second one.
    state = EntryState.DEAD if failed and route is ReplyRoute.INLINE else settlement.state
    rows.attempts.append(
        {
            "entry": entry.id,
            "number": entry.attempt,
            "node": ending.holder.node,
            "started_at": settlement.started_at,
            "ended_at": settlement.ended_at,
            "outcome": outcome.kind.value,
            "error": storable(outcome.error) if outcome.error is not None else None,
            "reply": storable(outcome.reply)
            if outcome.reply is not None and route is ReplyRoute.NONE
            else None,
        }
    )
    rows.entries.append(
        {
            "settled": entry.id,
            "to_state": state.value,
            "due": settlement.due_at if state is EntryState.WAITING else None,
            "hold": settlement.hold_until,
            "used_retries": settlement.retries,
            "finished": transaction.now if state in FINISHED else None,
        }
    )
    rows.lines.add(line_of(row))
    if row.waiting_until is not None:
        transaction.news.replies.add(entry.event_id)
    if route is not ReplyRoute.NONE and outcome.reply is not None:
        rows.replies.append(_reply(settlement, route, transaction.now))
    if route is ReplyRoute.LATE:
        rows.late.append(late_reply(row, transaction.now))
        rows.lines.add(Line(row.conversation, EntryKind.REPLY.value, row.agent))
    return Settled(kept=True, reply=route)


def _route(settlement: Settlement, waiting_until: datetime | None, now: datetime) -> ReplyRoute:
    outcome = settlement.outcome
    if not outcome.reply or settlement.entry.kind is EntryKind.REPLY:
        return ReplyRoute.NONE
    somebody_waits = waiting_until is not None and waiting_until > now
    if outcome.kind is not OutcomeKind.SUCCESS:
        answers = settlement.error_to_caller and somebody_waits
        return ReplyRoute.INLINE if answers else ReplyRoute.NONE
    if somebody_waits:
        return ReplyRoute.INLINE
    if settlement.late:
        return ReplyRoute.LATE
    # A channel without replies never has a caller who waits.
    return ReplyRoute.NONE if waiting_until is None else ReplyRoute.UNDELIVERABLE


def _reply(settlement: Settlement, route: ReplyRoute, now: datetime) -> dict[str, Any]:
    failed = settlement.outcome.kind is not OutcomeKind.SUCCESS
    return {
        "event": settlement.entry.event_id,
        "text": storable(settlement.outcome.reply or ""),
        "route": route.value,
        "failed": failed,
        "postable": settlement.late and not failed,
        "decided_at": now,
    }


def late_reply(row: Row[Any], now: datetime) -> dict[str, Any]:
    """The row of an entry that posts the reply to the agent's entry of the given row."""
    return {
        "id": new_id(),
        "event": row.event,
        "kind": EntryKind.REPLY.value,
        "channel": row.channel,
        "agent": row.agent,
        "conversation": row.conversation,
        "opt_out": False,
        "waiting_until": None,
        "created_at": now,
        "startable_at": None,
    }


def _write(transaction: Transaction, rows: Rows) -> None:
    connection = transaction.connection
    INSERT_ATTEMPTS.execute(connection, rows.attempts)
    RECORD.execute(connection, rows.entries)
    if rows.replies:
        # A replayed event's new reply takes the place of the old one.
        connection.execute(FORGET_REPLIES, [{"of_event": row["event"]} for row in rows.replies])
        connection.execute(insert(replies), rows.replies)
    if rows.late:
        insert_entries(connection, rows.late)
    lines.advance_open(transaction, rows.lines)
