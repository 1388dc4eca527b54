"""Middleware: who is calling, by the peer's address, or by what a trusted proxy says of the client
behind it.

Of the forwarded headers only `X-Forwarded-For`, `X-Forwarded-Proto` and `Host` are used, and only
when the peer is one of `server.trusted_proxies` (or a Unix socket). The client is the right-most
address that is not a trusted proxy; whatever stands left of it is ignored. Where a trusted proxy
forwards but names nobody (no `X-Forwarded-For`, or junk at the deciding position) the client is
None, which no list of addresses allows: fail closed. It refuses to look at `X-Forwarded-Host`,
`-Port`, `-Prefix`, `Forwarded` and `X-Real-IP`, except to notice that they are there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from aiohttp import HttpVersion, hdrs, web
from aiohttp.typedefs import Handler
from aiohttp_remotes.exceptions import UntrustedIP
from aiohttp_remotes.utils import check_ip, parse_trusted_element
from aiohttp_remotes.x_forwarded import XForwardedBase
from multidict import CIMultiDict

from berinia_webhookd.accept.request_context import CONTEXT
from berinia_webhookd.addresses import Network, bucket_of, unmapped
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.model import Caller, IPAddress

_PATH: Final = str | bytes  # of a Unix socket
_NAMED: Final = frozenset({"forwarded", "via", "x-real-ip"})
_CACHED_ADDRESSES: Final = 4096
_CACHED_CALLERS: Final = 1024
_LONGEST_CACHED: Final = 300  # characters of headers, so that nobody fills the memory with them


class Client(NamedTuple):
    """The caller as the log shows it, and whose buckets and share of the memory it takes from."""

    shown: str | None
    bucket: bytes


class _Evidence(NamedTuple):
    """The facts of a request that tell where it comes from."""

    peer: str | None
    over_unix_socket: bool  # by our own end
    forwarded_for: str
    forwarded: bool
    proto: str
    host: str
    http_version: HttpVersion
    loopback_locked: bool


_Facts = tuple[str | None, bool, str, bool, str, str, HttpVersion, bool]  # as they are looked up


class ProxyHeaders(XForwardedBase):
    """A rule of aiohttp-remotes beside its own. Of the base it uses the parser, one address at a
    time, because junk left of the deciding address must not refuse a request; and no `clone`, which
    costs more than the rest of the middlewares together.
    """

    def __init__(
        self, trusted: Sequence[Network], loopback_locked: Callable[[], bool] = lambda: False
    ) -> None:
        self._loopback_locked = loopback_locked
        self.reconfigure(trusted)

    def reconfigure(self, trusted: Sequence[Network]) -> None:
        """Believe these proxies from the next request on."""
        self._trusted = parse_trusted_element(trusted)
        self._parsed = lru_cache(_CACHED_ADDRESSES)(self._parse)  # text → (address, trusted)
        # Most requests come from a few callers, and weighing costs more than this module's rest.
        self._weighed = lru_cache(_CACHED_CALLERS)(self._weigh)

    @web.middleware
    def middleware(  # type: ignore[override]  # an awaitable is all that aiohttp asks for
        self, request: web.Request, handler: Handler
    ) -> Awaitable[web.StreamResponse]:
        """Identify the caller for the middlewares and handlers further in."""
        context = request[CONTEXT]
        request[CALLER], (context.said["client"], context.bucket) = self.identify(request)
        return handler(request)  # nothing is left to do after it, so no coroutine of our own

    def identify(self, request: web.Request) -> tuple[Caller, Client]:
        """Return the caller of a request; what cannot be read counts as unknown and untrusted."""
        headers, protocol = request.headers, request.protocol
        peername, host = protocol.peername, headers.get(hdrs.HOST, "")
        forwarded, forwarded_for, proto = False, "", ""
        names = "\n".join(headers).lower()
        if "forwarded" in names or "via" in names or "x-real-ip" in names:
            forwarded = any(
                name in _NAMED or name.startswith("x-forwarded-") for name in names.split("\n")
            )
            forwarded_for = ",".join(headers.getall(hdrs.X_FORWARDED_FOR, ()))
            proto = headers.getall(hdrs.X_FORWARDED_PROTO, ("",))[-1]
        facts = (
            peername[0] if isinstance(peername, tuple) else None,
            isinstance(protocol.sockname, _PATH),
            forwarded_for,
            forwarded,
            proto,
            host,
            request.version,
            self._loopback_locked(),
        )
        long = len(host) + len(proto) + len(forwarded_for) > _LONGEST_CACHED
        return (self._weigh if long else self._weighed)(facts)

    def _weigh(self, facts: _Facts) -> tuple[Caller, Client]:
        evidence = _Evidence(*facts)
        peer: IPAddress | None = None
        # The peer's name is missing as well when a TCP peer was gone before we could ask.
        trusted = evidence.peer is None and evidence.over_unix_socket
        if evidence.peer is not None:
            peer, trusted = self._parsed(evidence.peer)
        client, scheme = peer, "http"
        if trusted:
            if evidence.forwarded:
                client = self._client(evidence.forwarded_for)
            if evidence.proto.rpartition(",")[2].strip().lower() == "https":
                scheme = "https"
        caller = Caller(
            peer=peer,
            client=client,
            scheme=scheme,
            host=evidence.host,
            forwarded=evidence.forwarded,
            peer_trusted=trusted,
            http_version=evidence.http_version,
            loopback_locked=evidence.loopback_locked,
        )
        return caller, Client(None if client is None else str(client), bucket_of(caller))

    def _client(self, forwarded_for: str) -> IPAddress | None:
        """Return the right-most untrusted address; the left-most one where all are trusted."""
        client: IPAddress | None = None
        for text in reversed(forwarded_for.split(",")):
            client, trusted = self._parsed(text.strip())
            if not trusted:
                break
        return client

    def _parse(self, text: str) -> tuple[IPAddress | None, bool]:
        """Parse one address, by the parser and the trust check of aiohttp-remotes."""
        try:
            (address,) = self.get_forwarded_for(CIMultiDict({hdrs.X_FORWARDED_FOR: text}))
        except web.HTTPBadRequest:
            return None, False
        address = unmapped(address)
        try:
            check_ip(self._trusted, address)
        except UntrustedIP:
            return address, False
        return address, True
