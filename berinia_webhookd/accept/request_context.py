"""Outermost middleware: gives each request its id, finds the endpoint that it asks for, and writes
its one log line and its metrics when it is over. Nothing of a query string, a header or a body gets
into that line.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Final, cast

import structlog
import uuid_utils
from aiohttp import web
from aiohttp.typedefs import Handler
from structlog.typing import FilteringBoundLogger

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.logs.control_characters import escape_controls
from berinia_webhookd.logs.pipeline import Say, saying
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import SampleKey
from berinia_webhookd.own_requests import Mark

SERVER: Final = "berinia-webhookd"
READING: Final = frozenset({"GET", "HEAD"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_HUNG_UP: Final = 499  # as nginx writes it
_SHOWN_PATH_CHARACTERS: Final = 200
_CACHED: Final = 256


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The handler of a path, and what the middlewares need to know of it."""

    handle: Handler
    label: str  # the channel's name, or logs, health, other: the `channel` of its metrics
    methods: frozenset[str] | None = READING  # None: any
    limited: bool = False  # whether each reading takes a token from the bucket of failures
    channel: Channel | None = None  # None: a page


@dataclass(slots=True)
class RequestContext:
    """What is known of a request; those middlewares that find out more add it."""

    request_id: str
    endpoint: Endpoint
    logger: FilteringBoundLogger
    say: Say  # by it; what every request says is said so
    said: dict[str, object]  # in each line: which request it is, and of whom
    bucket: bytes = b""  # of the rate limit, and its share of the memory
    mark: Mark | None = None  # of a request of this installation itself
    sample_key: SampleKey | None = None  # what proves a sample, where its channel's keys cannot

    @property
    def log(self) -> FilteringBoundLogger:
        """A logger of the request's own, which costs as much as a line."""
        return self.logger.bind(**self.said)


CONTEXT: Final[web.RequestKey[RequestContext]] = web.RequestKey("context", RequestContext)


class EndpointMatch(web.UrlMappingMatchInfo):
    """What every request to an endpoint is matched with, by any method. aiohttp adds its
    application to a match, which one that is shared takes once.
    """

    __slots__ = ("_is_whole", "endpoint")

    def __init__(self, endpoint: Endpoint, resource: web.AbstractResource) -> None:
        route = web.ResourceRoute("*", endpoint.handle, resource, expect_handler=_not_yet)
        super().__init__({}, route)
        self.endpoint = endpoint
        self._is_whole = False

    def add_app(self, app: web.Application) -> None:
        """Take the application, the first time."""
        if not self._is_whole:
            super().add_app(app)
            self._is_whole = True


async def _not_yet(_: web.Request) -> None:
    """Say no `100 Continue` before the middlewares: `body.receive_body` does when it reads."""


class RequestContexts:
    """The middleware; `stopping` makes each answer the last on its connection."""

    def __init__(self, metrics: Metrics, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._requests = metrics.requests
        self.reconfigure()

    def reconfigure(self) -> None:
        """Take the logger anew: its level may be another one."""
        self._logger: FilteringBoundLogger = structlog.get_logger().bind()
        self._say = saying(self._logger)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer with the request's id, whatever happens; then log and count."""
        begun = perf_counter()  # the loop's clock counts whole milliseconds
        context = request[CONTEXT] = self._context(request)
        status = _HUNG_UP
        try:
            response = await handler(request)
            status = response.status
            response.headers["X-Request-ID"] = context.request_id
            response.headers["Server"] = SERVER
            if self._stopping.is_set():
                response.force_close()  # the next request is another process's
            return response
        finally:
            seconds = perf_counter() - begun
            self._requests.ended(context.endpoint.label, status, seconds)
            line = {
                **context.said,
                "method": request.method,
                "path": shown_path(path_of(request)),
                "status": status,
                "duration_ms": round(seconds * 10_000) / 10,
            }
            context.say("request.finished", line)

    def _context(self, request: web.Request) -> RequestContext:
        wanted = request.headers.get("X-Request-ID")
        if wanted is None or not _REQUEST_ID.fullmatch(wanted):
            wanted = new_request_id()
        endpoint = cast(EndpointMatch, request.match_info).endpoint
        said: dict[str, object] = {"request_id": wanted, "channel": endpoint.label, "client": None}
        return RequestContext(wanted, endpoint, self._logger, self._say, said)


def path_of(request: web.Request) -> str:
    """Return the path of the request target as it came."""
    return request.raw_path.partition("?")[0]


def new_request_id() -> str:
    """Return an id that is unique, and unguessable enough not to be taken for somebody else's."""
    return uuid_utils.uuid4().hex


@lru_cache(_CACHED)
def shown_path(path: str) -> str:
    """Return a path for people's eyes: bounded, and without anything a terminal would act on."""
    shown = escape_controls(path[:_SHOWN_PATH_CHARACTERS])
    return shown if len(path) <= _SHOWN_PATH_CHARACTERS else shown + "..."
