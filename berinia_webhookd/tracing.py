"""OpenTelemetry spans of verified requests and of attempts, by the extra `tracing`. Where it is off
nothing of this is built, and no request comes by here. Strangers make no spans, and no span has
anything that a person wrote. The agent's span is a child of its attempt's, by `traceparent`.
"""

from __future__ import annotations

import logging
import sys
import threading
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from berinia_webhookd import __version__
from berinia_webhookd.accept.signature_check import VERIFIED
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.model import AgentName, Entry, Member, Outcome, OutcomeKind
from berinia_webhookd.outbound.availability import TransportDirectory
from berinia_webhookd.outbound.contract import Begin, Transport, begin_freely
from berinia_webhookd.trace_context import TRACEPARENT, traceparent_of

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, set_span_in_context
    from opentelemetry.trace import get_current_span as span_in
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise CannotStart(
        f"tracing.url is set, and OpenTelemetry is not installed: {error.name} is missing",
        hint=f"{sys.prefix}/bin/pip install opentelemetry-sdk "
        "opentelemetry-exporter-otlp-proto-http, or remove tracing.url",
    ) from error

EXPORT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0  # what is not sent by then is lost
_TRACES: Final = "/v1/traces"
# What says that a collector does not answer.
_LOGGERS: Final = (OTLPSpanExporter.__module__, BatchSpanProcessor.__module__)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one process, and sends them from a thread of its own."""

    def __init__(self, processor: SpanProcessor, node: str) -> None:
        resource = Resource.create(
            {
                "service.name": "berinia-webhookd",
                "service.version": __version__,
                "service.instance.id": node,
            }
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer("berinia_webhookd", __version__)

    @classmethod
    def to(cls, url: str, node: str) -> Tracing:
        """Send spans to a collector by OTLP over HTTP; `OTEL_*` variables say the rest."""
        exporter = OTLPSpanExporter(url.rstrip("/") + _TRACES, timeout=EXPORT_SECONDS)
        path = urlsplit(url).path.rstrip("/")
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(partial(_without, path))
        return cls(BatchSpanProcessor(exporter), node)

    def close(self) -> None:
        """Send what is left. A collector that hangs is not waited for."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)

    def transports(self, transports: TransportDirectory) -> TransportDirectory:
        """Return the same transports, each attempt of theirs in a span."""
        return TracedTransports(transports, self)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Make a span of a verified request, from when its body was there until its answer; its
        events belong to that.
        """
        verified = request.get(VERIFIED)
        if verified is None or verified.context.mark is not None:
            return await handler(request)
        delivery = verified.delivery
        with self.tracer.start_as_current_span(
            f"receive {delivery.channel}",
            context=_context_of(delivery.headers.get(TRACEPARENT, "")),
            kind=SpanKind.SERVER,
            start_time=int(delivery.received_at.timestamp() * 1_000_000) * 1000,
            attributes={
                "http.request.method": request.method,
                "berinia.channel": delivery.channel,
                "berinia.request_id": verified.context.request_id,
            },
            record_exception=False,  # its text may hold what somebody wrote
            set_status_on_exception=False,
        ) as span:
            traced = delivery._replace(headers={**delivery.headers, **_headers_of(span)})
            request[VERIFIED] = verified._replace(delivery=traced)
            try:
                response = await handler(request)
            except Exception as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise
            span.set_attribute("http.response.status_code", response.status)
            return response


def _without(path: str, record: logging.LogRecord) -> bool:
    """Leave the path of the collector's URL, which may hold its token, out of a line."""
    text = record.getMessage()
    if record.exc_info:
        text, record.exc_info = f"{text} {record.exc_info[1]!r}", None
    record.msg, record.args = text.replace(path, "/…") if path else text, None
    return True


class TracedTransports:
    """The transports of a process, each attempt of theirs in a span."""

    def __init__(self, transports: TransportDirectory, tracing: Tracing) -> None:
        self._transports = transports
        self._tracing = tracing
        self._traced: dict[Transport, TracedTransport] = {}

    def of(self, agent: AgentName) -> Transport:
        """Return the transport by the agent's target: the same one each time."""
        transport = self._transports.of(agent)
        if (traced := self._traced.get(transport)) is None:
            traced = self._traced[transport] = TracedTransport(transport, self._tracing)
        return traced

    def goes_on(self, agent: AgentName) -> bool:
        """Return whether an agent goes on with the code from before the last reload."""
        return self._transports.goes_on(agent)


class TracedTransport:
    """A transport that makes a span of each attempt, and hands it on to the agent."""

    def __init__(self, transport: Transport, tracing: Tracing) -> None:
        self._transport = transport
        self._tracer = tracing.tracer

    @property
    def capacity(self) -> int:
        """See `Transport`."""
        return self._transport.capacity

    async def load(self, agent: AgentName) -> None:
        """See `Transport`."""
        await self._transport.load(agent)

    async def close(self) -> None:
        """See `Transport`."""
        await self._transport.close()

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        """Make one attempt; the other messages of a burst are links of its span."""
        with self._tracer.start_as_current_span(
            f"attempt {entry.agent}",
            context=_context_of(entry.traceparent),
            kind=SpanKind.CLIENT,
            links=[_link_to(one) for one in entry.members],
            attributes={
                "berinia.channel": entry.event.channel,
                "berinia.event_id": entry.event_id,
                "berinia.agent": entry.agent,
                "berinia.attempt": entry.attempt,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            event = entry.event._replace(traceparent=_headers_of(span).get(TRACEPARENT))
            outcome = await self._transport.attempt(
                entry._replace(event=event), timeout_seconds=timeout_seconds, begin=begin
            )
            span.set_attribute("berinia.outcome", outcome.kind.value)
            if outcome.kind is not OutcomeKind.SUCCESS:
                span.set_status(StatusCode.ERROR, outcome.kind.value)
            return outcome


def _context_of(traceparent: str) -> Context:
    return _PROPAGATOR.extract({TRACEPARENT: traceparent}, Context())


def _headers_of(span: Span) -> dict[str, str]:
    """Return the `traceparent` of what belongs to a span; none where OTEL_SDK_DISABLED is set."""
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers, set_span_in_context(span, Context()))
    return headers


def _link_to(message: Member) -> Link:
    traceparent = message.event.traceparent or traceparent_of(message.event_id)
    return Link(span_in(_context_of(traceparent)).get_span_context())
