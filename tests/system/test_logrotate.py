"""Rotation by the real logrotate with our file, under load: no line is lost, no signal needed."""

from __future__ import annotations

import grp
import gzip
import json
import os
import pwd
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..end_to_end.daemon import Daemon
from ..end_to_end.load import Load

pytestmark = pytest.mark.system

CONTRIB = Path(__file__).parents[2] / "contrib" / "logrotate" / "berinia-webhookd"
FOLDER = "/var/log/berinia-webhookd"
USER = "berinia-webhook"
BY_RENAME = "nocreate"


class Rotation:
    """Our file with the folder and the user of this test in it, and the real program."""

    def __init__(self, daemon: Daemon, mode: str) -> None:
        self.logs = daemon.folder / "state" / "unified_logs"
        self._state = daemon.folder / "logrotate.state"
        self._file = daemon.folder / "logrotate.conf"
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
        text = CONTRIB.read_text()
        assert f"    {BY_RENAME}\n" in text
        text = text.replace(f"su {USER} {USER}", f"su {user} {group}")
        text = text.replace(FOLDER, str(self.logs)).replace(BY_RENAME, mode)
        self._file.write_text(text)
        self._file.chmod(0o600)

    def run(self) -> None:
        """Rotate now; logrotate itself must find nothing to complain of."""
        command = ["logrotate", "--force", "--state", str(self._state), str(self._file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def lines(self, name: str) -> list[str]:
        """Every line of one log, from the oldest to the newest of its files."""
        rotated = sorted(self.logs.glob(f"{name}.log.*"), key=_age, reverse=True)
        content = b"".join(map(_content, [*rotated, self.logs / f"{name}.log"]))
        return content.decode().splitlines()

    def names(self) -> set[str]:
        return {path.name for path in self.logs.iterdir()}


def _age(path: Path) -> int:
    return int(path.name.removesuffix(".gz").rpartition(".")[2])


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def accepted(lines: list[str]) -> list[str]:
    """The events accepted, by log lines, every one of which must be whole."""
    return [found["event_id"] for found in map(json.loads, lines) if found["event"] == ACCEPTED]


ACCEPTED = "event.accepted"
ALL_OF_A_MESSAGE = (ACCEPTED, "request.finished", "attempt.started", "attempt.succeeded")


def test_rotation_by_rename_loses_no_line(daemon: Daemon) -> None:
    """Our file as it is: the daemon opens new files by itself, nobody else can read them."""
    rotation = Rotation(daemon, BY_RENAME)
    with Load(daemon) as load:
        for _ in range(4):
            load.wait_for_more(30)
            rotation.run()
        load.wait_for_more(30)
    assert (load.refused, load.failed) == ({}, {})
    daemon.wait_for("attempt.succeeded", count=len(load.accepted))
    assert daemon.stop() == 0
    for name in ("webhook", "sms"):
        ids = accepted(rotation.lines(name))
        assert len(set(ids)) == len(ids) == len(load.accepted)
    assert {"webhook.log", "webhook.log.1", "webhook.log.4.gz", "agents.log.1"} <= rotation.names()
    assert {path.stat().st_mode & 0o777 for path in rotation.logs.iterdir()} == {0o600}


def test_copying_and_truncating_works_too(daemon: Daemon) -> None:
    """The daemon goes on at the beginning of the emptied file: whole lines, and no hole.

    What comes between logrotate's copy and its truncation is lost: that is why we rename.
    """
    rotation = Rotation(daemon, "copytruncate")
    log = rotation.logs / "webhook.log"
    for _ in range(3):
        with Load(daemon) as load:
            load.wait_for_more(30)
        written = wait_until_written(log, len(load.accepted))
        rotation.run()
        assert accepted(log.with_name("webhook.log.1").read_text().splitlines()) == written
    with Load(daemon) as load:
        load.wait_for_more(30)
        rotation.run()
        load.wait_for_more(30)
    assert daemon.stop() == 0
    now = log.read_bytes()
    assert b"\0" not in now
    assert accepted(now.decode().splitlines())


def wait_until_written(log: Path, count: int) -> list[str]:
    """The events accepted since the log was emptied, once all is written that so many messages
    bring: else logrotate copies half a line of what is just being written.
    """
    pause = threading.Event()
    for _ in range(3000):
        text = log.read_text()
        written = [text.count(f'"event":"{event}"') for event in ALL_OF_A_MESSAGE]
        if text.endswith("\n") and written == [count] * len(ALL_OF_A_MESSAGE):
            return accepted(text.splitlines())
        pause.wait(0.01)
    raise AssertionError(f"{written} of {count} lines are written")


@contextmanager
def following(daemon: Daemon) -> Iterator[list[str]]:
    """`berinia-webhookd logs -f`, and what it has printed so far."""
    command = [sys.executable, "-u", *daemon.command("logs", "-f", "-n", "0")[1:]]
    process = subprocess.Popen(
        command, env=daemon.environment, cwd=daemon.folder, stdout=subprocess.PIPE, text=True
    )
    printed: list[str] = []
    output = process.stdout
    assert output is not None
    reader = threading.Thread(target=lambda: printed.extend(output))
    reader.start()
    try:
        yield printed
    finally:
        process.terminate()
        process.wait(90)
        reader.join(30)
        output.close()


@pytest.mark.parametrize("mode", [BY_RENAME, "copytruncate"])
def test_logs_follows_over_rotation(daemon: Daemon, mode: str) -> None:
    """`logs -f` shows what comes before, between and after rotations, each line once."""
    rotation = Rotation(daemon, mode)
    with following(daemon) as printed:
        wait_until_followed(daemon, printed)
        for _ in range(3):
            wait_until_followed(daemon, printed)
            rotation.run()
        wait_until_followed(daemon, printed)
    ids = accepted(printed)
    assert len(set(ids)) == len(ids)


def wait_until_followed(daemon: Daemon, printed: list[str]) -> None:
    """Send a message at a time until one is printed, then whatever of it is still to come."""
    pause = threading.Event()
    for _ in range(100):
        daemon.sms()
        said = len(
            [line for line in list(daemon.lines) if line.get("event") == "attempt.succeeded"]
        )
        succeeded = daemon.wait_for("attempt.succeeded", count=said + 1)["event_id"]
        for _ in range(10):
            if any(succeeded in line and "attempt.succeeded" in line for line in printed):
                return
            pause.wait(0.05)
    raise AssertionError(f"not followed; printed: {printed[-5:]}")


def test_every_log_that_we_write_is_rotated(daemon: Daemon) -> None:
    """Our file names each log that the daemon writes."""
    daemon.sms()
    daemon.wait_for("attempt.succeeded")
    daemon.stop()
    named = set(re.findall(rf"^{FOLDER}/(\S+)$", CONTRIB.read_text(), re.MULTILINE))
    assert {path.name for path in (daemon.folder / "state" / "unified_logs").iterdir()} <= named
