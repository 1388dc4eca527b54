"""A plain user beside an installation: what could not be looked at is said, with `sudo`, and never
called missing or wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.absent import needs_root
from tests.end_to_end.daemon import PATIENCE_SECONDS, Daemon

# Everything is imported first: the interpreter may lie where only root may read.
AS_A_STRANGER = """
import os, pkgutil, sys
from importlib import import_module
import berinia_webhookd
for found in pkgutil.walk_packages(berinia_webhookd.__path__, "berinia_webhookd."):
    if not found.name.endswith(("__main__", "agent_host")):
        import_module(found.name)
from berinia_webhookd.cli import main
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
main(sys.argv[1:])
"""
COMMANDS = (
    "doctor",
    "events list",
    "events stats",
    "conversations list",
    "consents list",
    "logs -n 3",
    "reload",
)
CONFIGURED = ("check-config", "channels list", "channels show sms")
WRONG_WORDS = ("no daemon", "there is no", "does not exist", "Traceback", "is not set")


@pytest.fixture(scope="module")
def installed() -> Iterator[Daemon]:
    """A daemon of root's, in folders as the unit in contrib makes them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with closing(Daemon(folder)) as daemon:
            daemon.start()
            (folder / "state").chmod(0o700)
            yield daemon


def as_a_stranger(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", AS_A_STRANGER, "--config", str(daemon.config), *words],
        env={**daemon.environment, "COLUMNS": "300"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@needs_root
@pytest.mark.parametrize("command", [*COMMANDS, *CONFIGURED])
def test_a_configuration_that_is_not_for_this_user(installed: Daemon, command: str) -> None:
    """It says what this user may not read and names `sudo`, and nothing else."""
    installed.config.chmod(0o600)
    done = as_a_stranger(installed, *command.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert f"this user may not read {installed.folder}" in done.stderr
    assert "with sudo" in done.stderr
    assert [word for word in WRONG_WORDS if word in done.stderr] == []


@needs_root
@pytest.mark.parametrize("command", COMMANDS)
def test_an_installation_that_is_not_for_this_user(installed: Daemon, command: str) -> None:
    """Where the daemon is, its journal and its logs are unknown to who may read the settings."""
    installed.config.chmod(0o644)
    done = as_a_stranger(installed, *command.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert f"this user may not read {installed.folder / 'state'}" in done.stderr
    assert "with sudo" in done.stderr
    assert [word for word in WRONG_WORDS if word in done.stderr] == []


@needs_root
def test_doctor_looks_at_what_it_may(installed: Daemon) -> None:
    """Who may know where the daemon is sees its health; the rest is not checked, nor called
    wrong.
    """
    installed.config.chmod(0o644)
    state, file = installed.folder / "state", installed.folder / "serve.json"
    file.write_text((state / "serve.json").read_text())  # it stands beside the configuration
    file.chmod(0o644)
    installed.config.write_text(installed.config.read_text().replace("server.public_url", "#"))
    done = as_a_stranger(installed, "doctor", "--json")
    found = json.loads(done.stdout)["findings"]
    unseen = {one["subject"] for one in found if one["what"].startswith("not checked: this user")}
    assert {"journal", "logs", "loopback", "refused"} <= unseen
    assert [one["what"] for one in found if one["subject"] == "health"] == [
        "the daemon answers, and is healthy"
    ]
    wrong = [one["subject"] for one in found if one["level"] == "wrong"]
    assert {one.partition(".")[0] for one in wrong} <= {"agents", "signatures"}  # not set up here
    for command in ("events list", "logs"):
        done = as_a_stranger(installed, *command.split())
        assert "this user may not read" in done.stderr
        assert "with sudo" in done.stderr
