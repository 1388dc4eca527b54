"""The receiving application: the list of middlewares that a request passes, and the routes.

Paths are compared byte for byte, so that no two spellings share an endpoint, and routes may change
while the daemon runs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from berinia_webhookd.accept.aiohttp_limits import HttpServer
from berinia_webhookd.accept.loopback_guard import LoopbackGuard
from berinia_webhookd.accept.own_requests import OwnRequests
from berinia_webhookd.accept.problems import problems
from berinia_webhookd.accept.proxy_headers import ProxyHeaders
from berinia_webhookd.accept.rate_limit import RateLimit
from berinia_webhookd.accept.receive import Commits, endpoint
from berinia_webhookd.accept.request_context import (
    Endpoint,
    EndpointMatch,
    RequestContexts,
    path_of,
)
from berinia_webhookd.accept.signature_check import SignatureCheck
from berinia_webhookd.addresses import address_text
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.config.settings import RateLimitSettings, ServerSettings
from berinia_webhookd.errors import MalformedDelivery, UnknownPath
from berinia_webhookd.journal.contract import Inbox
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName
from berinia_webhookd.own_requests import InstallationKey


class Receiver:
    """The receiving stage of one process.

    Args:
        channels: the enabled ones that this process receives on.
        pages: by path; what else can be read.
        key: by which requests of this installation are recognised.
        guard: whether loopback addresses are trusted.
        can_answer: whether a caller who waits for this agent may get its reply in time.
        shutdown_seconds: when stopping, requests have at most three times as long to finish.
        innermost: further middlewares, for what is verified.
    """

    def __init__(
        self,
        server: ServerSettings,
        rate_limit: RateLimitSettings,
        *,
        inbox: Inbox,
        metrics: Metrics,
        channels: Iterable[Channel],
        pages: Mapping[str, Endpoint],
        key: InstallationKey,
        guard: LoopbackGuard,
        can_answer: Callable[[AgentName], bool] = lambda _: True,
        runtime: Path,
        shutdown_seconds: float = 1.0,
        innermost: Iterable[Middleware] = (),
    ) -> None:
        self.stopping = asyncio.Event()  # once set, nobody waits for a reply
        self.request_context = RequestContexts(metrics, self.stopping)
        self.guard = guard
        self.proxy_headers = ProxyHeaders(server.trusted_proxies, lambda: guard.locked)
        self.own_requests = OwnRequests(key, guard, runtime)
        self.rate_limit = RateLimit(rate_limit, metrics)
        self.signature_check = SignatureCheck(server, self.rate_limit, metrics, guard)
        self.commits = Commits(server, inbox, metrics, self.stopping, can_answer)
        self.paths = Paths()
        self._pages = pages
        self._route(channels)
        self.application = web.Application(
            middlewares=[
                self.request_context.middleware,
                problems,
                self.proxy_headers.middleware,
                self.own_requests.middleware,
                self.rate_limit.middleware,
                self.signature_check.middleware,
                *innermost,
            ]
        )
        self.application.router.register_resource(self.paths)
        self.http = HttpServer(
            self.application,
            metrics,
            max_connections=server.max_connections,
            trusted_proxies=server.trusted_proxies,
            shutdown_seconds=shutdown_seconds,
        )

    def reconfigure(
        self,
        server: ServerSettings,
        rate_limit: RateLimitSettings,
        *,
        channels: Iterable[Channel],
    ) -> None:
        """Take new settings from the next request on; buckets are kept unless their limits
        changed.
        """
        self.request_context.reconfigure()
        self.proxy_headers.reconfigure(server.trusted_proxies)
        self.rate_limit.reconfigure(rate_limit)
        self.signature_check.reconfigure(server)
        self.commits.reconfigure(server)
        self.http.max_connections = server.max_connections
        self.http.trusted_proxies = server.trusted_proxies
        self._route(channels)

    async def start(self, listeners: Iterable[socket.socket]) -> None:
        """Receive on these sockets."""
        await self.http.start(listeners)

    async def stop(self) -> None:
        """Let requests and late commits finish; call it before the journal closes."""
        await self.http.stop()
        await self.commits.close()

    def _route(self, channels: Iterable[Channel]) -> None:
        shared = dict(self._pages)
        own: dict[str, dict[str, Endpoint]] = {}  # by the listener that a channel has for itself
        for channel in channels:
            found = shared if channel.listen is None else own.setdefault(channel.listen, {})
            found[channel.path] = endpoint(channel, self.commits)
        self.paths.replace(shared, own)


Matches = Mapping[str, EndpointMatch]  # by path


class Paths(web.PlainResource):
    """aiohttp's resource at `/`, which it asks for every path that has none of its own, so for all.
    Paths are compared byte for byte, and all routes replaced at once by a reload.
    """

    def __init__(self) -> None:
        super().__init__("/")
        self._nothing = EndpointMatch(Endpoint(nothing, "other", methods=None), self)
        self._shared: Matches = {}
        self._own: Mapping[str, Matches] = {}

    def replace(
        self, endpoints: Mapping[str, Endpoint], own: Mapping[str, Mapping[str, Endpoint]]
    ) -> None:
        """Route to these endpoints from the next request on; `own` are those of listeners on which
        there is nothing else.
        """
        self._shared = self._matches(endpoints)
        self._own = {address: self._matches(found) for address, found in own.items()}

    def _matches(self, endpoints: Mapping[str, Endpoint]) -> Matches:
        return {path: EndpointMatch(found, self) for path, found in endpoints.items()}

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo, set[str]]:
        """Find the route of a request; there is always one."""
        matches = self._shared
        if self._own:
            matches = self._own.get(address_text(request.protocol.sockname), matches)
        return matches.get(path_of(request), self._nothing), set()


async def nothing(request: web.Request) -> web.StreamResponse:
    """Refuse a path without an endpoint."""
    if not request.raw_path.startswith("/"):
        raise MalformedDelivery("HTTP/1.1 or 1.0 and a path that begins with a slash are spoken.")
    raise UnknownPath("There is nothing here.")
