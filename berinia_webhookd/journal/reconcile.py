"""What `reconcile` asks of a journal, and takes into it beside the daemon: by the digest of its
callback, in the transaction of a callback, so that one that comes late cannot double it.
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
BATCH: Final = 100  # that are taken in at once: the daemon waits no longer than for these

AsksStart = Callable[[Event], bool]


class Rebuilt(NamedTuple):
    """A message as its callback would have brought it."""

    delivery: VerifiedDelivery
    decoded: Decoded


class Reconciliation(Operations):
    """One journal, compared with what a provider holds."""

    async def recipients(self, channel: ChannelName) -> list[str]:
        """Return whom people wrote to on a channel, in normal form."""
        return sorted(await self._read(_recipients, channel))

    async def here(self, digests: Sequence[bytes]) -> set[bytes]:
        """Return those of events that are here, or were."""
        return await self._read(_here, digests)

    async def keyed(self, beginnings: Sequence[bytes]) -> set[bytes]:
        """Return those of keys, or of their beginnings, that events here have."""
        return await self._read(_keyed, beginnings)

    async def first_keyed_at(self) -> datetime | None:
        """Return when the first event came that left a key; None: none has."""
        return await self._read(_first_keyed_at)

    async def take_in(
        self, channel: ChannelName, rebuilt: Sequence[Rebuilt], asks_start: AsksStart
    ) -> list[Receipts]:
        """Take in what is new of them, behind all that is here. `asks_start` says whether an event
        means START of somebody who has opted out. The events keep their own time; the deliveries
        came now, as they are numbered and found in the order of arrival.
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


async def _recipients(transaction: Transaction, channel: ChannelName) -> list[str]:
    rows = await transaction.execute("recipients_of", channel=channel)
    return [row["party"] for row in rows]


async def _here(transaction: Transaction, digests: Sequence[bytes]) -> set[bytes]:
    found = await transaction.execute("events_with", digests=digests)
    gone = await transaction.execute("already_seen", digests=digests)
    return {bytes(row["digest"]) for row in (*found, *gone)}


async def _keyed(transaction: Transaction, beginnings: Sequence[bytes]) -> set[bytes]:
    rows = [
        {"low": one.ljust(KEY_BYTES, b"\0"), "high": one.ljust(KEY_BYTES, b"\xff")}
        for one in beginnings
    ]
    keys = [bytes(row["key"]) for row in await transaction.many("keys_between", rows)]
    lengths = {len(one) for one in beginnings}
    return {key[:length] for key in keys for length in lengths} & set(beginnings)


async def _first_keyed_at(transaction: Transaction) -> datetime | None:
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
    """Listen again to a word for START that came before its STOP did: it meant nothing then."""
    channel, sender, _ = stop.parties
    for row in await transaction.execute("messages_of", channel=channel, sender=sender):
        event = event_text.decode(row["data"], row["form"])
        if event.received_at > stop.event.received_at and asks_start(event):
            at = stored(event.received_at)
            said = Said(sender, channel, EventId(row["id"]), OptOut.START, at)
            await consents.bring_up_to_date(transaction, [said])
