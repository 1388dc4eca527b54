"""A machine of its own: Debian's systemd in a container that reaches nothing but itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PROJECT: Final = Path(__file__).parents[3]
PATIENCE_SECONDS: Final = 240  # everything here shares its processors with other tests
INSIDE: Final = (
    *("env", "-i", "-C", "/", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"),
    "DEBIAN_FRONTEND=noninteractive",
)
POWER_OFF: Final = signal.SIGRTMIN + 4  # as systemd(1) has it
PAUSE_SECONDS: Final = 0.1


class Machine:
    """Boots from an image that it leaves as it is; what it writes lasts until `close`, through a
    power off and another boot. Its network is its own loopback.
    """

    def __init__(self, image: Path, shared: Path, place: Path) -> None:
        self.name = f"berinia-{uuid.uuid4().hex[:8]}"
        self.shared = shared
        self.place = place / self.name
        self.place.mkdir()
        self.root = self.place / "root"
        subprocess.run(["mount", "-t", "tmpfs", self.name, self.place], check=True)
        layers = [f"lowerdir={image}"]
        for layer in ("upper", "work"):
            (self.place / layer).mkdir()
            layers.append(f"{layer}dir={self.place / layer}")
        self.root.mkdir()
        mount = ("mount", "-t", "overlay", self.name, "-o", ",".join(layers))
        subprocess.run([*mount, self.root], check=True)
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> Self:
        """Start it, and wait until its systemd has started all it has to."""
        with (self.place / "console").open("wb") as console:
            self.process = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot"),
                    *("--private-network", f"--bind-ro={self.shared}:/mnt"),
                    *(f"--machine={self.name}", f"--directory={self.root}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: self.process_1() is not None, self.console)
        wait_until(self._is_up, self.console)
        return self

    def power_off(self) -> None:
        """As its power key would."""
        assert self.process is not None
        leader = self.process_1()
        if leader is not None:
            os.kill(leader, POWER_OFF)
        self.process.wait(PATIENCE_SECONDS)
        self.process = None

    def close(self) -> None:
        """End it, however it is, and leave nothing of it."""
        try:
            if self.process is not None and self.process.poll() is None:
                leader = self.process_1()
                os.kill(self.process.pid if leader is None else leader, signal.SIGKILL)
                self.process.wait(PATIENCE_SECONDS)
        finally:
            for mounted in (self.root, self.place):
                subprocess.run(["umount", mounted], check=True)
            self.place.rmdir()

    def process_1(self) -> int | None:
        """What is its process 1, by the number that it has here."""
        assert self.process is not None
        assert self.process.poll() is None, self.console()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0]) if children else None

    def console(self) -> str:
        return (self.place / "console").read_text(errors="replace")

    def entering(self, *namespaces: str) -> list[str]:
        return ["nsenter", f"--target={self.process_1()}", *namespaces, "--"]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root."""
        done = subprocess.run(
            [*self.entering("-m", "-u", "-i", "-n", "-p"), *INSIDE, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def type(self, lines: str, *, check: bool = True) -> str:
        """Type lines into root's shell, each of which must succeed; returns what they printed."""
        return self.run("sh", "-e", "-c", lines, check=check).stdout

    def path(self, inside: str) -> Path:
        return self.root / inside.removeprefix("/")

    def write(self, inside: str, text: str) -> None:
        self.path(inside).parent.mkdir(parents=True, exist_ok=True)
        self.path(inside).write_text(text)

    def show(self, unit: str, name: str) -> str:
        """Ask systemd for a property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def wait_for(self, unit: str, name: str, *wanted: str) -> str:
        """Wait until a property of a unit has one of these values."""
        wait_until(lambda: self.show(unit, name) in wanted, lambda: self.status(unit))
        return self.show(unit, name)

    def status(self, unit: str) -> str:
        return self.run("systemctl", "status", "--no-pager", "--lines=12", unit, check=False).stdout

    def log(self) -> list[dict[str, Any]]:
        """What the daemon has said to journald."""
        lines = self.journal("--output=cat").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def journal(self, *words: str) -> str:
        """What journald has of the service."""
        return self.run("journalctl", "--unit=berinia-webhook", "--no-pager", *words).stdout

    def wait_for_event(self, event: str, count: int = 1) -> None:
        """Wait until the daemon has said it so often."""
        wait_until(
            lambda: sum(line["event"] == event for line in self.log()) >= count,
            lambda: self.status("berinia-webhook.service"),
        )

    def _is_up(self) -> bool:
        """Whether its systemd answers, and has nothing left to start."""
        done = self.run("systemctl", "is-system-running", check=False)
        return done.stdout.strip() in ("running", "degraded")


class Traffic:
    """Correctly signed SMS that come all the time, from inside a machine; one that gets no answer
    is sent again for so long, as providers do.
    """

    def __init__(self, machine: Machine, retry_seconds: float = 0.0) -> None:
        program = [sys.executable, "-m", "tests.system.machine.sender", str(retry_seconds)]
        self._process = subprocess.Popen(
            [*machine.entering("-n"), *program],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.accepted: set[str] = set()
        self.refused: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def wait_for_more(self, count: int) -> None:
        """Block until that many more were accepted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "there\n"

    def finish(self) -> None:
        """Send no more, and know what became of each."""
        said, _ = self._process.communicate(timeout=2 * PATIENCE_SECONDS)
        found = json.loads(said)
        self.accepted = set(found["accepted"])
        self.refused, self.failed = found["refused"], found["failed"]


def wait_until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Look again and again; past our patience, fail with what explains it."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(explain())
        pause.wait(PAUSE_SECONDS)
