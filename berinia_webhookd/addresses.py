"""Rules about IP addresses: networks, loopback, and who counts as this machine. Pure functions,
which resolve no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from berinia_webhookd.errors import AddressRefused, LoopbackLocked
from berinia_webhookd.model import Caller, IPAddress

Network = IPv4Network | IPv6Network

LOOPBACK: Final = (ip_address("127.0.0.1"), ip_address("::1"))
THIS_HOST: Final = tuple(map(ip_network, LOOPBACK))
_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
_CACHED: Final = 256
_WIDE: Final = {4: 8, 6: 16}  # by IP version; shorter prefixes are too wide
_IPV6_NETWORK_BYTES: Final = 8
_NOBODY: Final = b"?"  # callers whose address no proxy gives


def parse_network(text: str) -> Network:
    """Read an address or a network.

    Raises:
        ValueError: it is neither; the message says what would be right.
    """
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        nearest = ip_network(text, strict=False)
    except ValueError:
        hint = "give addresses or networks such as 127.0.0.1, 10.0.0.0/8 or ::1"
        raise ValueError(hint) from None
    raise ValueError(f"has bits set beyond its prefix; did you mean {nearest}?")


def unmapped(address: IPAddress) -> IPAddress:
    """Return the address without its zone id; an IPv4 address mapped into IPv6 as IPv4."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            return IPv6Address(int(address))
    return address


def in_networks(networks: Sequence[Network], address: IPAddress | None) -> bool:
    """Whether an address is in one of the networks; an unknown one (None) is in none."""
    return address is not None and any(address in network for network in networks)


def widest(networks: Sequence[Network]) -> Network | None:
    """Return the first network that is too wide to be anybody's own."""
    return next((one for one in networks if one.prefixlen < _WIDE[one.version]), None)


def address_text(name: Any) -> str:
    """Return the name of a socket as `127.0.0.1:8001`, `[::1]:8001` or `unix:/run/…`."""
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{name.decode() if isinstance(name, bytes) else name}"


def split_port(authority: str) -> tuple[str, str | None]:
    """Host (brackets of an IPv6 literal included) and port; None where there is no colon for it."""
    host, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]") or (":" in host and not host.endswith("]")):
        return authority, None
    return host, port


@lru_cache(_CACHED)
def is_loopback(host: str) -> bool:
    """Whether a host name, an address or a `Host` header (with brackets and port) names the very
    machine that reads it.
    """
    name = split_port(host)[0].lower()
    if name in _LOOPBACK_NAMES:
        return True
    try:
        return unmapped(ip_address(name.removeprefix("[").removesuffix("]"))).is_loopback
    except ValueError:
        return False


def plain_http_allowed(url: str) -> bool:
    """Whether a URL is https, or http to a loopback host: nothing else may go out unencrypted."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def is_this_machine(caller: Caller) -> bool:
    """Whether a request comes from this machine itself, and was forwarded by nobody.

    A proxy shows itself by its headers, by the host name that its caller used, or by HTTP/1.0 with
    a `Host`, which nginx always sends there. One that does none of these cannot be told from a
    program on this machine, so nobody is believed once such a proxy was found.
    """
    if caller.loopback_locked or caller.forwarded or not peer_is_here(caller):
        return False
    if caller.http_version == (1, 0):
        return not caller.host
    return caller.http_version == (1, 1) and is_loopback(caller.host)


def peer_is_here(caller: Caller) -> bool:
    """Whether the other end of the socket is on this machine, be it a proxy or a program."""
    return caller.over_unix_socket or (caller.peer is not None and caller.peer.is_loopback)


def believed_addresses(caller: Caller) -> tuple[IPAddress, ...]:
    """Return the addresses by which a caller may be allowed; none if its address is unknown.

    A forwarded caller never counts as this machine, nor as its proxy if that gives no address. A
    Unix socket counts as this machine, by both loopback addresses.
    """
    if is_this_machine(caller):
        return LOOPBACK if caller.peer is None else (caller.peer,)
    if caller.client is None or caller.client.is_loopback:
        return ()
    if caller.peer_trusted and not caller.forwarded:
        return ()
    return (caller.client,)


def is_allowed(networks: Sequence[Network], caller: Caller) -> bool:
    """Whether a caller is in one of the networks."""
    return any(in_networks(networks, address) for address in believed_addresses(caller))


def client_key(client: IPAddress | None) -> bytes:
    """Return what counts as one client: an IPv4 address, an IPv6 /64, or all unknown ones."""
    return _NOBODY if client is None else unmapped(client).packed[:_IPV6_NETWORK_BYTES]


def peer_key(peer: str, trusted: Sequence[Network]) -> bytes | None:
    """Return which client a connection counts for; None for a trusted proxy."""
    address = unmapped(ip_address(peer))
    return None if in_networks(trusted, address) else client_key(address)


def bucket_of(caller: Caller) -> bytes:
    """Return the rate limit's bucket of a caller. Behind a proxy that sends no headers, all share
    the bucket of unknown clients.
    """
    believed = believed_addresses(caller)
    return client_key(believed[0] if believed else None)


def require_allowed(networks: Sequence[Network], caller: Caller, refusal: str) -> None:
    """Refuse a caller that is in none of the networks.

    Raises:
        LoopbackLocked: it would be, if loopback were believed.
        AddressRefused: it is not; `refusal` is what it is told.
    """
    if is_allowed(networks, caller):
        return
    if caller.loopback_locked and is_allowed(networks, replace(caller, loopback_locked=False)):
        raise LoopbackLocked
    raise AddressRefused(refusal)
