"""Programs that are measured: started on a core of their own, watched through /proc, ended by their
id.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 60.0
WAIT_SECONDS = 120.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def on_core(core: int | None, command: Sequence[str]) -> list[str]:
    """The command, kept to one core; None leaves it all of them."""
    return [*command] if core is None else ["taskset", "--cpu-list", str(core), *command]


class Server:
    """A program that listens on a port of 127.0.0.1.

    Args:
        command: what to run; what it prints goes to `output`.
        port: it is up once this answers HTTP; the kernel accepts earlier.
        core: the only core it and its children may use.
        environment: added to our own.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        core: int | None,
        output: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port
        self._output = output
        with output.open("wb") as out:
            self._process = subprocess.Popen(
                on_core(core, command),
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.pid = self._process.pid
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
            with closing(connection):
                try:
                    connection.request("GET", "/")
                    connection.getresponse()
                except (OSError, http.client.HTTPException):
                    time.sleep(0.01)
                else:
                    return
        self.stop()
        said = self._output.read_text(errors="replace")[-2000:]
        raise SystemExit(f"did not start: {self._process.args!r}\n{said}")

    def cpu_seconds(self) -> float:
        """CPU time so far, of the program, its children and those that ended."""
        return cpu_seconds(self.pid)

    def own_cpu_seconds(self) -> float:
        """CPU time so far, of the program alone."""
        return sum(_threads_seconds(self.pid))

    def resident_mib(self, *, children: bool = False) -> float:
        """Resident memory of the program alone, or with all below it."""
        return sum(map(_resident_mib, with_children(self.pid) if children else [self.pid]))

    def kill(self) -> None:
        """Ends it and its children as a power cut does: `kill -9`."""
        for pid in with_children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ends it as systemd does; kills it if it will not go."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Stops it at the end, whatever happened."""
    try:
        yield server
    finally:
        server.stop()


def wait_until(reached: Callable[[], bool]) -> None:
    """Looks again and again, and gives up in the end."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing came of it in {WAIT_SECONDS:.0f} s")
        time.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    """CPU time so far, of a program, its children and those that ended: of threads that run as the
    scheduler counts it, in nanoseconds; of children that ended in ticks, which is all that is kept.
    """
    return sum(
        sum(_threads_seconds(each)) + _ended_children_seconds(each) for each in with_children(pid)
    )


def _threads_seconds(pid: int) -> Iterator[float]:
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            yield int(file.read_text().split()[0]) / 1e9


def _ended_children_seconds(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / _TICKS_PER_SECOND
    return 0.0


def _resident_mib(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text()
        lines = (line.split() for line in status.splitlines() if line.startswith("VmRSS:"))
        return sum(int(kibibytes) for _, kibibytes, _ in lines) / 1024
    return 0.0


def with_children(pid: int) -> list[int]:
    """A program and all below it."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            for task in Path(f"/proc/{parent}/task").glob("*/children"):
                found += [int(child) for child in task.read_text().split()]
    return found
