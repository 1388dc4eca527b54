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

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from aiohttp_remotes.exceptions import UntrustedIP
from aiohttp_remotes.utils import check_ip, parse_trusted_element
from aiohttp_remotes.x_forwarded import XForwardedBase
from multidict import CIMultiDict

from berinia_webhookd.addresses import Network, unmapped
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.model import Caller, IPAddress

_NAMED: Final = frozenset({"forwarded", "via", "x-real-ip"})
_CACHED_ADDRESSES: Final = 4096


class ProxyHeaders(XForwardedBase):
    """A rule of aiohttp-remotes beside its own. Of the base it uses the parser, one address at a
    time, because junk left of the deciding address must not refuse a request; and no `clone`, which
    costs more than the rest of the middlewares together.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self.reconfigure(trusted)

    def reconfigure(self, trusted: Sequence[Network]) -> None:
        """Believe these proxies from the next request on."""
        self._trusted = parse_trusted_element(trusted)
        self._parsed = lru_cache(_CACHED_ADDRESSES)(self._parse)  # text → (address, trusted)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note the caller for whatever comes further in."""
        request[CALLER] = self.caller(request)
        return await handler(request)

    def caller(self, request: web.Request) -> Caller:
        """Never raises: what cannot be read counts as unknown and untrusted."""
        peer, peer_trusted = self._peer(request)
        headers = request.headers
        forwarded_for = headers.getall(hdrs.X_FORWARDED_FOR, None)
        forwarded = forwarded_for is not None or _mentions_a_proxy(headers)
        client, scheme = peer, "http"
        if peer_trusted:
            if forwarded:
                client = self._client(",".join(forwarded_for)) if forwarded_for else None
            proto = headers.getall(hdrs.X_FORWARDED_PROTO, None)
            if proto and proto[-1].rpartition(",")[2].strip().lower() == "https":
                scheme = "https"
        return Caller(
            peer=peer,
            client=client,
            scheme=scheme,
            host=headers.get(hdrs.HOST, ""),
            forwarded=forwarded,
            peer_trusted=peer_trusted,
            http_version=request.version,
        )

    def _peer(self, request: web.Request) -> tuple[IPAddress | None, bool]:
        """The other end of the socket and whether it is trusted. A Unix socket is known by our own
        end: the peer's name is missing as well when a TCP peer was gone before we could ask.
        """
        protocol = request.protocol
        peername = protocol.peername
        if isinstance(peername, tuple):
            return self._parsed(peername[0])
        return None, isinstance(protocol.sockname, str | bytes)

    def _client(self, forwarded_for: str) -> IPAddress | None:
        """The right-most untrusted address; the left-most one where all are trusted."""
        client: IPAddress | None = None
        for text in reversed(forwarded_for.split(",")):
            client, trusted = self._parsed(text.strip())
            if not trusted:
                break
        return client

    def _parse(self, text: str) -> tuple[IPAddress | None, bool]:
        """One address, by the parser and the trust check of aiohttp-remotes."""
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


def _mentions_a_proxy(names: Iterable[str]) -> bool:
    """Whether any header says that the request was forwarded."""
    for name in names:
        lowered = name.lower()
        if lowered in _NAMED or lowered.startswith("x-forwarded-"):
            return True
    return False
