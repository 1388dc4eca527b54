"""The HTTP server under the application: what it adds to aiohttp's are bounds and silence. HTTP
that cannot be parsed gets a bare 400 and one line in the log, never a traceback; a head that does
not come is cut off; connections over the limit get a 503 before anything of theirs is read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.typedefs import Handler
from yarl import URL

from berinia_webhookd.accept.access_log import SERVER, new_request_id
from berinia_webhookd.accept.body import give_back_large_bodies
from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.problems import problem
from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.errors import Overloaded

_log = structlog.get_logger()

KEEP_ALIVE_SECONDS: Final = 75.0  # longer than nginx keeps its side
HEAD_TIMEOUT_SECONDS: Final = 15.0
_REFUSAL_SECONDS: Final = 1.0  # for a refused caller to read why
_MOST_REFUSALS: Final = 1024  # being told at once; those above are simply cut off
_LIMITS: Final[dict[str, Any]] = {
    "max_line_size": 8190,
    "max_field_size": 8190,
    "max_headers": 100,
    "read_bufsize": 65_536,
    "lingering_time": 1.0,
    "auto_decompress": False,
    "access_log": None,
}
_ROOT: Final = URL("/")


def make_runner(
    handler: Handler,
    door: Door,
    *,
    shutdown_timeout_seconds: float = 1.0,
    head_timeout_seconds: float = HEAD_TIMEOUT_SECONDS,
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
) -> web.BaseRunner:
    """A runner for sites; on `cleanup` requests have at most thrice the given time to finish."""
    give_back_large_bodies()
    server = _Server(
        handler,
        door=door,
        head_timeout_seconds=head_timeout_seconds,
        keep_alive_seconds=keep_alive_seconds,
    )
    return _Runner(server, shutdown_timeout=shutdown_timeout_seconds)


class _Runner(web.ServerRunner):
    async def cleanup(self) -> None:
        """Stop accepting, hear out those who have just come, then close."""
        for site in list(self.sites):
            await site.stop()
        if isinstance(self.server, _Server):
            await self.server.hear_out(self._shutdown_timeout)
        await super().cleanup()


class _Server(web.Server):
    """Makes our connections, and counts them."""

    def __init__(
        self,
        handler: Handler,
        *,
        door: Door,
        head_timeout_seconds: float,
        keep_alive_seconds: float,
    ) -> None:
        super().__init__(
            cast(Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], handler),
            request_factory=self._request,
            handler_cancellation=True,  # a caller that hangs up is noticed
            keepalive_timeout=keep_alive_seconds,
            **_LIMITS,
        )
        self.door = door
        self.head_timeout_seconds = head_timeout_seconds
        self.open_connections = 0
        self.refused_connections = 0
        self.fewer_connections = asyncio.Event()

    async def hear_out(self, seconds: float) -> None:
        """Wait for requests under way, and for callers who came or spoke within that time: what
        they send may be on its way, and closing would lose it without an answer.
        """
        deadline = self._loop.time() + seconds
        while (until := min(deadline, self._quiet_at(seconds))) > self._loop.time():
            self.fewer_connections.clear()
            await wait_for_event(self.fewer_connections, until - self._loop.time())

    def _quiet_at(self, seconds: float) -> float:
        connections = cast(list[_Connection], self.connections)
        if any(connection.is_busy for connection in connections):
            return math.inf
        return max((connection.heard_at for connection in connections), default=0.0) + seconds

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.Request:
        """A target that is no path keeps its text, which the application refuses, but not its
        URL, which aiohttp would believe (host and scheme) or stumble over.
        """
        if message.method == "CONNECT" or not message.path.startswith("/"):
            message = message._replace(url=_ROOT, should_close=True)
        return web.Request(message, payload, protocol, writer, task, self._loop)


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ("_head_timer", "_refused", "_server", "heard_at")

    def __init__(self, server: _Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self.heard_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._server
        if server.open_connections >= server.door.max_connections:
            self._refuse(cast(asyncio.Transport, transport))
            return
        server.open_connections += 1
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        if self._refused:
            self._server.refused_connections -= 1
            return
        self._server.open_connections -= 1
        super().connection_lost(exc)
        self._server.fewer_connections.set()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self.heard_at = self._loop.time()
        before = self._request_count
        try:
            super().data_received(data)
        except ValueError:  # what the parser's URL and header handling raises past its own errors
            self._note_unreadable("unreadable target or header")
            self.force_close()
            return
        if self._request_count > before:
            self._stop_head_timer()
            self._end_broken_bodies()
        elif self._head_timer is None and self._is_idle():
            self._await_head()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 would be shown to the caller
    ) -> web.StreamResponse:
        """The last resort: unreadable HTTP (400), or what escaped the application."""
        if status == web.HTTPBadRequest.status_code:
            self._note_unreadable(type(exc).__name__)
            response = web.Response(status=status)
        else:
            request_id = new_request_id()
            if not isinstance(exc, ConnectionError):
                _log.error("request.failed", request_id=request_id, exc_info=exc)
            response = problem(RuntimeError(), request_id)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        response.headers["Server"] = SERVER
        response.headers["X-Request-ID"] = new_request_id()
        response.force_close()
        return response

    def log_exception(self, *_: Any, **kwargs: Any) -> None:
        """What happens to a connection besides its answers is the caller's doing, mostly."""
        error = kwargs.get("exc_info")
        if isinstance(error, web.RequestPayloadError | ConnectionError):
            _log.debug("connection.failed", reason=type(error).__name__)
        else:
            _log.error("connection.failed", exc_info=error)

    def _end_broken_bodies(self) -> None:
        """After unparsable bytes no body can be completed: whoever reads one is told at once."""
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body is not valid HTTP"))

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._current_request is not None

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(
            self._server.head_timeout_seconds, self._give_up_on_head
        )

    def _give_up_on_head(self) -> None:
        self._head_timer = None
        if self._is_idle():
            self.force_close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _note_unreadable(self, reason: str) -> None:
        self._server.door.metrics.requests_total.labels(channel="other", status="400").inc()
        _log.info("request.finished", channel="other", status=400, reason=reason)

    def _refuse(self, transport: asyncio.Transport) -> None:
        """Say why, then close. What the caller sends is read and dropped meanwhile, because closing
        over unread bytes would take the answer away from it.
        """
        server = self._server
        self._refused = True
        server.refused_connections += 1
        server.door.metrics.requests_total.labels(channel="other", status="503").inc()
        if server.refused_connections > _MOST_REFUSALS:
            transport.abort()
            return
        transport.write(_too_many_connections())
        if transport.can_write_eof():
            transport.write_eof()
        self._loop.call_later(_REFUSAL_SECONDS, transport.abort)


def _too_many_connections() -> bytes:
    request_id = new_request_id()
    answer = problem(Overloaded("Too many connections; please retry."), request_id)
    body = cast(bytes, answer.body)
    headers = {
        **answer.headers,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Server": SERVER,
        "X-Request-ID": request_id,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + body
