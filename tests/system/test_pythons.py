"""The wheel under each Python that it is for and this machine has: Debian's, and those of pyenv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ..end_to_end.daemon import Daemon
from ..release.building import PROGRAMS, PROJECT

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

PACKAGE = "berinia-webhookd"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")


def interpreters() -> Iterator[Path]:
    """One of each version that is there."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        beside = shutil.which(f"python{version}", path="/usr/bin:/usr/local/bin")
        own = sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
        yield from [Path(beside)] if beside else own[-1:]


FOUND = list(interpreters())


class Installed(Daemon):
    """The daemon of an environment."""

    def __init__(self, folder: Path, python: Path) -> None:
        super().__init__(folder)
        self.python = python

    def command(self, *words: str) -> list[str]:
        module = [str(self.python), "-m", "berinia_webhookd"]
        return [*module, "--config", str(self.config), *words]


@pytest.mark.parametrize("interpreter", FOUND, ids=lambda one: one.name)
def test_a_message_reaches_its_agent(interpreter: Path, tmp_path: Path) -> None:
    """With the packages that are pinned; the agent runs under the same Python."""
    sources, wheels, venv = (tmp_path / name for name in ("sources", "wheels", "venv"))
    shutil.copytree(PROJECT, sources, ignore=shutil.ignore_patterns(".*", "build", "tests"))
    uv = PROGRAMS / "uv"
    pins = PROJECT / "contrib/requirements.txt"
    for words in (
        ("build", "--wheel", "--python", sys.executable, "--out-dir", wheels, sources),
        ("venv", "--no-python-downloads", "--python", interpreter, venv),
        ("pip", "install", "--python", venv, "--require-hashes", "--requirement", pins),
        ("pip", "install", "--python", venv, "--no-index", "--find-links", wheels, PACKAGE),
    ):
        subprocess.run([uv, "--quiet", *words], check=True)
    with closing(Installed(tmp_path / "daemon", venv / "bin/python")) as daemon:
        daemon.start()
        assert daemon.sms().status == 200
        daemon.wait_for("attempt.succeeded")
        (seen,) = daemon.wait_until_seen(1)
        assert seen["action"] == "process_sms_response"
        assert "done" in daemon.run("events", "list").stdout
        assert daemon.stop() == 0


def test_debians_own_is_among_them() -> None:
    """So that the test above is about something."""
    assert FOUND
