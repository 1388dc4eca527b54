"""A full disk under the logs: receiving and delivering go on, and logging comes back by itself."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from ..end_to_end.daemon import Daemon
from ..end_to_end.load import Load, wait_until_delivered
from ..full_disk import small_disk

pytestmark = pytest.mark.system

DISK_BYTES = 256 * 1024
FILE_LIMIT_BYTES = 64 * 1024 * 1024
# Starts the daemon with a limit on the size of any file it writes; at the limit writes fail.
LIMITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT_BYTES}, {FILE_LIMIT_BYTES}))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_full_log_disk_does_not_stop_receiving(tmp_path: Path) -> None:
    """Every request gets its 2xx and every message its agent; lines that come later are whole."""
    logs = tmp_path / "logs"
    with small_disk(logs, DISK_BYTES) as disk:
        daemon = Daemon(tmp_path, f'logs.dir = "{logs}"')
        try:
            daemon.start()
            with Load(daemon) as load:
                load.wait_for_more(20)
                disk.fill()
                load.wait_for_more(100)
                said = daemon.wait_for("logs.lines_lost")["detail"]
                sizes = {path.name: path.stat().st_size for path in logs.glob("*.log")}
                load.wait_for_more(50)
                assert sizes == {path.name: path.stat().st_size for path in logs.glob("*.log")}
                answer = daemon.request("GET", "/health")
                disk.free()
                wait_until_logged(daemon, logs)
            assert (load.refused, load.failed) == ({}, {})
            wait_until_delivered(daemon, load.accepted)
            assert daemon.stop() == 0
            assert str(logs) in said
            assert "No space left on device" in said
            assert answer.status == 503
            assert str(logs) in answer.json()["reasons"]["disk"]
            only_whole_lines({path.stem: path.read_text() for path in logs.glob("*.log")})
        finally:
            daemon.close()


def test_files_that_cannot_grow_do_not_stop_receiving(tmp_path: Path) -> None:
    """The same by a limit on the size of files, which the journal does not come near."""
    full_files_do_not_stop_receiving(tmp_path, tmp_path / "logs")


def full_files_do_not_stop_receiving(tmp_path: Path, logs: Path) -> None:
    logs.mkdir(mode=0o700, exist_ok=True)
    for name in ("webhook", "sms", "agents"):
        with (logs / f"{name}.log").open("wb") as log:
            log.truncate(FILE_LIMIT_BYTES - 1000)
    daemon = Daemon(tmp_path, f'logs.dir = "{logs}"')
    try:
        daemon.start(launcher=[sys.executable, "-c", LIMITED])
        with Load(daemon) as load:
            said = daemon.wait_for("logs.lines_lost")["detail"]
            load.wait_for_more(100)
            assert (logs / "webhook.log").stat().st_size <= FILE_LIMIT_BYTES
            (logs / "webhook.log").rename(logs / "rotated")
            wait_until_logged(daemon, logs)
        assert (load.refused, load.failed) == ({}, {})
        assert "File too large" in said
        wait_until_delivered(daemon, load.accepted)
        assert daemon.stop() == 0
    finally:
        daemon.close()


def wait_until_logged(daemon: Daemon, logs: Path) -> None:
    """Block until a message that is sent now is in the log."""
    log = logs / "webhook.log"
    pause = threading.Event()
    for _ in range(300):
        count = len([line for line in list(daemon.lines) if line.get("event") == "event.accepted"])
        daemon.sms()
        event_id = daemon.wait_for("event.accepted", count=count + 1)["event_id"]
        if log.exists() and event_id in log.read_text():
            return
        pause.wait(0.05)
    raise AssertionError("nothing is logged any more")


def only_whole_lines(texts: dict[str, str]) -> None:
    """Every line is JSON, but for the one in each file that found no room for its end."""
    for name, text in texts.items():
        assert text.endswith("\n"), name
        broken = 0
        for line in text.splitlines():
            try:
                json.loads(line)
            except ValueError:
                broken += 1
        assert broken <= 1, (name, broken)
