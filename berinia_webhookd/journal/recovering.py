"""What dead processes were running: given back, and counted as a loss, not as a retry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, bindparam, case, insert, select, update

from berinia_webhookd.journal import lines
from berinia_webhookd.journal.claiming import line_of
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.schema import AT_ONCE, Instant, attempts, entries, state_is
from berinia_webhookd.model import EntryState, OutcomeKind

MOST_LOSSES: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """Whose running entries to give back: everybody's (a file with one owner, at start), or those
    whose lease is over.
    """

    everybody: bool


ORPHANS: Final = select(entries).where(state_is(EntryState.RUNNING))
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


def recover(transaction: Transaction, wanted: Sequence[Recovery]) -> list[int]:
    """Make their entries ready again, at the same place; the fifth time, dead."""
    return [_recover(transaction, recovery) for recovery in wanted]


def _recover(transaction: Transaction, recovery: Recovery) -> int:
    connection = transaction.connection
    statement = ORPHANS
    if not recovery.everybody:
        statement = statement.where(entries.c.lease_until < transaction.now).with_for_update(
            skip_locked=True
        )
    orphans = connection.execute(statement).all()
    if recovery.everybody:
        # Whoever waited for a reply waited at the process that is gone.
        connection.execute(FORGET_CALLERS)
    if not orphans:
        return 0
    connection.execute(insert(attempts), [_lost(row, transaction.now) for row in orphans])
    connection.execute(RECOVER, [{"orphan": row.id, "at": transaction.now} for row in orphans])
    lines.advance(transaction, map(line_of, orphans))
    return len(orphans)


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
