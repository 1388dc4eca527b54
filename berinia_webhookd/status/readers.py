"""Who may read what is not for everybody: `server.metrics_allowed_ips`. Without a certain address
nobody may: fail closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from berinia_webhookd.config.settings import Network
from berinia_webhookd.model import Caller


def may_read(caller: Caller, networks: Iterable[Network]) -> bool:
    """Whether the caller's address is allowed. One that comes by way of a trusted proxy's address
    without saying for whom counts as that address only if it asks for a loopback host: a proxy
    that forwards nothing would otherwise lend its address to the whole world.
    """
    client = caller.client
    if client is None:
        return False
    if caller.peer_trusted and not caller.forwarded and not _is_loopback(caller.host):
        return False
    return any(client in network for network in networks)


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this very machine."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.rstrip(".") == "localhost" or name.rstrip(".").endswith(".localhost")
