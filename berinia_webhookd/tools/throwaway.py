"""A throw-away daemon: `serve` as a child process, with a folder, secrets, journal and logs of its
own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import DEVNULL
from typing import Final, Self

from berinia_webhookd.channels import catalogue
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.config.load import load
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.outbound.fork_server import agents_environment
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.posting import Target

READY: Final = b"READY=1"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 60.0
# The program, killed by the kernel when this process has ended for whatever reason.
_PROGRAM: Final = """\
import runpy, signal
from berinia_webhookd.outbound.agent_host import PR_SET_PDEATHSIG, control_process
control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
runpy.run_module("berinia_webhookd", run_name="__main__", alter_sys=True)
"""
_CONFIG: Final = """\
[journal]
url = "sqlite:///{folder}/journal.db"
[logs]
dir = "{folder}/logs"
level = "error"
[rate_limit]
verified_requests = 1000000000
[agents.ResponseListenerAgent]
target = "log:"
loop_guard = false  # the same people write the same text again and again
[channels.email]
signing_keys = ["{key}"]
[channels.sms]
enabled = false
[channels.whatsapp]
enabled = false
"""


class ThrowawayDaemon:
    """A daemon that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        """Write its configuration into an empty folder."""
        self.journal = folder / "journal.db"
        self._folder = folder
        self._config = folder / "berinia-webhookd.toml"
        self._config.touch(mode=0o600)
        self._config.write_text(_CONFIG.format(folder=folder, key=secrets.token_hex(16)))
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._supervisor.setblocking(False)
        self._supervisor.bind("")  # the kernel gives it a name
        self._said = folder / "stderr.txt"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        self._supervisor.close()

    def channel(self) -> Channel:
        """Return its only channel."""
        kinds = catalogue.KINDS
        loaded = load(
            kinds=kinds, environ={}, working_folder=self._folder, config_file=self._config
        )
        (channel,) = catalogue.build(loaded.settings.channels, ()).values()
        return channel

    async def start(self) -> Target:
        """Start it, and return where it listens.

        Raises:
            WebhookdError: it ended, or did not report in time.
        """
        with self._said.open("wb") as said:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _PROGRAM, "--config", str(self._config)),
                *("serve", "--port", "0"),
                cwd=self._folder,
                env=self._environment(),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=said,
            )
        ready = asyncio.ensure_future(self._ready())
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait(
                (ready, ended), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            running = installation.read(self._environment()) if ready.done() else None
            if ended.done() or running is None:
                raise WebhookdError(f"the daemon did not start: {self._last_line()}")
            return Target.from_text(running.address)
        finally:
            ready.cancel()
            ended.cancel()

    async def _ready(self) -> None:
        while await asyncio.get_running_loop().sock_recv(self._supervisor, 4096) != READY:
            pass

    def _last_line(self) -> str:
        lines = self._said.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it said nothing within {START_SECONDS:.0f} s"

    def _environment(self) -> Mapping[str, str]:
        """Return our environment without what would change its configuration."""
        theirs = {
            name: value
            for name, value in agents_environment(os.environ).items()
            if name != "DEBUG" and not name.endswith("_DIRECTORY")
        }
        folders = dict.fromkeys(("STATE_DIRECTORY", "RUNTIME_DIRECTORY"), str(self._folder))
        name = self._supervisor.getsockname()
        return {**theirs, **folders, "NOTIFY_SOCKET": "@" + os.fsdecode(name)[1:]}

    async def kill(self) -> None:
        """Send SIGKILL, if it runs, and wait until it has ended."""
        await self._end(kill=True)

    async def stop(self) -> None:
        """Send SIGTERM, and wait until it has ended."""
        await self._end(kill=False)

    async def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        if kill:
            process.kill()
            await process.wait()
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
