"""The one receiving handler: a verified delivery is decoded, committed, and answered. A 2xx leaves
only after the journal's word that the event is on disk; what it cannot store in time it refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from aiohttp import web

from berinia_webhookd.accept.body import LONG_BODY_BYTES
from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.probe import probe_answer
from berinia_webhookd.accept.reply_wait import answer_with_reply, answered, hang_up
from berinia_webhookd.accept.signature_check import note_invalid_signature
from berinia_webhookd.accept.visit import Proven, Visit
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import (
    AccountRefused,
    JournalUnavailable,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.model import Event, Receipt

_log = structlog.get_logger()
_T = TypeVar("_T")


async def receive(
    request: web.Request, door: Door, visit: Visit, channel: Channel, proven: Proven
) -> web.StreamResponse:
    """Take in one verified delivery.

    Raises:
        MalformedDelivery, AccountRefused: it was kept as rejected.
        SignatureInvalid: its signature was used before with another message.
        JournalUnavailable: it is not on disk in time; if it gets there later, it is kept.
    """
    delivery = proven.delivery
    if channel.is_probe(delivery):
        return probe_answer(request, visit, channel, proven)
    arrival = _Arrival(door, visit, channel, proven)
    try:
        if len(delivery.body) > LONG_BODY_BYTES:
            decoded = await asyncio.to_thread(channel.decode, delivery)
        else:
            decoded = channel.decode(delivery)
    except (MalformedDelivery, AccountRefused) as error:
        await arrival.keep_rejected(error)
        raise
    (event,) = decoded.events  # as many as the journal takes at once
    waiting_until = arrival.waiting_until()
    receipt = await arrival.committed(event, waiting_until)
    if waiting_until is not None:
        return await answer_with_reply(request, door, channel, receipt, waiting_until)
    return answered(channel.answer((receipt,)))


@dataclass(slots=True)
class _Arrival:
    """One verified delivery on its way into the journal."""

    door: Door
    visit: Visit
    channel: Channel
    proven: Proven

    def waiting_until(self) -> datetime | None:
        """Until when the caller waits for the agent's reply, if it does."""
        replies = self.channel.replies
        if replies is None or not replies.wait_seconds or self.door.stopping.is_set():
            return None
        return self.door.clock() + timedelta(seconds=replies.wait_seconds)

    async def committed(self, event: Event, waiting_until: datetime | None) -> Receipt:
        async def late(receipt: Receipt) -> None:
            self._note_accepted(receipt)
            if waiting_until is not None:
                await hang_up(self.door, receipt.event_id)

        accepting = self.door.inbox.accept(self.proven.delivery, event, waiting_until=waiting_until)
        try:
            receipt = await self._in_time(accepting, late)
        except ReplayedSignature:
            reason = "used before with another message"
            note_invalid_signature(self.door, self.visit, reason, diagnosis=None)
            raise SignatureInvalid(reason) from None
        self.proven.reservation.end_work()
        self._note_accepted(receipt)
        return receipt

    async def keep_rejected(self, error: MalformedDelivery | AccountRefused) -> None:
        reason: dict[str, object] = {"kind": type(error).__name__, "detail": str(error)}
        if isinstance(error, MalformedDelivery):
            reason |= {"missing": list(error.missing), "invalid": list(error.invalid)}
        self.door.metrics.rejected_total.labels(channel=self.visit.label).inc()
        _log.warning("delivery.rejected", **self.visit.whose, reason=reason)

        async def late(_: None) -> None:
            return None

        await self._in_time(self.door.inbox.reject(self.proven.delivery, reason), late)

    async def _in_time(self, work: Awaitable[_T], late: Callable[[_T], Awaitable[None]]) -> _T:
        """The result of `work`, which goes on when the deadline is over or the caller hangs up:
        what the journal has begun to write is not taken back.
        """
        seconds = self.channel.ack_timeout_seconds or self.door.ack_timeout_seconds
        latest = self.proven.complete_at + seconds
        task = asyncio.ensure_future(work)
        try:
            await self.door.deadlines.wait(task, latest)
        except asyncio.CancelledError:
            self._finish_later(task, late)
            raise
        if task.done():
            return task.result()
        self._finish_later(task, late)
        raise JournalUnavailable("The journal did not commit in time.")

    def _finish_later(
        self, task: asyncio.Future[_T], late: Callable[[_T], Awaitable[None]]
    ) -> None:
        async def finish() -> None:
            with memory:
                try:
                    result = await task
                except (JournalUnavailable, ReplayedSignature):
                    return  # the caller was told so, or is gone and will send it again
                await late(result)

        memory = self.proven.reservation.hand_over()
        self.door.finish_later(finish())

    def _note_accepted(self, receipt: Receipt) -> None:
        visit = self.visit
        if receipt.duplicate:
            self.door.metrics.duplicates_total.labels(channel=visit.label).inc()
        name = "event.duplicate" if receipt.duplicate else "event.accepted"
        self.door.log.info(name, **visit.whose, event_id=receipt.event_id, agent=receipt.agent)
