"""Middleware: verifies a request and makes it a verified delivery, or refuses it. The checks go
from cheap to expensive: method, secret, media type, size, then the body, then the proof, then the
bucket of verified requests. A page needs no proof here; whoever may read it is its own business.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, NamedTuple

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from berinia_webhookd.accept.body import (
    LONG_BODY_BYTES,
    BodyBudget,
    Reservation,
    body_at_hand,
    receive_body,
)
from berinia_webhookd.accept.loopback_guard import LoopbackGuard
from berinia_webhookd.accept.rate_limit import RateLimit, Throttle
from berinia_webhookd.accept.request_context import CONTEXT, RequestContext
from berinia_webhookd.channels.contract import Answer, Channel
from berinia_webhookd.clock import now
from berinia_webhookd.config.settings import ServerSettings
from berinia_webhookd.errors import (
    AccountRefused,
    AddressRefused,
    BodyTooLarge,
    BodyTooSlow,
    LoopbackLocked,
    MalformedDelivery,
    MediaTypeUnsupported,
    MethodNotAllowed,
    SignatureInvalid,
)
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import Caller, ChannelName, RawDelivery, VerifiedDelivery

# What proves nothing, and counts against whoever sent it.
_UNPROVEN: Final = (
    SignatureInvalid,
    AddressRefused,
    MalformedDelivery,
    MediaTypeUnsupported,
    BodyTooLarge,
    BodyTooSlow,
)


class VerifiedRequest(NamedTuple):
    """A verified delivery, when its body was complete (on the event loop's clock), the memory set
    aside for it, and what else is known of its request.
    """

    delivery: VerifiedDelivery
    complete_at: float
    reservation: Reservation
    context: RequestContext


VERIFIED: Final[web.RequestKey[VerifiedRequest]] = web.RequestKey("verified", VerifiedRequest)


class SignatureCheck:
    """The middleware: a channel's handler finds `request[VERIFIED]`, or is not reached."""

    def __init__(
        self,
        settings: ServerSettings,
        rate_limit: RateLimit,
        metrics: Metrics,
        guard: LoopbackGuard,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.budget = BodyBudget(settings.max_body_bytes_in_flight)
        self._rate_limit = rate_limit
        self._metrics = metrics
        self._guard = guard
        self._clock = clock
        self._time = asyncio.get_running_loop().time
        # Where requests that resemble the provider's were refused, since its last accepted one:
        # whether its messages get in is judged by what happened, and anew with each that does.
        self._refused: set[ChannelName] = set()
        # By channel, and by whether it resembles the provider's: no stranger takes its turn.
        self._throttles: defaultdict[tuple[ChannelName, bool], Throttle] = defaultdict(Throttle)
        self.reconfigure(settings)

    def reconfigure(self, settings: ServerSettings) -> None:
        """Take new bounds from the next request on."""
        self.budget.limit_bytes = settings.max_body_bytes_in_flight
        self.ack_timeout_seconds = settings.ack_timeout_seconds
        self.body_timeout_seconds = settings.body_timeout_seconds

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let pass what is verified, and who reads a page by a method that it has."""
        context = request[CONTEXT]
        endpoint = context.endpoint
        if endpoint.methods is not None and request.method not in endpoint.methods:
            raise _not_allowed(endpoint.methods)
        channel = endpoint.channel
        if channel is None:
            return await handler(request)
        channel.require_secret()
        client, caller = context.bucket, request[CALLER]
        with Reservation(self.budget, client) as reservation:
            try:
                delivery = await self._received(request, channel, caller, reservation)
                complete_at = self._time()
                if context.sample_key is not None:
                    delivery = delivery._replace(sample_key=context.sample_key)
                proven = await self._prove(context, channel, delivery, reservation)
            except _UNPROVEN:
                await self._rate_limit.count_failure(client)
                raise
            await self._rate_limit.verified.take(client)
            if isinstance(proven, Answer):
                return self._shake_hands(context, proven)
            reservation.verified()
            if not caller.forwarded and context.mark is None and channel.provider.from_outside:
                self._guard.suspect(caller)
            request[VERIFIED] = VerifiedRequest(proven, complete_at, reservation, context)
            try:
                response = await handler(request)
            except (MalformedDelivery, AccountRefused):  # it is proven all the same
                self._note_accepted(context, channel)
                raise
            self._note_accepted(context, channel)
            return response

    def _note_accepted(self, context: RequestContext, channel: Channel) -> None:
        if context.mark is None and channel.name in self._refused:
            self._refused.discard(channel.name)
            self._metrics.provider_refused.labels(channel=channel.name).set(0)

    async def _received(
        self, request: web.Request, channel: Channel, caller: Caller, reservation: Reservation
    ) -> RawDelivery:
        content_type_header = request.headers.get(hdrs.CONTENT_TYPE, "")
        content_type = content_type_header.partition(";")[0].strip().lower()
        if request.method != "GET" and content_type not in channel.media_types:
            raise MediaTypeUnsupported(f"Send {' or '.join(sorted(channel.media_types))}.")
        body = body_at_hand(request, reservation, max_bytes=channel.max_body_bytes)
        if body is None:
            body = await receive_body(
                request,
                reservation,
                max_bytes=channel.max_body_bytes,
                timeout_seconds=self.body_timeout_seconds,
            )
        return RawDelivery(
            channel.name,
            caller,
            request.raw_path,
            request.headers,
            content_type,
            content_type_header,
            body,
            self._clock(),
            request.method,
        )

    async def _prove(
        self,
        context: RequestContext,
        channel: Channel,
        delivery: RawDelivery,
        reservation: Reservation,
    ) -> VerifiedDelivery | Answer:
        """Return the verified delivery, or the answer to a handshake; large ones take turns."""
        long = len(delivery.body) > LONG_BODY_BYTES
        if long:
            seconds = channel.ack_timeout_seconds or self.ack_timeout_seconds
            await reservation.begin_work(len(delivery.body), seconds)
        try:
            answer = channel.handshake(delivery)
            if answer is not None:
                return answer
            if long:
                return await asyncio.to_thread(channel.verify, delivery)
            return channel.verify(delivery)
        except SignatureInvalid as error:
            await self._note_refusal(context, channel, delivery, str(error))
            raise
        except AddressRefused as error:
            diagnosis = str(error) if isinstance(error, LoopbackLocked) else None
            context.log.warning("address.refused", reason=str(error), diagnosis=diagnosis)
            raise

    def _shake_hands(self, context: RequestContext, answer: Answer) -> web.Response:
        self._metrics.handshakes_total.labels(channel=context.endpoint.label).inc()
        context.log.info("handshake.answered")
        # What it repeats is no page of ours.
        headers = {"Content-Type": answer.content_type, "X-Content-Type-Options": "nosniff"}
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _note_refusal(
        self, context: RequestContext, channel: Channel, delivery: RawDelivery, reason: str
    ) -> None:
        """Say whose it seems to be and what may be the matter. A diagnosis is expensive, so it is
        made once a second; without its turn a request has none in its line, not an empty one.
        """
        resembling = channel.resembles_provider(delivery)
        if resembling and context.mark is None:
            self._refused.add(channel.name)
            self._metrics.provider_refused.labels(channel=channel.name).inc()
        found: dict[str, str | None] = {}
        if self._throttles[channel.name, resembling].due():
            if len(delivery.body) > LONG_BODY_BYTES:
                found["diagnosis"] = await asyncio.to_thread(channel.diagnose, delivery)
            else:
                found["diagnosis"] = channel.diagnose(delivery)
        note_invalid_signature(
            self._metrics, context, reason, resembles_provider=resembling, **found
        )


def note_invalid_signature(
    metrics: Metrics, context: RequestContext, reason: str, **found: str | bool | None
) -> None:
    """Log a signature that proves nothing, and count it unless it is of our own making."""
    if context.mark is None:
        metrics.signature_failures_total.labels(channel=context.endpoint.label).inc()
    context.log.warning("signature.invalid", reason=reason, **found)


def _not_allowed(methods: Iterable[str]) -> MethodNotAllowed:
    allowed = tuple(sorted(methods))
    return MethodNotAllowed(f"Only {' and '.join(allowed)} is possible here.", allowed=allowed)
