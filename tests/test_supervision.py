"""What systemd hears from us, and what we take from it, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from berinia_webhookd.errors import CannotStart
from berinia_webhookd.supervision import (
    SLOWEST_TURN_SECONDS,
    Notifier,
    in_thread_of_its_own,
    inherited_sockets,
    report,
    watch,
    watchdog_interval_seconds,
)
from tests.end_to_end.daemon import Daemon

PATIENCE_SECONDS = 180
_numbers = count(1)


class Supervisor:
    """Stands for systemd: a bound datagram socket, by path or by abstract name."""

    def __init__(self, address: str) -> None:
        self.name = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_SECONDS)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    @property
    def notifier(self) -> Notifier:
        return Notifier({"NOTIFY_SOCKET": self.name})

    def hears(self) -> list[str]:
        """The lines of the next message."""
        return self._socket.recv(4096).decode().split("\n")

    def hears_nothing(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(PATIENCE_SECONDS)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    """In both forms that systemd and containers use."""
    abstract = f"@berinia-webhookd-test-{os.getpid()}-{next(_numbers)}"
    supervisor = Supervisor(abstract if request.param == "abstract" else str(tmp_path / "notify"))
    yield supervisor
    supervisor.close()


@pytest.mark.parametrize(
    ("say", "heard"),
    [
        (Notifier.ready, ["READY=1"]),
        (Notifier.stopping, ["STOPPING=1"]),
        (Notifier.alive, ["WATCHDOG=1"]),
        (lambda notifier: notifier.extend(2.5), ["EXTEND_TIMEOUT_USEC=2500000"]),
        (lambda notifier: notifier.status("3 entries open"), ["STATUS=3 entries open"]),
    ],
)
def test_each_message_as_systemd_reads_it(
    supervisor: Supervisor, say: Callable[[Notifier], None], heard: list[str]
) -> None:
    """One datagram each."""
    say(supervisor.notifier)
    assert supervisor.hears() == heard


def test_a_status_cannot_say_anything_else(supervisor: Supervisor) -> None:
    """A line end in it would begin another message."""
    supervisor.notifier.status("degraded\nREADY=1\n")
    assert supervisor.hears() == ["STATUS=degraded READY=1 "]


def test_a_reload_has_its_instant(supervisor: Supervisor) -> None:
    """Which systemd wants to tell an old answer from the one it waits for."""
    before = time.monotonic_ns() // 1000
    supervisor.notifier.reloading()
    reloading, instant = supervisor.hears()
    assert reloading == "RELOADING=1"
    name, _, microseconds = instant.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1000


def test_without_systemd_nothing_is_said() -> None:
    """Nor complained about."""
    with capture_logs() as logs:
        Notifier({}).ready()
    assert logs == []


@pytest.mark.parametrize("gone", ["/nowhere/notify", "/" + "x" * 200, "@nobody-listens-here"])
def test_a_supervisor_that_is_gone_is_no_reason_to_fail(gone: str) -> None:
    """It is said in the log, and that is all."""
    with capture_logs() as logs:
        Notifier({"NOTIFY_SOCKET": gone}).ready()
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("server.supervisor_unreachable", "warning")
    assert line["error"]


def test_a_supervisor_that_does_not_read_makes_nobody_wait(tmp_path: Path) -> None:
    """Its queue is full: the rest is dropped and said in the log."""
    supervisor = Supervisor(str(tmp_path / "notify"))
    with capture_logs() as logs:
        while not logs:
            supervisor.notifier.alive()
    supervisor.close()
    assert logs[0]["event"] == "server.supervisor_unreachable"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_when_systemd_wants_a_sign_of_life(environ: dict[str, str], seconds: float | None) -> None:
    """In microseconds, and meant for this process."""
    assert watchdog_interval_seconds(environ) == seconds


async def test_a_sign_of_life_is_given_while_every_part_turns(supervisor: Supervisor) -> None:
    """Each time it is asked anew; a part that stands still is not spoken for."""

    class Part:
        """Turns, stands still, and turns again; then nobody asks any more."""

        ages = iter([0, SLOWEST_TURN_SECONDS + 1, SLOWEST_TURN_SECONDS - 1])

        @property
        def last_turn(self) -> float:
            age = next(self.ages, None)
            if age is None:
                task.cancel()
            return asyncio.get_running_loop().time() - (age or 0)

    task = asyncio.create_task(watch(supervisor.notifier, 0.01, lambda: [Part()]))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [supervisor.hears() for _ in range(3)] == [["WATCHDOG=1"]] * 3
    assert supervisor.hears_nothing()


async def test_the_status_is_told_at_once(supervisor: Supervisor) -> None:
    """And then from time to time."""

    async def status() -> str:
        return "0 entries open"

    task = asyncio.create_task(report(supervisor.notifier, status))
    heard = await asyncio.to_thread(supervisor.hears)
    task.cancel()
    assert heard == ["STATUS=0 entries open"]


def test_a_daemon_tells_systemd_what_it_is_about(supervisor: Supervisor, tmp_path: Path) -> None:
    """Ready when it listens, alive while it turns, and when it reloads and stops."""
    daemon = Daemon(tmp_path)
    heard: list[str] = []

    def hear(line: str) -> None:
        heard.clear()
        while line not in heard:
            heard.extend(supervisor.hears())

    try:
        daemon.start(environment={"NOTIFY_SOCKET": supervisor.name, "WATCHDOG_USEC": "2000000"})
        hear("READY=1")
        assert daemon.sms().status == 200
        hear("WATCHDOG=1")
        hear("STATUS=0 entries open")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        hear("RELOADING=1")
        assert heard[-1].startswith("MONOTONIC_USEC=")
        hear("READY=1")
        assert daemon.stop() == 0
        hear("STOPPING=1")
        hear("EXTEND_TIMEOUT_USEC=40000000")
    finally:
        daemon.close()


def test_without_socket_activation_there_are_no_sockets() -> None:
    """Not asked for, or meant for another process: whatever stands at descriptor 3 is not ours."""
    assert inherited_sockets({}) == []
    assert inherited_sockets({"LISTEN_FDS": "1"}) == []
    assert inherited_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) == []
    ours = str(os.getpid())
    assert inherited_sockets({"LISTEN_FDS": "0", "LISTEN_PID": ours}) == []
    assert inherited_sockets({"LISTEN_FDS": "many", "LISTEN_PID": ours}) == []


# A process of its own, for the sockets stand at fixed descriptors; its parent passed them anywhere.
INHERIT = """
import json, os, socket, sys

passed = json.loads(sys.argv[1])
high = [os.dup2(descriptor, 100 + n) for n, descriptor in enumerate(passed)]
os.closerange(3, 100)
for n, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + n)
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.supervision import inherited_sockets

environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(passed) + int(sys.argv[2]))}
try:
    sockets = inherited_sockets(environ)
except CannotStart as error:
    print(json.dumps({"refused": str(error), "hint": error.hint}))
    sys.exit()
print(json.dumps([
    [one.fileno(), str(one.getsockname()), one.getblocking(), os.get_inheritable(one.fileno())]
    for one in sockets
]))
for one in sockets:
    one.settimeout(30)
    with one, one.accept()[0] as caller:
        caller.sendall(b"here")
"""


def inherit(*passed: socket.socket, missing: int = 0) -> subprocess.Popen[str]:
    """A process that inherits these as systemd would hand them over, and answers on each."""
    descriptors = [each.fileno() for each in passed]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", INHERIT, json.dumps(descriptors), str(missing)],
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_sockets_are_taken_over_in_order(tmp_path: Path) -> None:
    """They listen from before we started; what comes in waits for us. No child gets them."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "web"))
        unix.listen()
        with (
            socket.create_connection(tcp.getsockname(), PATIENCE_SECONDS) as early,
            socket.socket(socket.AF_UNIX) as other,
        ):
            other.settimeout(PATIENCE_SECONDS)
            other.connect(unix.getsockname())
            process = inherit(tcp, unix)
            assert (early.recv(9), other.recv(9)) == (b"here", b"here")
            out, problems = process.communicate(timeout=PATIENCE_SECONDS)
        assert problems == ""
        assert json.loads(out) == [
            [3, str(tcp.getsockname()), False, False],
            [4, str(unix.getsockname()), False, False],
        ]


def datagram() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    return bound


def silent() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind(("127.0.0.1", 0))
    return bound


def packets() -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("")  # a name of the kernel's choice
    listening.listen()
    return listening


@pytest.mark.parametrize("make", [datagram, silent, packets])
def test_what_does_not_listen_for_streams_is_refused(make: Callable[[], socket.socket]) -> None:
    """By its number, and with the lines of the unit to change; none stays open half taken."""
    with socket.create_server(("127.0.0.1", 0)) as good, make() as bad:
        out, problems = inherit(good, bad).communicate(timeout=PATIENCE_SECONDS)
    assert problems == ""
    answer = json.loads(out)
    assert answer["refused"] == "inherited file descriptor 4 is no listening stream socket"
    assert "ListenStream=" in answer["hint"]


def test_a_descriptor_that_is_missing_is_refused() -> None:
    """The unit promised more than it handed over."""
    with socket.create_server(("127.0.0.1", 0)) as good:
        out, problems = inherit(good, missing=1).communicate(timeout=PATIENCE_SECONDS)
    assert problems == ""
    assert json.loads(out)["refused"].startswith("inherited file descriptor 4 is no socket: ")


def test_a_refusal_is_final() -> None:
    """Exit 3: starting again will not help."""
    assert CannotStart.exit_code == 3


# A function that hangs, asked for and given up.
HANGING = """
import asyncio, threading
from berinia_webhookd.supervision import in_thread_of_its_own

async def main():
    try:
        async with asyncio.timeout(0.01):
            await in_thread_of_its_own(threading.Event().wait)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""


def test_signals_are_held_before_anything_is_imported() -> None:
    """Until then each ends the process on the spot: nothing that takes its time comes before."""
    look = "import signal, sys; known = {*sys.modules}; import berinia_webhookd.__main__; "
    look += "print(*sorted({*sys.modules} - known))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    package = "berinia_webhookd"
    assert done.stdout.split() == [package, f"{package}.__main__", f"{package}.held_signals"]


def test_a_function_that_hangs_keeps_no_process() -> None:
    """As reading from a disk that is gone does: it is given up, and the process can end."""
    done = subprocess.run(
        [sys.executable, "-c", HANGING],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


async def test_a_thread_of_its_own_tells_what_came_of_it() -> None:
    assert await in_thread_of_its_own(lambda: "done") == "done"
    with pytest.raises(ZeroDivisionError):
        await in_thread_of_its_own(lambda: 1 // 0)
