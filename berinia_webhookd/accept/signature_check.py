"""Where a stranger's request becomes a verified delivery, or ends. The order is from cheap to dear:
method, secret, bucket of failures, media type, size, then the body, then the proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from berinia_webhookd.accept.body import LONG_BODY_BYTES, Reservation, receive_body
from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.visit import PROVEN, VISIT, Proven, Visit
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import (
    AddressRefused,
    BodyTooLarge,
    BodyTooSlow,
    MalformedDelivery,
    MediaTypeUnsupported,
    MethodNotAllowed,
    SignatureInvalid,
)
from berinia_webhookd.model import RawDelivery

_log = structlog.get_logger()
_T = TypeVar("_T")

_UNPROVEN = (
    SignatureInvalid,
    AddressRefused,
    MalformedDelivery,
    MediaTypeUnsupported,
    BodyTooLarge,
    BodyTooSlow,
)


def signature_check(door: Door) -> Middleware:
    """Lets only verified deliveries pass to a channel's path; other paths are not its business."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        visit = request[VISIT]
        channel = visit.channel
        if channel is None:
            return await handler(request)
        if request.method != "POST":
            raise MethodNotAllowed("Only POST is possible here.", allowed=("POST",))
        channel.require_secret()
        door.limiter.require_no_flood(visit.key)
        with door.budget.reservation(visit.key) as reservation:
            try:
                request[PROVEN] = await _prove(request, visit, channel, door, reservation)
            except _UNPROVEN:
                door.limiter.count_failure(visit.key)
                raise
            return await handler(request)

    return middleware


async def _prove(
    request: web.Request, visit: Visit, channel: Channel, door: Door, reservation: Reservation
) -> Proven:
    content_type_header = request.headers.get("Content-Type", "")
    content_type = content_type_header.partition(";")[0].strip().lower()
    if content_type not in channel.media_types:
        raise MediaTypeUnsupported(f"Send {' or '.join(sorted(channel.media_types))}.")
    body = await receive_body(
        request,
        reservation,
        max_bytes=channel.max_body_bytes,
        timeout_seconds=door.body_timeout_seconds,
    )
    complete_at = door.loop.time()
    await reservation.begin_work(len(body), door.ack_timeout_seconds)
    delivery = RawDelivery(
        channel=channel.name,
        caller=visit.caller,
        target=request.raw_path,
        headers=request.headers,
        content_type=content_type,
        content_type_header=content_type_header,
        body=body,
        received_at=door.clock(),
    )
    try:
        verified = await _off_the_loop_if_long(channel.verify, delivery)
    except SignatureInvalid as error:
        # Looking for the likely mistakes is dear: once a second for all callers together.
        due = door.diagnosis_pace.due()
        diagnosis = await _off_the_loop_if_long(channel.diagnose, delivery) if due else None
        note_invalid_signature(door, visit, str(error), diagnosis)
        raise
    except AddressRefused:
        _log.warning("address.refused", **visit.whose)
        raise
    reservation.verified()
    return Proven(verified, complete_at, reservation)


async def _off_the_loop_if_long(work: Callable[[RawDelivery], _T], delivery: RawDelivery) -> _T:
    if len(delivery.body) > LONG_BODY_BYTES:
        return await asyncio.to_thread(work, delivery)
    return work(delivery)


def note_invalid_signature(door: Door, visit: Visit, reason: str, diagnosis: str | None) -> None:
    """Count and log a signature that proves nothing."""
    door.metrics.signature_failures_total.labels(channel=visit.label).inc()
    _log.warning("signature.invalid", **visit.whose, reason=reason, diagnosis=diagnosis)
