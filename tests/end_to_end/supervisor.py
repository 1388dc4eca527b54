"""What systemd is to the daemon: it holds the listening socket, hands it over, and listens to what
the daemon notifies. A real socket each; only the manager behind them is ours.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .daemon import PATIENCE_SECONDS, Daemon

BACKLOG: Final = 1024
# What systemd does between fork and exec: the sockets become descriptors 3 and up, and are said to.
HAND_OVER: Final = """
import fcntl, os, sys
held = [fcntl.fcntl(int(one), fcntl.F_DUPFD_CLOEXEC, 100) for one in sys.argv[1].split(",")]
for place, one in enumerate(held, 3):
    os.dup2(one, place)
pid = str(os.getpid())
os.environ.update(LISTEN_FDS=str(len(held)), LISTEN_PID=pid, WATCHDOG_PID=pid)
os.execv(sys.argv[2], sys.argv[2:])
"""


def held_port(port: int = 0) -> socket.socket:
    """A listening socket as a socket unit makes it."""
    return socket.create_server(("127.0.0.1", port), backlog=BACKLOG)


def start_behind(
    held: socket.socket,
    daemon: Daemon,
    *others: socket.socket,
    flags: Sequence[str] = (),
) -> None:
    """Start the daemon with the sockets; it answers once it listens, callers wait until then."""
    numbers = [one.fileno() for one in (held, *others)]
    if held.family == socket.AF_INET:
        daemon.port = held.getsockname()[1]
    daemon.launch(
        *(flags or ("--port", str(daemon.port))),
        launcher=[sys.executable, "-c", HAND_OVER, ",".join(map(str, numbers))],
        pass_fds=numbers,
    )


class NotifySocket:
    """`$NOTIFY_SOCKET`, and everything that came in on it, with its time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.messages: list[tuple[float, dict[str, str]]] = []
        self._news = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last,
        ):
            last.sendto(b"", str(self.path))
        self._thread.join(PATIENCE_SECONDS)
        self._socket.close()

    def environment(self, watchdog_seconds: float | None = None) -> dict[str, str]:
        """What systemd sets, given `WatchdogSec=`."""
        found = {"NOTIFY_SOCKET": str(self.path)}
        if watchdog_seconds is not None:
            found["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1_000_000))
        return found

    def wait_for(
        self,
        name: str,
        value: str | Callable[[str], bool] | None = None,
        *,
        since: float = 0.0,
        count: int = 1,
        timeout_seconds: float = PATIENCE_SECONDS,
    ) -> dict[str, str]:
        """The `count`-th message with this variable (and value) that came after an instant."""

        def fits(said: dict[str, str]) -> bool:
            given = said.get(name)
            return given is not None and (
                value(given) if callable(value) else value in {None, given}
            )

        deadline = time.monotonic() + timeout_seconds
        with self._news:
            while len(found := [m for at, m in self.messages if at > since and fits(m)]) < count:
                if not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no {count}× {name} {value} in: {self.messages}")
        return found[count - 1]

    def wait_until_silent(self, name: str, seconds: float) -> None:
        """Wait until this variable has not come for so long; what was on its way may still come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._news:
            while time.monotonic() < deadline:
                last = max(at for at, said in self.messages if name in said)
                if (left := last + seconds - time.monotonic()) <= 0:
                    return
                self._news.wait(left)
        raise AssertionError(f"{name} still comes: {self.messages}")

    def names(self) -> list[str]:
        """What was said, in order, without the status lines and signs of life."""
        often = {"STATUS", "WATCHDOG", "MONOTONIC_USEC", "EXTEND_TIMEOUT_USEC"}
        return [name for _, said in self.messages for name in said if name not in often]

    def _receive(self) -> None:
        while message := self._socket.recv(65_536):
            said = dict(line.split("=", 1) for line in message.decode().splitlines())
            with self._news:
                self.messages.append((time.monotonic(), said))
                self._news.notify_all()
