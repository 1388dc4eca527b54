"""Reads `host[:port]` as it stands in URLs and `Host` headers. It refuses to normalise: a signature
is over what was written, so letters, brackets and unusual ports stay as they came.
"""

from __future__ import annotations

import re

from berinia_webhookd.addresses import split_port

# Also no user-info, path or query: they would become parts of a URL that is believed.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


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
