"""Where a stranger's request becomes a verified delivery, or ends. The order is from cheap to dear:
method, secret, bucket of failures, media type, size, then the body, then the proof.
"""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web

from berinia_webhookd.accept.body import LONG_BODY_BYTES, Reservation, receive_body
from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.visit import Proven, Visit
from berinia_webhookd.channels.contract import Answer, Channel
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

_UNPROVEN = (
    SignatureInvalid,
    AddressRefused,
    MalformedDelivery,
    MediaTypeUnsupported,
    BodyTooLarge,
    BodyTooSlow,
)


async def signature_check(
    request: web.Request, door: Door, visit: Visit, channel: Channel, reservation: Reservation
) -> Proven | Answer:
    """The verified delivery, or the answer to a handshake.

    Raises:
        DeliveryRejected: it is none. What proves nothing counts against its caller.
    """
    if request.method not in channel.methods:
        allowed = tuple(sorted(channel.methods))
        raise MethodNotAllowed(f"Only {' and '.join(allowed)} is possible here.", allowed=allowed)
    channel.require_secret()
    door.limiter.require_no_flood(visit.key)
    try:
        return await _prove(request, door, visit, channel, reservation)
    except _UNPROVEN:
        await door.limiter.count_failure(visit.key)
        raise


async def _prove(
    request: web.Request, door: Door, visit: Visit, channel: Channel, reservation: Reservation
) -> Proven | Answer:
    content_type_header = request.headers.get("Content-Type", "")
    content_type = content_type_header.partition(";")[0].strip().lower()
    if request.method != "GET" and content_type not in channel.media_types:
        raise MediaTypeUnsupported(f"Send {' or '.join(sorted(channel.media_types))}.")
    body = await receive_body(
        request,
        reservation,
        max_bytes=channel.max_body_bytes,
        timeout_seconds=door.body_timeout_seconds,
    )
    complete_at = door.loop.time()
    long = len(body) > LONG_BODY_BYTES
    if long:
        seconds = channel.ack_timeout_seconds or door.ack_timeout_seconds
        await reservation.begin_work(len(body), seconds)
    delivery = RawDelivery(
        channel=channel.name,
        caller=visit.caller,
        target=request.raw_path,
        headers=request.headers,
        content_type=content_type,
        content_type_header=content_type_header,
        body=body,
        received_at=door.clock(),
        method=request.method,
    )
    try:
        answer = channel.handshake(delivery)
        if answer is not None:
            door.metrics.handshakes_total.labels(channel=visit.label).inc()
            door.log.info("handshake.answered", **visit.whose)
            return answer
        if long:
            verified = await asyncio.to_thread(channel.verify, delivery)
        else:
            verified = channel.verify(delivery)
    except SignatureInvalid as error:
        diagnosis = await _diagnosis(door, channel, delivery)
        note_invalid_signature(door, visit, str(error), diagnosis)
        raise
    except AddressRefused:
        _log.warning("address.refused", **visit.whose)
        raise
    reservation.verified()
    return Proven(verified, complete_at, reservation)


async def _diagnosis(door: Door, channel: Channel, delivery: RawDelivery) -> str | None:
    """Looking for the likely mistakes is dear: once a second for all callers together."""
    if not door.diagnosis_pace.due():
        return None
    if len(delivery.body) > LONG_BODY_BYTES:
        return await asyncio.to_thread(channel.diagnose, delivery)
    return channel.diagnose(delivery)


def note_invalid_signature(door: Door, visit: Visit, reason: str, diagnosis: str | None) -> None:
    """Count and log a signature that proves nothing."""
    door.metrics.signature_failures_total.labels(channel=visit.label).inc()
    _log.warning("signature.invalid", **visit.whose, reason=reason, diagnosis=diagnosis)
