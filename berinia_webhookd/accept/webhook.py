"""The one receiving handler: a verified delivery is decoded, committed, and answered. A 2xx leaves
only after the journal's word that the event is on disk; what it cannot store in time it refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from aiohttp import web

from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.reply_wait import answer_with_reply
from berinia_webhookd.accept.signature_check import LONG_BODY_BYTES
from berinia_webhookd.accept.visit import Proven, Visit
from berinia_webhookd.channels.contract import Answer, Channel
from berinia_webhookd.errors import (
    AccountRefused,
    JournalUnavailable,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.model import Event, Receipt, VerifiedDelivery

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
        return _answered(channel.answer(None))
    latest = proven.complete_at + door.ack_timeout_seconds
    try:
        event = await _decoded(channel, delivery)
    except (MalformedDelivery, AccountRefused) as error:
        await _keep_rejected(door, visit, delivery, error, latest)
        raise
    waiting_until = _waiting_until(door, channel)
    receipt = await _committed(
        door, visit, delivery, event, waiting_until=waiting_until, latest=latest
    )
    if waiting_until is not None:
        return await answer_with_reply(request, door, channel, receipt, waiting_until)
    return _answered(channel.answer(receipt))


def _waiting_until(door: Door, channel: Channel) -> datetime | None:
    if channel.replies and door.reply_wait_seconds > 0 and not door.stopping.is_set():
        return door.clock() + timedelta(seconds=door.reply_wait_seconds)
    return None


async def _decoded(channel: Channel, delivery: VerifiedDelivery) -> Event:
    if len(delivery.body) > LONG_BODY_BYTES:
        return await asyncio.to_thread(channel.decode, delivery)
    return channel.decode(delivery)


async def _committed(
    door: Door,
    visit: Visit,
    delivery: VerifiedDelivery,
    event: Event,
    *,
    waiting_until: datetime | None,
    latest: float,
) -> Receipt:
    async def late(receipt: Receipt) -> None:
        _note_accepted(door, visit, receipt)
        if waiting_until is not None:
            await door.inbox.stop_waiting(receipt.event_id, hung_up=True)

    accepting = door.inbox.accept(delivery, event, waiting_until=waiting_until)
    try:
        receipt = await _in_time(door, accepting, latest, late)
    except ReplayedSignature:
        door.metrics.signature_failures_total.labels(channel=visit.label).inc()
        reason = "used before with another message"
        _log.warning("signature.invalid", **visit.whose, reason=reason, diagnosis=None)
        raise SignatureInvalid(reason) from None
    _note_accepted(door, visit, receipt)
    return receipt


def _note_accepted(door: Door, visit: Visit, receipt: Receipt) -> None:
    if receipt.duplicate:
        door.metrics.duplicates_total.labels(channel=visit.label).inc()
    name = "event.duplicate" if receipt.duplicate else "event.accepted"
    _log.info(name, **visit.whose, event_id=receipt.event_id, agent=receipt.agent)


async def _keep_rejected(
    door: Door,
    visit: Visit,
    delivery: VerifiedDelivery,
    error: MalformedDelivery | AccountRefused,
    latest: float,
) -> None:
    reason: dict[str, object] = {"kind": type(error).__name__, "detail": str(error)}
    if isinstance(error, MalformedDelivery):
        reason |= {"missing": list(error.missing), "invalid": list(error.invalid)}
    door.metrics.rejected_total.labels(channel=visit.label).inc()
    _log.warning("delivery.rejected", **visit.whose, reason=reason)

    async def late(_: None) -> None:
        return None

    await _in_time(door, door.inbox.reject(delivery, reason), latest, late)


async def _in_time(
    door: Door,
    work: Coroutine[Any, Any, _T],
    latest: float,
    late: Callable[[_T], Awaitable[None]],
) -> _T:
    """The result of `work`, which goes on when the deadline is over or the caller hangs up: what
    the journal has begun to write is not taken back.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    try:
        await asyncio.wait((task,), timeout=max(0.0, latest - loop.time()))
    except asyncio.CancelledError:
        door.finish_later(_finish(task, late))
        raise
    if task.done():
        return task.result()
    door.finish_later(_finish(task, late))
    raise JournalUnavailable("The journal did not commit in time.")


async def _finish(task: asyncio.Task[_T], late: Callable[[_T], Awaitable[None]]) -> None:
    try:
        await late(await task)
    except (JournalUnavailable, ReplayedSignature) as error:
        _log.warning("event.not_kept", reason=type(error).__name__)


def _answered(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type}
    )
