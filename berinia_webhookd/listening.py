"""The sockets the daemon listens on: inherited from systemd, a TCP address, or a Unix path."""

from __future__ import annotations

import errno
import socket
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import structlog

from berinia_webhookd.addresses import address_text
from berinia_webhookd.config.settings import ServerSettings
from berinia_webhookd.errors import CannotStart, CannotStartNow
from berinia_webhookd.supervision import inherited_sockets

logger = structlog.get_logger()

BACKLOG: Final = 4096  # beyond it, callers have to connect again


def open_sockets(
    server: ServerSettings, environ: Mapping[str, str], own: Collection[str] = ()
) -> list[socket.socket]:
    """Open the listening sockets; those of systemd win, with a warning when they differ.
    Those that channels, or the console, have for their own come last.

    Raises:
        CannotStartNow: the address is taken.
        CannotStart: the address cannot be used.
    """
    inherited = {address_of(listener): listener for listener in inherited_sockets(environ)}
    shared = [listener for address, listener in inherited.items() if address not in own]
    if shared:
        _warn_if_different(server, shared)
    elif server.uds is not None:
        shared = [_unix_socket(server.uds)]
    else:
        shared = [_tcp_socket(server.host, server.port)]
    return [*shared, *(inherited.get(address) or _socket_at(address) for address in own)]


def _socket_at(address: str) -> socket.socket:
    if address.startswith("unix:"):
        return _unix_socket(Path(address.removeprefix("unix:")))
    host, _, port = address.rpartition(":")
    return _tcp_socket(host.removeprefix("[").removesuffix("]"), int(port))


def open_near(address: str) -> socket.socket:
    """Open a listening socket at an address; at another port where its own is taken."""
    try:
        return _socket_at(address)
    except CannotStartNow:
        return _tcp_socket(address.rpartition(":")[0], 0)


def address_of(listener: socket.socket) -> str:
    """Return `127.0.0.1:8001`, `[::1]:8001` or `unix:/run/…`."""
    return address_text(listener.getsockname())


def configured_address(server: ServerSettings) -> str:
    """Return where `serve` listens without systemd, in the same form."""
    return f"unix:{server.uds}" if server.uds else address_text((server.host, server.port))


def _warn_if_different(server: ServerSettings, inherited: list[socket.socket]) -> None:
    configured = configured_address(server)
    if configured not in map(address_of, inherited):
        logger.warning(
            "server.sockets_differ",
            configured=configured,
            inherited=[address_of(listener) for listener in inherited],
            hint="make ListenStream= in berinia-webhook.socket and server.host, server.port equal",
        )


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        wanted = address_text((host, port))
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise CannotStartNow(
                f"{wanted} is taken by another process",
                hint="see who with `ss -ltnp`, or choose another with server.port or --port",
            ) from error
        raise CannotStart(
            f"cannot listen on {wanted}: {_reason(error)}",
            hint="set server.host to an address of this machine, and server.port to a port that"
            " this user may use",
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _unix_socket(path: Path) -> socket.socket:
    _remove_dead(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # Peers count as trusted proxies, so only the owner and the group (nginx) may connect.
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _no_socket_at(path, error) from error
    return listener


def _no_socket_at(path: Path, error: OSError) -> CannotStart:
    return CannotStart(
        f"cannot listen on {path}: {_reason(error)}",
        hint="give --uds a short path in a folder where this user may write",
    )


def _remove_dead(path: Path) -> None:
    """Remove a socket that a dead process left; refuse a path where something else is."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _no_socket_at(path, error) from error
    if not stat.S_ISSOCK(mode):
        raise CannotStart(
            f"cannot listen on {path}: something else is there",
            hint="remove it, or give --uds another path",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # alive, and its backlog is full
        except OSError as error:
            raise _no_socket_at(path, error) from error
    raise CannotStartNow(
        f"{path} is taken by another process",
        hint="see who with `ss -lxp`, or give --uds another path",
    )
