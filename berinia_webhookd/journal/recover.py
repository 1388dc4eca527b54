"""Gives back entries that dead processes were running, counted as a loss, not as a retry; and
entries leased to us by a commit whose answer was lost, without counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final

import structlog

from berinia_webhookd.journal import event_text, gather, order
from berinia_webhookd.journal.claim import Holder
from berinia_webhookd.journal.contract import (
    UNDELIVERABLE_WHY,
    FailureReply,
    LostForGood,
    ReplyRoute,
)
from berinia_webhookd.journal.database import SECOND, Row, Transaction
from berinia_webhookd.journal.settle import Said, insert_late, late_entry
from berinia_webhookd.model import AgentName, EntryId, EntryState, Event, EventId

logger = structlog.get_logger()

MOST_LOSSES: Final = 5
TURN: Final = "recover"  # the lock: one node recovers at a time

# Returns the reply to an event's sender if it is lost for good with its agent's process.
LostReply = Callable[[Event], FailureReply | None]


@dataclass(frozen=True, slots=True, eq=False)
class Recovery:
    """The entries to give back: all running ones (a file with one owner, at start), or those with
    an expired lease.
    """

    everybody: bool = False
    up_since: int = 0  # by the database's clock
    lease_seconds: float = 0
    reply: LostReply = lambda _: None


@dataclass(frozen=True, slots=True, eq=False)
class Leftovers:
    """Our leases, except the known ones; `known` is read when the step runs."""

    holder: Holder
    known: Set[EntryId]


@dataclass(frozen=True, slots=True)
class Recovered:
    """The number of entries given back, and those that are dead now."""

    given_back: int = 0
    dead: tuple[LostForGood, ...] = ()


async def recover(transaction: Transaction, wanted: Sequence[Recovery]) -> list[Recovered]:
    """Make the entries ready again, at the same place; or dead, after five losses, or at once if an
    at-most-once attempt had begun.
    """
    return [await _recover(transaction, recovery) for recovery in wanted]


async def _recover(transaction: Transaction, recovery: Recovery) -> Recovered:
    if recovery.everybody:
        orphans = await transaction.execute("leases_of", holder=None)
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
    await gather.follow(transaction, orphans, states)
    await order.advance(transaction, map(order.queue_of, orphans))
    dead = [row for row in orphans if states[row["place"]] == EntryState.DEAD]
    await _tell_people(transaction, dead, recovery.reply)
    return Recovered(len(orphans), tuple(map(_lost_for_good, dead)))


async def _tell_people(transaction: Transaction, dead: Sequence[Row], reply: LostReply) -> None:
    """Insert the replies to the senders of entries that are lost for good."""
    if not dead:
        return
    places = [row["place"] for row in dead]
    members = await gather.members_of(transaction, places)
    replies, late = [], []
    for row in await transaction.execute("left_without_reply", places=places):
        messages = [*members.get(row["place"], ()), row]
        told = reply(event_text.decode(row["data"], row["form"]))
        if told is None or any(one["has_reply"] for one in messages):
            continue
        said = Said(told.text, failed=True, late=told.late)
        # Late if possible: a waiting caller may have waited at the dead process.
        route = said.later_route(messages)
        listener = gather.listener(messages)
        if route is not ReplyRoute.LATE and listener["has_caller"]:
            route = ReplyRoute.INLINE
        if route is ReplyRoute.NONE:
            continue
        replies.append(said.row(listener["event"], route))
        transaction.changes.replies.update(EventId(one["event_id"]) for one in messages)
        if route is ReplyRoute.LATE:
            late.append(late_entry(transaction, row, row["channel"]))
        elif route is ReplyRoute.UNDELIVERABLE:
            about = {"event_id": row["event_id"], "agent": row["agent"]}
            logger.warning("reply.undeliverable", **about, reason=UNDELIVERABLE_WHY)
    await transaction.many("insert_reply", replies)
    await insert_late(transaction, late)
    await order.advance(transaction, [(one.conversation, one.kind, one.agent) for one in late])


async def _leases_over(transaction: Transaction, recovery: Recovery) -> list[Row]:
    """Return the expired leases in locked conversations; the others are left for the next time."""
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
        may_have_acted=bool(row["begun"]),
    )


async def touched(transaction: Transaction, wanted: Sequence[Recovery]) -> Iterable[int]:
    """Return the conversations of expired leases."""
    if not await transaction.take_turn(TURN):
        return []  # another node is recovering
    found: list[int] = []
    for recovery in wanted:
        lease = round(recovery.lease_seconds * SECOND)
        about = {"up_since": recovery.up_since, "lease": lease}
        rows = await transaction.execute("conversations_over", **about)
        found += [row["conversation"] for row in rows]
    return found


async def give_back_leftovers(transaction: Transaction, wanted: Sequence[Leftovers]) -> list[None]:
    """Release entries claimed by a commit whose answer was lost with the connection."""
    for leftovers in wanted:
        ours = await transaction.execute("leases_of", holder=leftovers.holder.name)
        rows = [row for row in ours if row["place"] not in leftovers.known]
        if rows:
            await transaction.execute("give_back", places=[row["place"] for row in rows])
            for row in rows:
                transaction.moved(row, EntryState.READY.value)
            ready = {row["place"]: EntryState.READY.value for row in rows}
            await gather.follow(transaction, rows, ready)
            await gather.disband(transaction, ready)
            await order.advance(transaction, map(order.queue_of, rows))
    return [None] * len(wanted)


async def leftovers_touched(transaction: Transaction, wanted: Sequence[Leftovers]) -> Iterable[int]:
    """Return the conversations of all our leases."""
    found = await transaction.execute("leases_of", holder=wanted[0].holder.name)
    return [row["conversation"] for row in found]
