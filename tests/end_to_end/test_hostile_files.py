"""Nothing in a settings file, or in the place of one, ends a running daemon or holds it up."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from .daemon import PATIENCE_SECONDS, Daemon
from .hostile_files import IN_ITS_PLACE, Make, dotenv_files, toml_files

RELOADS = 300


def put(make: Make, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)
    if path.is_file() and not path.is_symlink():
        path.chmod(0o600)


def wait_until_answered(daemon: Daemon, reloads: int) -> None:
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS
    answers = ("config.reloaded", "config.refused")
    while sum(line["event"] in answers for line in list(daemon.lines)) < reloads:
        assert daemon.process is not None
        assert daemon.process.poll() is None, daemon.lines[-5:]
        assert time.monotonic() < deadline, daemon.lines[-5:]
        pause.wait(0.01)


def test_no_file_ends_a_running_daemon(stopped: Daemon) -> None:
    """Each is taken or refused, and the daemon goes on, can be put right, and stops when told."""
    good = stopped.config.read_text()
    chosen = random.Random(16)
    dotenv = stopped.folder / ".env"
    dotenv.write_text("OTHER=1\n")
    dotenv.chmod(0o600)
    stopped.start()
    tomls, dotenvs = toml_files(good, chosen), dotenv_files(chosen)
    for number in range(1, RELOADS, 2):
        put(next(tomls), stopped.config)
        stopped.send_signal(signal.SIGHUP)
        wait_until_answered(stopped, number)
        put(lambda path: path.write_text(good), stopped.config)
        put(next(dotenvs), dotenv)
        stopped.send_signal(signal.SIGHUP)
        wait_until_answered(stopped, number + 1)
        put(lambda path: path.write_text("OTHER=1\n"), dotenv)
        assert stopped.request("GET", "/health").status in {200, 503}
    stopped.reload(count=1 + sum(line["event"] == "config.reloaded" for line in stopped.lines))
    assert stopped.sms().status == 200
    assert stopped.stop() == 0
    texts = [str(line.get("text", "")) for line in stopped.lines]
    assert not any("Traceback" in text for text in texts)


@pytest.mark.parametrize("make", IN_ITS_PLACE)
def test_a_daemon_stops_whatever_stands_in_the_place_of_its_file(
    stopped: Daemon, make: Make
) -> None:
    """A pipe that nobody writes to held it up for ever."""
    stopped.start()
    put(make, stopped.config)
    stopped.send_signal(signal.SIGHUP)
    assert stopped.stop() == 0


def test_a_pipe_as_configuration_is_refused_at_the_start(stopped: Daemon) -> None:
    """As `--config <(…)` is: it could be read once, and a reload would find it empty."""
    content = stopped.config.read_bytes()
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    stopped.config = Path(f"/dev/fd/{read}")
    stopped.launch(pass_fds=[read])
    os.close(read)
    assert stopped.wait_until_ended() == 3
    assert f"/dev/fd/{read}: is no ordinary file" in stopped.lines[-1]["text"]
