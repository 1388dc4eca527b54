"""Who is calling: the peer's address, or what a trusted proxy says of the client behind it.

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
from ipaddress import ip_address

from aiohttp import web

from berinia_webhookd.addresses import Network, in_networks, unmapped
from berinia_webhookd.model import Caller, IPAddress

_NAMED = frozenset({"forwarded", "via", "x-real-ip"})
_CACHED_ADDRESSES = 4096


class ProxyHeaders:
    """Reads the caller off a request, for one set of trusted proxies."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)
        # Text → (address, trusted): parsing one costs more than the rest of this module together.
        self._known = lru_cache(_CACHED_ADDRESSES)(self._look_up)

    def caller(self, request: web.Request) -> Caller:
        """Never raises: what cannot be read counts as unknown and untrusted."""
        peer, peer_trusted = self._peer(request)
        headers = request.headers
        forwarded_for = headers.getall("X-Forwarded-For", None)
        forwarded = forwarded_for is not None or _mentions_a_proxy(headers)
        client, scheme = peer, "http"
        if peer_trusted:
            if forwarded:
                client = self._client(",".join(forwarded_for)) if forwarded_for else None
            proto = headers.getall("X-Forwarded-Proto", None)
            if proto:
                value = proto[-1].rpartition(",")[2].strip().lower()
                scheme = "https" if value == "https" else "http"
        return Caller(
            peer=peer,
            client=client,
            scheme=scheme,
            host=headers.get("Host", ""),
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
            return self._known(peername[0])
        return None, isinstance(protocol.sockname, str | bytes)

    def _client(self, forwarded_for: str) -> IPAddress | None:
        """The right-most untrusted address; the left-most one where all are trusted."""
        client: IPAddress | None = None
        for text in reversed(forwarded_for.split(",")):
            client, trusted = self._known(text.strip())
            if not trusted:
                break
        return client

    def _look_up(self, text: str) -> tuple[IPAddress | None, bool]:
        try:
            address = unmapped(ip_address(text))
        except ValueError:
            return None, False
        return address, in_networks(self._trusted, address)


def _mentions_a_proxy(names: Iterable[str]) -> bool:
    """Whether any header says that the request was forwarded."""
    for name in names:
        lowered = name.lower()
        if lowered in _NAMED or lowered.startswith("x-forwarded-"):
            return True
    return False
