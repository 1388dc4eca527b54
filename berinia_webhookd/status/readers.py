"""Who may read what is not for everybody: `server.metrics_allowed_ips`. Whoever cannot be named
may not: fail closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from berinia_webhookd.channels.authority import is_loopback
from berinia_webhookd.config.settings import Network
from berinia_webhookd.model import Caller, IPAddress

_THIS_MACHINE: Final = (ip_address("127.0.0.1"), ip_address("::1"))


def may_read(caller: Caller, networks: Sequence[Network]) -> bool:
    """Whether the caller's address is allowed.

    A trusted proxy that forwards nothing counts as itself only if it asks for a loopback host: it
    would otherwise lend its address to the whole world, and nobody becomes this machine by being
    forwarded. A Unix socket is this machine.
    """
    addresses: tuple[IPAddress, ...] = () if caller.client is None else (caller.client,)
    if caller.forwarded and caller.client in _THIS_MACHINE:
        return False
    if caller.peer_trusted and not caller.forwarded:
        if not is_loopback(caller.host):
            return False
        addresses = addresses or _THIS_MACHINE
    return any(address in network for network in networks for address in addresses)
