"""`prove`, as an operator calls it: beside a running daemon, and broken off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

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


def test_what_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM ends its daemon, and removes its folder."""
    place = Daemon(tmp_path)
    state = Path(place.environment["STATE_DIRECTORY"])
    prove = subprocess.Popen(
        place.command("prove", "--seconds", "600"),
        env=place.environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = running_daemon(state)
    prove.send_signal(signal.SIGTERM)
    _, said = prove.communicate(timeout=PATIENCE_SECONDS)
    assert prove.returncode == 1
    assert "broken off" in said
    assert not list(state.glob(".prove-*"))
    assert not Path(f"/proc/{pid}").exists()


def running_daemon(state: Path) -> int:
    """The process of the daemon that `prove` started."""
    pause = threading.Event()
    for _ in range(round(PATIENCE_SECONDS / 0.05)):
        for file in state.glob(".prove-*/serve.json"):
            if text := file.read_text():
                pid = int(json.loads(text)["pid"])
                os.kill(pid, 0)
                return pid
        pause.wait(0.05)
    raise AssertionError("no daemon was started")
