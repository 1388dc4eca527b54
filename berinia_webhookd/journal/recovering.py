"""What dead processes were running: given back, and counted as a loss, not as a retry. And what was
leased to us by a commit whose answer never came: given back at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, bindparam, case, insert, select, update

from berinia_webhookd.journal import lines, postgresql
from berinia_webhookd.journal.claiming import GIVE_BACK, Holder, line_of
from berinia_webhookd.journal.contract import LostForGood
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.schema import AT_ONCE, EPOCH, Instant, attempts, entries, state_is
from berinia_webhookd.model import AgentName, EntryId, EntryState, EventId, OutcomeKind

MOST_LOSSES: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """Whose running entries to give back: everybody's (a file with one owner, at start), or those
    whose lease is over. After an outage all leases are over, so their holders get the time of one
    to renew them.
    """

    everybody: bool = False
    up_since: datetime = EPOCH
    lease_seconds: float = 0


@dataclass(frozen=True, slots=True, eq=False)
class Leftovers:
    """Our leases, without those we know of; `known` is looked at when the step is taken."""

    holder: Holder
    known: Set[EntryId]


@dataclass(frozen=True, slots=True)
class Recovered:
    """How many entries were given back, and which of them are dead now."""

    given_back: int = 0
    dead: tuple[LostForGood, ...] = ()


_RUNNING: Final = select(entries).where(state_is(EntryState.RUNNING))
OVER: Final = _RUNNING.where(entries.c.lease_until < bindparam("at")).limit(500)
OURS: Final = _RUNNING.where(entries.c.lease_holder == bindparam("holder"))
RECOVER: Final = (
    update(entries)
    .where(entries.c.id == bindparam("orphan"))
    .values(
        state=case(
            (entries.c.losses + 1 >= MOST_LOSSES, EntryState.DEAD.value),
            else_=EntryState.READY.value,
        ),
        finished_at=case(
            (entries.c.losses + 1 >= MOST_LOSSES, bindparam("at", type_=Instant)), else_=None
        ),
        losses=entries.c.losses + 1,
        lease_until=None,
        lease_holder=None,
    )
)
FORGET_CALLERS: Final = (
    update(entries)
    .where(entries.c.waiting_until.is_not(None), entries.c.finished_at.is_(None))
    .values(waiting_until=AT_ONCE)
)


def recover(transaction: Transaction, wanted: Sequence[Recovery]) -> list[Recovered]:
    """Make their entries ready again, at the same place; the fifth time, dead."""
    return [_recover(transaction, recovery) for recovery in wanted]


def _recover(transaction: Transaction, recovery: Recovery) -> Recovered:
    connection = transaction.connection
    orphans = _orphans(transaction, recovery)
    if recovery.everybody:
        # Whoever waited for a reply waited at the process that is gone.
        connection.execute(FORGET_CALLERS)
    if not orphans:
        return Recovered()
    connection.execute(insert(attempts), [_lost(row, transaction.now) for row in orphans])
    connection.execute(RECOVER, [{"orphan": row.id, "at": transaction.now} for row in orphans])
    lines.advance(transaction, map(line_of, orphans))
    dead = [row for row in orphans if row.losses + 1 >= MOST_LOSSES]
    return Recovered(len(orphans), tuple(map(_lost_for_good, dead)))


def _lost_for_good(row: Row[Any]) -> LostForGood:
    return LostForGood(
        event_id=EventId(row.event),
        channel=row.channel,
        agent=AgentName(row.agent),
        attempt=row.attempts,
        kind=row.kind,
    )


def _orphans(transaction: Transaction, recovery: Recovery) -> Sequence[Row[Any]]:
    connection = transaction.connection
    if recovery.everybody:
        return connection.execute(_RUNNING).all()
    if transaction.now - recovery.up_since < timedelta(seconds=recovery.lease_seconds):
        return []
    over = OVER.with_for_update(skip_locked=True) if transaction.locks_rows else OVER
    found = connection.execute(over, {"at": transaction.now}).all()
    return [
        row for row in found if not transaction.locks_rows or row.conversation in transaction.held
    ]


def touched(transaction: Transaction, wanted: Sequence[Recovery]) -> Iterable[int]:
    """The conversations of leases that are over."""
    del wanted
    if not postgresql.take_turn(transaction.connection, postgresql.RECOVERING):
        return []  # another node sees to it
    found = transaction.connection.execute(OVER, {"at": transaction.now})
    return [row.conversation for row in found]


def give_back_leftovers(transaction: Transaction, wanted: Sequence[Leftovers]) -> list[None]:
    """Release what was claimed by a commit whose answer was lost with the connection."""
    for leftovers in wanted:
        ours = transaction.connection.execute(OURS, {"holder": leftovers.holder.name}).all()
        rows = [row for row in ours if row.id not in leftovers.known]
        if rows:
            transaction.connection.execute(GIVE_BACK, [{"held": row.id} for row in rows])
            lines.advance(transaction, map(line_of, rows))
    return [None] * len(wanted)


def leftovers_touched(transaction: Transaction, wanted: Sequence[Leftovers]) -> Iterable[int]:
    """The conversations of all our leases."""
    found = transaction.connection.execute(OURS, {"holder": wanted[0].holder.name})
    return [row.conversation for row in found]


def _lost(row: Row[Any], now: datetime) -> dict[str, Any]:
    return {
        "entry": row.id,
        "number": row.attempts,
        "node": row.node,
        "started_at": row.started_at,
        "ended_at": now,
        "outcome": OutcomeKind.LOST.value,
        "error": "the daemon that ran it ended",
    }
