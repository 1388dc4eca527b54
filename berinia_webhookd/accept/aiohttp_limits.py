"""The HTTP server under the application: what it adds to aiohttp's are bounds and silence. HTTP
that cannot be parsed gets a bare 400 and one line in the log, never a traceback; a head that does
not come is cut off; connections over the limit, of all or of one peer, get a 503 before anything of
theirs is read, unless another peer has more that are idle.

The server is the one that an `AppRunner` makes; ours are the connections given to it. Public by
name but documented nowhere, and read in aiohttp 3.14.5: `Server.request_factory`,
`RequestHandler(manager, loop=…)`, its `log_access`, `handle_error` and `log_exception`. One private
name is needed, in `_Connection.end_broken_bodies` and where a head is awaited: `_messages`, the
queue of parsed requests, because nothing public says that the bytes after a head could not be
parsed, and whoever reads the body would wait for its timeout. Tests in
`tests/accept/test_aiohttp_limits.py` fail when an upgrade changes any of these.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from yarl import URL

from berinia_webhookd.accept.accept_loop import AcceptLoop
from berinia_webhookd.accept.body import give_back_large_bodies
from berinia_webhookd.accept.problems import problem
from berinia_webhookd.accept.request_context import SERVER, new_request_id
from berinia_webhookd.addresses import Network, client_key, peer_key
from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.errors import Overloaded
from berinia_webhookd.metrics import Metrics

_log = structlog.get_logger()

KEEP_ALIVE_SECONDS: Final = 75.0  # longer than nginx keeps its side
HEAD_TIMEOUT_SECONDS: Final = 15.0
_PEER_SHARE: Final = 4  # one peer has at most this part of the connections
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
_SPOKEN: Final = (HttpVersion11, HttpVersion10)


class HttpServer:
    """Serves an application on listening sockets.

    Args:
        max_connections: at once; may be changed while running.
        trusted_proxies: these may have all of them, as everybody behind them does; likewise.
        shutdown_seconds: requests have at most thrice as long to finish when stopping.
    """

    def __init__(
        self,
        application: web.Application,
        metrics: Metrics,
        *,
        max_connections: int,
        trusted_proxies: Sequence[Network] = (),
        shutdown_seconds: float = 1.0,
        head_timeout_seconds: float = HEAD_TIMEOUT_SECONDS,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self.max_connections = max_connections
        self.trusted_proxies = trusted_proxies
        self.head_timeout_seconds = head_timeout_seconds
        self.keep_alive_seconds = keep_alive_seconds
        self.metrics = metrics
        self.loop = asyncio.get_running_loop()
        self.open_connections = 0
        self.connections_of: Counter[bytes] = Counter()  # of peers that have a share
        self.refused_connections = 0
        self.changed = asyncio.Event()  # a request or a connection has ended
        self._shutdown_seconds = shutdown_seconds
        self._accept_loops: list[AcceptLoop] = []
        self._runner = web.AppRunner(
            application,
            handler_cancellation=True,  # a caller that hangs up is noticed
            shutdown_timeout=shutdown_seconds,
        )

    async def start(self, listeners: Iterable[socket.socket]) -> None:
        """Begin to accept; the sockets are closed by `stop`."""
        give_back_large_bodies()
        await self._runner.setup()
        self._server = cast(web.Server, self._runner.server)
        self._make_request = self._server.request_factory
        self._server.request_factory = self._request
        for listener in listeners:
            accept_loop = AcceptLoop(self.connection, listener)
            self._accept_loops.append(accept_loop)
            accept_loop.start()

    async def stop(self) -> None:
        """Stop accepting, hear out those who have just come, then close."""
        accept_loops, self._accept_loops = self._accept_loops, []
        for accept_loop in accept_loops:
            await accept_loop.stop()
        if accept_loops:
            await self._hear_out(self._shutdown_seconds)
        await self._runner.cleanup()

    def connection(self) -> _Connection:
        """Make the protocol of a new connection."""
        return _Connection(self, self._server)

    def let_in(self, peer: bytes | None) -> bool:
        """Count one more connection, unless there are too many: of all, or of this peer."""
        others = 0 if peer is None else self.connections_of[peer]
        if peer is not None and others >= max(1, self.max_connections // _PEER_SHARE):
            return False
        if self.open_connections >= self.max_connections and not self._make_room(others):
            return False
        if peer is not None:
            self.connections_of[peer] += 1
        self.open_connections += 1
        return True

    def _make_room(self, others: int) -> bool:
        """Close the older half of the idle connections of the peer that has most of them, if it
        would still have as many as the newcomer, who has `others` already. So a few that say
        nothing keep nobody out.
        """
        connections = cast(list[_Connection], self._server.connections)
        idle = [connection for connection in connections if connection.is_idle]
        for peer, count in Counter(connection.peer for connection in idle).most_common(1):
            theirs = sorted((one for one in idle if one.peer == peer), key=lambda one: one.heard_at)
            going = theirs[: (count - others) // 2]
            for connection in going:
                connection.give_way()
            return bool(going)
        return False

    def let_go(self, peer: bytes | None) -> None:
        """Count one connection less."""
        self.open_connections -= 1
        if peer is not None:
            self.connections_of -= Counter((peer,))  # forgets who has none

    def peer_of(self, transport: asyncio.BaseTransport) -> bytes | None:
        """Return in whose share a connection is; None for a Unix socket and trusted proxies."""
        if isinstance(transport.get_extra_info("sockname"), str | bytes):
            return None
        peername = transport.get_extra_info("peername")
        gone = peername is None  # before we could ask
        return client_key(None) if gone else peer_key(peername[0], self.trusted_proxies)

    def note_unreadable(self, reason: str) -> None:
        """Count and log what is no HTTP."""
        self.metrics.requests.untimed("other", 400)
        _log.info("request.finished", channel="other", status=400, reason=reason)

    async def _hear_out(self, seconds: float) -> None:
        """Wait for requests under way, and for callers who came or spoke within that time: what
        they send may be on its way, and closing would lose it without an answer.
        """
        deadline = self.loop.time() + seconds
        while (left := min(deadline, self._quiet_at(seconds)) - self.loop.time()) > 0:
            self.changed.clear()
            await wait_for_event(self.changed, left)

    def _quiet_at(self, seconds: float) -> float:
        connections = cast(list[_Connection], self._server.connections)
        if any(connection.is_busy for connection in connections):
            return math.inf
        return max((connection.heard_at for connection in connections), default=0.0) + seconds

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: Any,  # a `_Connection`
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """A target that is no path keeps its text, which the application refuses, but not its
        URL, which aiohttp would believe (host and scheme) or stumble over. A version that is not
        spoken takes its place, so that it is refused and answered in HTTP/1.1.
        """
        protocol.is_busy, protocol.body, protocol.closes_at_eof = True, payload, False
        if message.version not in _SPOKEN:
            unspoken = f"HTTP/{message.version.major}.{message.version.minor}"
            message = message._replace(path=unspoken, version=HttpVersion11)
        if message.method == "CONNECT" or not message.path.startswith("/"):
            message = message._replace(url=_ROOT, should_close=True)
        return self._make_request(message, payload, protocol, writer, task)


class _Connection(web.RequestHandler):
    """One connection."""

    __slots__ = (
        *("body", "bounds", "closes_at_eof", "half_closed", "head_timer"),
        *("gave_way", "heard_at", "is_busy", "peer", "refused"),
    )

    def __init__(self, bounds: HttpServer, server: web.Server) -> None:
        super().__init__(
            server, loop=bounds.loop, keepalive_timeout=bounds.keep_alive_seconds, **_LIMITS
        )
        self.bounds = bounds
        self.refused = False
        self.gave_way = False  # closed by us, and counted no more
        self.peer: bytes | None = None  # in whose share it is
        self.head_timer: asyncio.TimerHandle | None = None
        self.heard_at = bounds.loop.time()
        self.is_busy = False  # whether a request is being answered
        self.body: StreamReader | None = None  # of that request
        self.half_closed = False  # the caller sends nothing any more, and may still read
        self.closes_at_eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.peer = self.bounds.peer_of(transport)
        if not self.bounds.let_in(self.peer):
            self.refuse(cast(asyncio.Transport, transport))
            return
        super().connection_made(transport)
        self.await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.stop_head_timer()
        if self.refused:
            self.bounds.refused_connections -= 1
            return
        if not self.gave_way:
            self.bounds.let_go(self.peer)
        super().connection_lost(exc)
        self.bounds.changed.set()

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        self.heard_at = self.bounds.loop.time()
        try:
            super().data_received(data)
        except ValueError:  # what the parser's URL and header handling raises past its own errors
            self.bounds.note_unreadable("unreadable target or header")
            self.force_close()
            return
        if self._messages:
            if self.head_timer is not None:
                self.stop_head_timer()
            if not isinstance(self._messages[-1][0], RawRequestMessage):
                self.end_broken_bodies()
        elif self.head_timer is None and not self.is_busy:
            self.await_head()

    def eof_received(self) -> bool:  # type: ignore[override]  # which asyncio reads
        """Keep the connection of a caller that has sent all it wants to, for the answers that are
        due; `log_access` closes it. One that goes away altogether looks just the same.
        """
        self.half_closed = True
        bodies = [payload for _, payload in self._messages]
        if self.body is not None:
            bodies.append(self.body)
        whole = all(body.is_eof() for body in bodies)
        return bool(bodies) and whole and not self.closes_at_eof

    def log_access(self, *_: Any) -> None:
        """Note that a request has been answered; the line in the log is the application's."""
        self.is_busy, self.body = False, None
        if self.half_closed and not self._messages:
            self.close()
        self.bounds.changed.set()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 would be shown to the caller
    ) -> web.StreamResponse:
        """Answer unreadable HTTP (400), or an error that escaped the application."""
        request_id = new_request_id()
        if status == web.HTTPBadRequest.status_code:
            self.bounds.note_unreadable(type(exc).__name__)
            response = web.Response(status=status)
        else:
            if not isinstance(exc, ConnectionError):
                _log.error("request.failed", request_id=request_id, exc_info=exc)
            response = problem(RuntimeError(), request_id)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        response.headers["Server"] = SERVER
        response.headers["X-Request-ID"] = request_id
        response.force_close()
        return response

    def log_exception(self, *_: Any, **kwargs: Any) -> None:
        """Log an error outside any request; callers that go away are the usual cause."""
        error = kwargs.get("exc_info")
        if isinstance(error, web.RequestPayloadError | ConnectionError):
            _log.debug("connection.failed", reason=type(error).__name__)
        else:
            _log.error("connection.failed", exc_info=error)

    def end_broken_bodies(self) -> None:
        """Fail the bodies that can never be completed, because what follows cannot be parsed."""
        bodies = [payload for _, payload in self._messages]
        if self.body is not None:
            bodies.append(self.body)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("the body is not valid HTTP"))

    @property
    def is_idle(self) -> bool:
        """Whether it is of a peer's share, and waits for its caller: for a head or for a body."""
        if self.peer is None or self.gave_way or self._messages:
            return False
        return not self.is_busy or (self.body is not None and not self.body.is_eof())

    def give_way(self) -> None:
        """Close at once, for another connection."""
        self.gave_way = True
        self.stop_head_timer()
        self.bounds.let_go(self.peer)
        self.force_close()

    def await_head(self) -> None:
        """Give the caller its time to send a head."""
        self.head_timer = self.bounds.loop.call_later(
            self.bounds.head_timeout_seconds, self.give_up_on_head
        )

    def give_up_on_head(self) -> None:
        """Close, unless a request is under way."""
        self.head_timer = None
        if not self.is_busy:
            self.force_close()

    def stop_head_timer(self) -> None:
        """Stop waiting for a head."""
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def refuse(self, transport: asyncio.Transport) -> None:
        """Say why, then close. What the caller sends is read and dropped meanwhile, because closing
        over unread bytes would take the answer away from it.
        """
        bounds = self.bounds
        self.refused = True
        bounds.refused_connections += 1
        bounds.metrics.requests.untimed("other", 503)
        if bounds.refused_connections > _MOST_REFUSALS:
            transport.abort()
            return
        transport.write(_too_many_connections())
        if transport.can_write_eof():
            transport.write_eof()
        bounds.loop.call_later(_REFUSAL_SECONDS, transport.abort)


def gone_at_eof(request: web.Request) -> bool:
    """Take the end of what a caller sends for its hanging up from now on, as one who waits for long
    is to be believed; return whether it has come already.
    """
    connection = request.protocol
    if isinstance(connection, _Connection):
        connection.closes_at_eof = True
        return connection.half_closed
    return False


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
