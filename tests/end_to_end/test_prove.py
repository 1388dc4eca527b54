"""`prove`, as an operator calls it: beside a running daemon, and broken off."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import PATIENCE_SECONDS, Daemon


def test_a_running_daemon_is_left_alone(daemon: Daemon) -> None:
    """Nothing of it is touched, and of the other nothing is left on the journal's disk."""
    state = Path(daemon.environment["STATE_DIRECTORY"])
    before = {file.name for file in state.iterdir()}
    proof = json.loads(daemon.run("prove", "--seconds", "1", "--json").stdout)
    assert proof["kills"] >= 1
    assert proof["messages"] > 0
    assert (proof["lost"], proof["doubled"], proof["holds"]) == (0, 0, True)
    assert proof["kept"] == proof["dispatched"] == proof["messages"]
    assert proof["folder"] == str(state)
    assert {file.name for file in state.iterdir()} == before
    assert daemon.sms().status == 200


@pytest.fixture
def prove(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """One that goes on for long; its daemon runs."""
    place = Daemon(tmp_path)
    process = subprocess.Popen(
        place.command("prove", "--seconds", "600"),
        env=place.environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_broken_off_leaves_nothing(
    tmp_path: Path, prove: subprocess.Popen[str], number: signal.Signals
) -> None:
    """Its daemon and its folder are gone; its exit code is not that of something lost."""
    daemon = running_daemon(tmp_path)
    prove.send_signal(number)
    _, said = prove.communicate(timeout=PATIENCE_SECONDS)
    assert prove.returncode == 128 + number
    assert "interrupted" in said
    assert not list(tmp_path.rglob(".prove-*"))
    wait_until_gone(daemon)


def test_a_killed_one_leaves_no_process(tmp_path: Path, prove: subprocess.Popen[str]) -> None:
    """The kernel ends its daemon."""
    daemon = running_daemon(tmp_path)
    prove.kill()
    wait_until_gone(daemon)


def wait_until_gone(pid: int) -> None:
    """Wait until a process has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        with os.fdopen(descriptor):
            ended, _, _ = select.select([descriptor], [], [], PATIENCE_SECONDS)
            assert ended, "it still runs"


def running_daemon(folder: Path) -> int:
    """The process of the daemon that `prove` started."""
    pause = threading.Event()
    for _ in range(round(PATIENCE_SECONDS / 0.05)):
        for file in folder.rglob(".prove-*/serve.json"):
            with contextlib.suppress(ProcessLookupError):  # it may just have been killed
                pid = int(json.loads(file.read_text())["pid"])
                os.kill(pid, 0)
                return pid
        pause.wait(0.05)
    raise AssertionError("no daemon was started")
