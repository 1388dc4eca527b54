"""Reads `host[:port]` as it stands in URLs and `Host` headers. It refuses to normalise: a signature
is over what was written, so letters, brackets and unusual ports stay as they came.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address

# Also no user-info, path or query: they would become parts of a URL that is believed.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_CACHED = 256
_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})


def split_port(authority: str) -> tuple[str, str | None]:
    """Host (brackets of an IPv6 literal included) and port; None where there is no colon for it."""
    host, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]") or (":" in host and not host.endswith("]")):
        return authority, None
    return host, port


def port_forms(base_url: str) -> tuple[str, str]:
    """`scheme://host[:port]` without user-info, as written and in its other port form.

    Without a port the other form has the scheme's default port; with any port it has none.
    """
    scheme, separator, authority = base_url.rstrip("/").partition("://")
    authority = authority.rpartition("@")[2]
    host, port = split_port(authority)
    if port is None:
        port = "443" if scheme.lower() == "https" else "80"
        host = f"{host}:{port}"
    return f"{scheme}{separator}{authority}", f"{scheme}{separator}{host}"


def is_plain(authority: str) -> bool:
    """Whether a `Host` header is a host name or address, with or without a port."""
    return _PLAIN.fullmatch(authority) is not None


@lru_cache(_CACHED)
def is_loopback(authority: str) -> bool:
    """Whether a `Host` header names this very machine by a loopback name or address."""
    host = split_port(authority)[0].lower()
    if host in _LOOPBACK_NAMES:
        return True
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
