"""The daemon's side of the fork server, which has the agents' interpreter ready and forks hosts.
Starting an interpreter takes tens of milliseconds of CPU; if agents crash all the time, that would
delay answers to providers. A fork takes one or two milliseconds, at the priority of agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from berinia_webhookd.outbound.host_output import HostOutput, OutputOwner

PROGRAM: Final = Path(__file__).with_name("agent_host.py")
GONE_SECONDS: Final = 5.0
WITHHELD: Final = frozenset({"TWILIO_TOKEN", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"})
WITHHELD_PREFIXES: Final = ("BERINIA_WEBHOOKD_", "MAILGUN_", "WATCHDOG_", "LISTEN_")


def agents_environment(
    environment: Mapping[str, str], granted: Collection[str] = ()
) -> dict[str, str]:
    """Return the environment that agents inherit: all but the daemon's own variables, unless these
    are granted.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in granted or not (name in WITHHELD or name.startswith(WITHHELD_PREFIXES))
    }


def pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Open a pipe from a host to the daemon; each stack closes its end."""
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    return read, write


class ForkServer:
    """One process of `agent_host.py`: started with the first host, and again when it has ended.
    Hosts outlive it, because each has a guardian.
    """

    def __init__(self, python: Path, granted: Collection[str] = ()) -> None:
        """`granted` are the variables that hosts get although they are withheld by default."""
        self._python = python
        self._granted = granted
        self._process: subprocess.Popen[bytes] | None = None
        self._output: HostOutput | None = None

    def fork(self, fds: Sequence[int]) -> None:
        """Fork a host that gets copies of its ends: of requests, life-line, stdout, stderr.

        Raises:
            OSError: the interpreter cannot be started, or takes no more requests.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            socket.send_fds(self._control, [b"\0"], fds)
        except (BrokenPipeError, ConnectionResetError):  # it is just ending
            self._start()
            # One that cannot start closes the host's ends, and `last_line` has the reason.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(self._control, [b"\0"], fds)

    async def last_line(self) -> str:
        """Return the last line of its own stderr: the reason why an interpreter cannot start."""
        if (output := self._output) is None:
            return ""
        await output.drain()
        return output.last_line

    @property
    def is_working(self) -> bool:
        """Whether it runs or only waits for CPU time, so that a new one would not be faster."""
        if self._process is None:
            return False
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_bytes()
        except OSError:
            return False
        return stat.rpartition(b") ")[2].startswith(b"R")

    def kill(self) -> None:
        """Kill the process at once; the next host gets a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._let_go()

    async def close(self) -> None:
        """Let it end after its last host; kill it after a grace period."""
        process = self._process
        if process is None:
            return
        self._let_go()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, GONE_SECONDS)
        process.kill()
        process.wait()

    def _start(self) -> None:
        self.kill()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            self._control, control = socket.socketpair()
            ours.enter_context(self._control)
            theirs.enter_context(control)
            self._control.setblocking(False)
            stdout, their_stdout = pipe(ours, theirs)
            stderr, their_stderr = pipe(ours, theirs)
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter the operator configured
                [str(self._python), "-u", str(PROGRAM), str(control.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=their_stdout,
                stderr=their_stderr,
                pass_fds=[control.fileno()],
                env=agents_environment(os.environ, self._granted),
                start_new_session=True,
            )
            ours.pop_all()
        self._output = HostOutput(stdout=stdout, stderr=stderr, silent=OutputOwner({}))

    def _let_go(self) -> None:
        self._process = None
        self._control.close()
        if self._output is not None:
            self._output.abandon()
