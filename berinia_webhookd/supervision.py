"""The interface to the supervisor: signals, sd_notify, the watchdog, inherited sockets.

Without systemd, only the signals have an effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from berinia_webhookd import held_signals
from berinia_webhookd.errors import CannotStart

logger = structlog.get_logger()

FIRST_INHERITED_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
MICROSECONDS: Final = 1_000_000
STATUS_SECONDS: Final = 5.0
SLOWEST_TURN_SECONDS: Final = 15.0  # with pauses and timeouts of the journal in it

ResultT = TypeVar("ResultT")


class Signals:
    """The signals of the operator and of systemd, as events."""

    def __init__(self) -> None:
        """Handle the signals that were blocked so far. A SIGHUP waits until the start is over;
        SIGTERM and SIGINT cancel the starting task.
        """
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        held_signals.let_come()

    def started(self) -> None:
        """Only set `stop` from now on."""
        self._starting = None

    def _stop(self) -> None:
        self.stop.set()
        if self._starting is not None:
            self._starting.cancel()


class Notifier:
    """Sends datagrams to `$NOTIFY_SOCKET`; an unreachable supervisor is only logged."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path

    @property
    def is_heard(self) -> bool:
        """Whether there is a supervisor."""
        return bool(self._address)

    def ready(self) -> None:
        """Report that the sockets listen, or that a reload has ended."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that stopping has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        """Send the watchdog's sign of life."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Ask for more time to stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * MICROSECONDS)}")

    def _send(self, message: str) -> None:
        if not self.is_heard:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            try:
                channel.sendto(message.encode(), self._address)
            except OSError as error:
                reason = error.strerror or str(error)
                logger.warning("server.supervisor_unreachable", error=reason)


def watchdog_interval_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's interval; None if it is off for this process."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID")
    if not microseconds.isdecimal() or pid not in {None, str(os.getpid())}:
        return None
    return int(microseconds) / MICROSECONDS


class Turning(Protocol):
    """A part of the process that works in turns."""

    @property
    def last_turn(self) -> float:
        """When it began its last turn, by the event loop's clock."""


def turns(part: Turning, within_seconds: float = 0.0) -> bool:
    """Whether a part began a turn within this time, or within the time that turns take while the
    journal is unreachable, which is no reason to be killed.
    """
    seconds = asyncio.get_running_loop().time() - part.last_turn
    return seconds < max(within_seconds, SLOWEST_TURN_SECONDS)


async def watch(
    notifier: Notifier, interval_seconds: float, parts: Callable[[], Collection[Turning]]
) -> None:
    """Send a sign of life twice an interval, as long as every part turns within it. That this runs
    shows that the event loop is alive.
    """
    while True:
        if all(turns(part, interval_seconds) for part in parts()):
            notifier.alive()
        await asyncio.sleep(interval_seconds / 2)


async def report(notifier: Notifier, status: Callable[[], Awaitable[str]]) -> None:
    """Keep the status line up to date."""
    while True:
        notifier.status(await status())
        await asyncio.sleep(STATUS_SECONDS)


async def in_thread_of_its_own(function: Callable[[], ResultT]) -> ResultT:
    """Run a function that may hang in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ResultT] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        if not done.done():
            result()

    def run() -> None:
        try:
            ended = partial(done.set_result, function())
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            ended = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, ended)

    threading.Thread(target=run, daemon=True).start()
    return await done


def inherited_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Take over the listening sockets that systemd opened; none without socket activation.

    Raises:
        CannotStart: one is not a listening stream socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "0")
    if not count.isdecimal():
        return []
    first = FIRST_INHERITED_DESCRIPTOR
    with contextlib.ExitStack() as opened:
        sockets = [
            opened.enter_context(_inherited(descriptor))
            for descriptor in range(first, first + int(count))
        ]
        opened.pop_all()  # all are valid: they stay open
    return sockets


def _inherited(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        inherited = socket.socket(fileno=descriptor)
    except OSError as error:
        raise CannotStart(
            f"inherited file descriptor {descriptor} is no socket: {error.strerror}",
            hint="let berinia-webhook.socket have ListenStream= lines only",
        ) from error
    if inherited.type != socket.SOCK_STREAM or not inherited.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        inherited.close()
        raise CannotStart(
            f"inherited file descriptor {descriptor} is no listening stream socket",
            hint="let berinia-webhook.socket have ListenStream= lines and Accept=no",
        )
    inherited.setblocking(False)
    return inherited
