"""What dead processes were running: given back, and counted as a loss, not as a retry. And what was
leased to us by a commit whose answer never came: given back at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final

from berinia_webhookd.journal import order
from berinia_webhookd.journal.claim import Holder
from berinia_webhookd.journal.contract import LostForGood
from berinia_webhookd.journal.database import SECOND, Row, Transaction
from berinia_webhookd.model import AgentName, EntryId, EntryState, EventId

MOST_LOSSES: Final = 5
TURN: Final = "recover"  # one node does it at a time


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """Whose running entries to give back: everybody's (a file with one owner, at start), or those
    whose lease is over.
    """

    everybody: bool = False
    up_since: int = 0  # by the database's clock
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


async def recover(transaction: Transaction, wanted: Sequence[Recovery]) -> list[Recovered]:
    """Make their entries ready again, at the same place; the fifth time, dead."""
    return [await _recover(transaction, recovery) for recovery in wanted]


async def _recover(transaction: Transaction, recovery: Recovery) -> Recovered:
    if recovery.everybody:
        orphans = await transaction.execute("running")
        await transaction.execute("forget_callers")
    else:
        orphans = await _leases_over(transaction, recovery)
    if not orphans:
        return Recovered()
    places = [row["place"] for row in orphans]
    await transaction.execute("insert_lost_attempts", places=places)
    states = dict(await transaction.execute("lose", places=places, most_losses=MOST_LOSSES))
    for row in orphans:
        transaction.moved(row, states[row["place"]])
    await order.advance(transaction, map(order.queue_of, orphans))
    dead = [row for row in orphans if states[row["place"]] == EntryState.DEAD]
    return Recovered(len(orphans), tuple(map(_lost_for_good, dead)))


async def _leases_over(transaction: Transaction, recovery: Recovery) -> list[Row]:
    """Those in conversations that are held; the others are left for the next time."""
    lease = round(recovery.lease_seconds * SECOND)
    found = await transaction.execute("leases_over", up_since=recovery.up_since, lease=lease)
    return [
        row for row in found if not transaction.shared or row["conversation"] in transaction.held
    ]


def _lost_for_good(row: Row) -> LostForGood:
    return LostForGood(
        event_id=EventId(row["event"]),
        channel=row["channel"],
        agent=AgentName(row["agent"]),
        attempt=row["attempts"],
        kind=row["kind"],
    )


async def touched(transaction: Transaction, wanted: Sequence[Recovery]) -> Iterable[int]:
    """Return the conversations of leases that are over."""
    if not await transaction.take_turn(TURN):
        return []  # another node sees to it
    found: list[int] = []
    for recovery in wanted:
        lease = round(recovery.lease_seconds * SECOND)
        about = {"up_since": recovery.up_since, "lease": lease}
        rows = await transaction.execute("conversations_over", **about)
        found += [row["conversation"] for row in rows]
    return found


async def give_back_leftovers(transaction: Transaction, wanted: Sequence[Leftovers]) -> list[None]:
    """Release what was claimed by a commit whose answer was lost with the connection."""
    for leftovers in wanted:
        ours = await transaction.execute("leases_of", holder=leftovers.holder.name)
        rows = [row for row in ours if row["place"] not in leftovers.known]
        if rows:
            await transaction.execute("give_back", places=[row["place"] for row in rows])
            for row in rows:
                transaction.moved(row, EntryState.READY.value)
            await order.advance(transaction, map(order.queue_of, rows))
    return [None] * len(wanted)


async def leftovers_touched(transaction: Transaction, wanted: Sequence[Leftovers]) -> Iterable[int]:
    """Return the conversations of all our leases."""
    found = await transaction.execute("leases_of", holder=wanted[0].holder.name)
    return [row["conversation"] for row in found]
