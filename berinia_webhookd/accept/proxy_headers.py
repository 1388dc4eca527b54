"""Who is calling: the peer's address, or what a trusted proxy says of the client behind it.

Of the forwarded headers only `X-Forwarded-For`, `X-Forwarded-Proto` and `Host` are used, and only
when the peer is one of `server.trusted_proxies` (or a Unix socket). The client is the right-most
address that is not a trusted proxy; whatever stands left of it is ignored. Where a trusted proxy
forwards but names nobody (no `X-Forwarded-For`, or junk at the deciding position) the client is
None, which no list of addresses allows: fail closed. It refuses to look at `X-Forwarded-Host`,
`-Port`, `-Prefix`, `Forwarded` and `X-Real-IP`, except to notice that they are there. HTTP/1.0 from
a trusted proxy is such a notice as well: nginx speaks it to whom no `proxy_set_header` was written
for, and nobody who calls for himself does.

aiohttp-remotes' middlewares decide otherwise (see its README); its trust rule, `check_ip`, is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from aiohttp import HttpVersion11, web
from aiohttp_remotes.exceptions import UntrustedIP
from aiohttp_remotes.utils import check_ip

from berinia_webhookd.config.settings import Network
from berinia_webhookd.model import Caller, IPAddress

_NAMED = frozenset({"forwarded", "via", "x-real-ip"})
_CACHED_ADDRESSES = 4096


def unmapped(address: IPAddress) -> IPAddress:
    """The address without its zone id; an IPv4 address mapped into IPv6 as IPv4."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            return IPv6Address(int(address))
    return address


def allowed(networks: Sequence[Network], address: IPAddress | None) -> bool:
    """Whether an address is in one of the networks; nobody (None) is in none."""
    if address is None:
        return False
    try:
        check_ip(networks, address)
    except UntrustedIP:
        return False
    return True


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
        forwarded = (
            forwarded_for is not None
            or _mentions_a_proxy(headers)
            or request.version < HttpVersion11
        )
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
        return address, allowed(self._trusted, address)


def _mentions_a_proxy(names: Iterable[str]) -> bool:
    """Whether any header says that the request was forwarded."""
    for name in names:
        lowered = name.lower()
        if lowered in _NAMED or lowered.startswith("x-forwarded-"):
            return True
    return False
