"""From the old unit's script to the daemon on the same port, and back, without losing a message."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..end_to_end.daemon import PATIENCE_SECONDS, Daemon
from ..end_to_end.load import Load, wait_until_delivered
from ..end_to_end.supervisor import held_port, start_behind

pytestmark = pytest.mark.system

SCRIPT = Path(__file__).with_name("run_webhook.py")


@contextmanager
def old_service(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The old unit's command; ended as `systemctl stop` ends it."""
    command = [sys.executable, str(SCRIPT), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


def received_by_the_old(folder: Path) -> set[str]:
    log = folder / "old.log"
    return set(log.read_text().split()) if log.exists() else set()


def test_cut_over_and_way_back(stopped: Daemon) -> None:
    """Messages come all the time, and each ends at the old script or at our agent. Whoever gets no
    answer between the two sends again, as providers do.
    """
    with held_port() as reserved:
        port = stopped.port = reserved.getsockname()[1]
    with Load(stopped, retry_seconds=PATIENCE_SECONDS) as load:
        with old_service(stopped.folder, port):
            load.wait_for_more(50)
        with held_port(port) as held:  # systemctl start berinia-webhook.socket
            start_behind(held, stopped)
            load.wait_for_more(50)
            stopped.wait_for("server.started")
            assert stopped.stop() == 0
        with old_service(stopped.folder, port):
            before = len(received_by_the_old(stopped.folder))
            load.wait_for_more(50)
            assert len(received_by_the_old(stopped.folder)) > before
            load.finish()
    assert (load.refused, load.failed) == ({}, {})
    ours = load.accepted - received_by_the_old(stopped.folder)
    assert len(ours) >= 50
    deliver_the_rest(stopped, ours)


def test_the_way_back_leaves_nothing_behind(stopped: Daemon) -> None:
    """What was accepted while agents failed is delivered beside the old script, off the port."""
    hold = stopped.agents / "hold"
    hold.touch()
    with stopped.config.open("a") as config:
        config.write("\nserver.shutdown_grace_seconds = 0.1\n")
    with held_port() as held:
        start_behind(held, stopped)
        with Load(stopped) as load:
            load.wait_for_more(20)
        stopped.wait_for("server.started")
        assert stopped.stop() == 0
        port = held.getsockname()[1]
    hold.unlink()
    with old_service(stopped.folder, port):
        deliver_the_rest(stopped, load.accepted)
    assert received_by_the_old(stopped.folder) == set()


def deliver_the_rest(daemon: Daemon, messages: set[str]) -> None:
    """`serve --uds`: dispatches what the journal holds, where no provider finds it."""
    daemon.start("--uds", str(daemon.folder / "socket"))
    wait_until_delivered(daemon, messages)
    assert daemon.stop() == 0
