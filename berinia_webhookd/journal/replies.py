"""Replies with waiting callers, and their routes when the callers are gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from berinia_webhookd.journal import order
from berinia_webhookd.journal.contract import UNDELIVERABLE_WHY, Reply, ReplyRoute
from berinia_webhookd.journal.database import Row, Transaction
from berinia_webhookd.journal.settle import insert_late, late_entry
from berinia_webhookd.model import Entry, EntryKind, EventId

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """A caller that waited for an event's reply timed out or hung up."""

    event_id: EventId
    hung_up: bool


@dataclass(frozen=True, slots=True)
class FoundReply:
    """The known reply of an event's agent; `over` if it will not change."""

    reply: Reply | None
    inline: bool
    over: bool


class Callers:
    """The callers in this process that wait for replies: each is woken when there may be one."""

    def __init__(self) -> None:
        self._waiting: defaultdict[EventId, set[asyncio.Event]] = defaultdict(set)

    @contextlib.contextmanager
    def listening(self, event_id: EventId) -> Iterator[asyncio.Event]:
        """Set an event whenever a message has changed."""
        changed = asyncio.Event()
        self._waiting[event_id].add(changed)
        try:
            yield changed
        finally:
            self._waiting[event_id].discard(changed)
            if not self._waiting[event_id]:
                del self._waiting[event_id]

    def wake_for(self, entry: Entry) -> None:
        """Wake the callers that wait for the reply to this entry."""
        if self._waiting and entry.kind is EntryKind.AGENT:
            self.wake([message.event_id for message in entry.messages])

    def wake(self, event_ids: Iterable[EventId] | None) -> None:
        """Wake the callers that wait for these messages' replies, or all."""
        for event_id in list(self._waiting) if event_ids is None else event_ids:
            for changed in self._waiting.get(event_id, ()):
                changed.set()


async def reply_to(transaction: Transaction, event_id: EventId) -> FoundReply:
    """Return the known reply of an event."""
    rows = await transaction.execute("reply_of", event=event_id)
    if not rows:
        return FoundReply(None, inline=False, over=True)
    (row,) = rows
    reply = _reply(row)
    if reply is None and row["finished"] and row["gathered"]:
        reply = Reply(text=None, failed=False)  # it went to another message's caller, if any
    over = reply is not None or bool(row["finished"])
    inline = row["route"] == ReplyRoute.INLINE or row["text"] is None
    return FoundReply(reply, inline=inline, over=over)


def _reply(row: Row) -> Reply | None:
    return None if row["text"] is None else Reply(text=row["text"], failed=bool(row["failed"]))


async def stop_waiting(
    transaction: Transaction, departures: Sequence[Departure]
) -> list[Reply | None]:
    """Make later replies late; one decided inline is returned or, after a hang-up, made late."""
    return [await _stop_waiting(transaction, departure) for departure in departures]


async def touched(transaction: Transaction, departures: Sequence[Departure]) -> Iterable[int]:
    """Return the conversations of these events."""
    events = [departure.event_id for departure in departures]
    found = await transaction.execute("conversations_of", events=events)
    return [row["conversation"] for row in found]


async def _stop_waiting(transaction: Transaction, departure: Departure) -> Reply | None:
    await order.hold(transaction, await touched(transaction, [departure]))
    rows = await transaction.execute("reply_of", event=departure.event_id)
    if not rows:
        return None
    (row,) = rows
    await transaction.execute("nobody_waits", place=row["place"])
    if row["route"] != ReplyRoute.INLINE:
        return None
    if not departure.hung_up:
        return _reply(row)
    await _post_late(transaction, row)
    return None


async def _post_late(transaction: Transaction, row: Row) -> None:
    route = ReplyRoute.LATE if row["postable"] else ReplyRoute.UNDELIVERABLE
    await transaction.execute("reroute", event=row["event"], route=route.value)
    if route is ReplyRoute.UNDELIVERABLE:
        about = {"event_id": row["event_id"], "agent": row["agent"]}
        logger.warning("reply.undeliverable", **about, reason=UNDELIVERABLE_WHY)
        return
    await insert_late(transaction, [late_entry(transaction, row, row["channel"])])
    queue = (row["conversation"], EntryKind.REPLY.value, row["agent"])
    await order.advance(transaction, [queue])
