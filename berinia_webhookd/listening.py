"""The sockets the daemon listens on: inherited from systemd, a TCP address, or a Unix path.

It opens and names them and says plainly why one cannot be had; what comes in over them is the
receiving stage's business.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from berinia_webhookd.config.settings import ServerSettings
from berinia_webhookd.errors import CannotStart, CannotStartNow
from berinia_webhookd.supervision import inherited_sockets

logger = structlog.get_logger()

BACKLOG: Final = 1024


def open_sockets(server: ServerSettings, environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets; those of systemd win, with a warning when they differ.

    Raises:
        CannotStartNow: the address is taken.
        CannotStart: the address cannot be had at all.
    """
    inherited = inherited_sockets(environ)
    if inherited:
        _warn_if_different(server, inherited)
        return inherited
    if server.uds is not None:
        return [_unix_socket(server.uds)]
    return [_tcp_socket(server.host, server.port)]


def address_of(listener: socket.socket) -> str:
    """`127.0.0.1:8001`, `[::1]:8001` or `unix:/run/…`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _warn_if_different(server: ServerSettings, inherited: list[socket.socket]) -> None:
    configured = f"{server.host}:{server.port}"
    if server.uds is not None or configured not in map(address_of, inherited):
        logger.warning(
            "server.sockets_differ",
            configured=str(server.uds or configured),
            inherited=[address_of(listener) for listener in inherited],
            hint="make ListenStream= in berinia-webhook.socket and server.host, server.port equal",
        )


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise _cannot_listen(f"{host}:{port}", error) from error


def _cannot_listen(address: str, error: OSError) -> CannotStart | CannotStartNow:
    if error.errno == errno.EADDRINUSE:
        return CannotStartNow(
            f"{address} is taken by another process",
            hint="see who with `ss -ltnp`, or choose another with server.port or --port",
        )
    return CannotStart(
        f"cannot listen on {address}: {error.strerror}",
        hint="set server.host to an address of this machine, and a port this user may use",
    )


def _unix_socket(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        # Whoever may connect counts as a trusted proxy: the group, for nginx, and nobody else.
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(str(path), error) from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that a dead process left; one that answers is taken."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
