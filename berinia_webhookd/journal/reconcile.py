"""The journal's side of `reconcile`: finds missing messages and accepts them beside the daemon,
with the digest of their callback and in the same transaction as one, so that a late callback is no
duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from berinia_webhookd.clock import now
from berinia_webhookd.journal import accept, consents, event_text
from berinia_webhookd.journal.accept import Arrival, NewEvent
from berinia_webhookd.journal.actions import About
from berinia_webhookd.journal.consents import Said
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.database import Transaction, instant, stored
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.model import (
    ChannelName,
    Decoded,
    Event,
    EventId,
    OptOut,
    Receipts,
    VerifiedDelivery,
)

RECONCILE: Final = "reconcile"
KEY_BYTES: Final = 32
BATCH: Final = 100  # messages per transaction, which bounds the daemon's wait

AsksStart = Callable[[Event], bool]


class Rebuilt(NamedTuple):
    """A message as from its callback."""

    delivery: VerifiedDelivery
    decoded: Decoded


class Reconciliation(Operations):
    """One journal, compared with a provider's messages."""

    async def take_in(
        self, channel: ChannelName, rebuilt: Sequence[Rebuilt], asks_start: AsksStart
    ) -> list[Receipts]:
        """Accept new ones, after all existing events. `asks_start` says whether an event means
        START if its sender has opted out. The events keep their own time; the deliveries are
        received now, because they are numbered in the order of arrival.
        """
        at = now()
        arrivals = [
            Arrival.of(
                one.delivery._replace(received_at=at),
                one.decoded,
                node=self._node,
                key=self._key,
                gathering_of=self._gathering_of,
            )
            for one in rebuilt
        ]

        def about(told: Sequence[Receipts]) -> About:
            ids = [one.event_id for receipts in told for one in receipts if not one.duplicate]
            return {"ids": ids, "channel": channel if ids else None}

        return await self._act(RECONCILE, about, _accept, arrivals, asks_start)


async def recipients(transaction: Transaction, channel: ChannelName) -> list[str]:
    """Return the recipients of messages on a channel, in normal form."""
    rows = await transaction.execute("recipients_of", channel=channel)
    return sorted(row["party"] for row in rows)


async def here(transaction: Transaction, digests: Sequence[bytes]) -> set[bytes]:
    """Return those of the events that are or were in the journal."""
    found = await transaction.execute("events_with", digests=digests)
    gone = await transaction.execute("already_seen", digests=digests)
    return {bytes(row["digest"]) for row in (*found, *gone)}


async def keyed(transaction: Transaction, beginnings: Sequence[bytes]) -> set[bytes]:
    """Return those of the keys, or prefixes of keys, that events have."""
    rows = [
        {"low": one.ljust(KEY_BYTES, b"\0"), "high": one.ljust(KEY_BYTES, b"\xff")}
        for one in beginnings
    ]
    keys = [bytes(row["key"]) for row in await transaction.many("keys_between", rows)]
    lengths = {len(one) for one in beginnings}
    return {key[:length] for key in keys for length in lengths} & set(beginnings)


async def first_keyed_at(transaction: Transaction) -> datetime | None:
    """Return when the first event with a key was received; None: no event has one."""
    rows = await transaction.execute("first_keyed")
    return instant(rows[0]["received_at"]) if rows else None


async def _accept(
    transaction: Transaction, arrivals: Sequence[Arrival], asks_start: AsksStart
) -> list[Receipts]:
    told = await accept.accept(transaction, arrivals)
    for arrival, receipts in zip(arrivals, told, strict=True):
        if isinstance(receipts, ReplayedSignature):
            raise TypeError("what is rebuilt has no signature")
        for receipt, new in zip(receipts, arrival.events, strict=True):
            if not receipt.duplicate and new.event.opt_out is OptOut.STOP:
                await _hear_later_start(transaction, new, asks_start)
    return [one for one in told if not isinstance(one, ReplayedSignature)]


async def _hear_later_start(
    transaction: Transaction, stop: NewEvent, asks_start: AsksStart
) -> None:
    """Apply a word for START again that was accepted before its STOP, when it had no effect."""
    channel, sender, _ = stop.parties
    for row in await transaction.execute("messages_of", channel=channel, sender=sender):
        event = event_text.decode(row["data"], row["form"])
        if event.received_at > stop.event.received_at and asks_start(event):
            at = stored(event.received_at)
            said = Said(sender, channel, EventId(row["id"]), OptOut.START, at)
            await consents.bring_up_to_date(transaction, [said])
