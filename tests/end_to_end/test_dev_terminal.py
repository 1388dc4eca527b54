"""What `serve --dev` shows while it runs: one line a message; and `--reload`: the agents are loaded
anew when one of their files is saved.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berinia_webhookd.tools.dev_reload import stamps

PATIENCE_SECONDS = 180
PROGRAM = [sys.executable, "-m", "berinia_webhookd"]
COLUMNS = 80
TIME = re.compile(r"\d\d:\d\d:\d\d ")


class Shown:
    """A `serve --dev` in a folder, and what is on its screen."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith("BERINIA_")}
        self.environment = {**kept, "HOME": str(folder), "COLUMNS": str(COLUMNS)}
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [*PROGRAM, "serve", "--dev", "--port", "0", *flags],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    def wait_for(self, *words: str) -> str:
        """The first line in which all these stand."""

        def found() -> list[str]:
            return [line for line in self.lines if all(word in line for word in words)]

        with self._news:
            assert self._news.wait_for(found, PATIENCE_SECONDS), "\n".join(self.lines)
            return found()[0]

    def send(self, *words: str) -> str:
        done = subprocess.run(
            [*PROGRAM, "send", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return done.stdout

    def until_answered(self, reply: str) -> None:
        """Send, until the agent answers so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while reply not in (said := self.send("whatsapp")):
            assert time.monotonic() < deadline, said

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE_SECONDS) == 0
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture
def show(tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Starts one with these flags, and waits until it listens."""
    started: list[Shown] = []

    def start(*flags: str) -> Shown:
        started.append(Shown(tmp_path, *flags))
        started[0].wait_for("listens on")
        return started[0]

    yield start
    for one in started:
        one.close()


def test_one_line_a_message(show: Callable[..., Shown]) -> None:
    """Time, channel, sender, first words, agent, outcome and how long it took, within the width."""
    shown = show()
    shown.wait_for("UTC", "channel", "sender", "message", "agent", "outcome", "took")
    shown.send("sms", "--set", "Body=Rappelez-moi demain matin", "--set", "From=+33639980007")
    line = shown.wait_for("done")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d sms {6}\+33639980007 +Rappelez-moi\S* +ResponseL\S+ +done +\d+ ms", line
    )
    shown.send("email", "--set", "stripped-text=Oui", "--set", "sender=lead@example.com")
    assert TIME.match(shown.wait_for("email", "lead@exam", "Oui", "done"))
    shown.send("sms", "--bad-signature")
    assert TIME.match(shown.wait_for("sms", "refused"))
    screen = shown.lines[shown.lines.index(shown.wait_for("UTC", "channel")) :]
    assert max(map(len, screen)) <= COLUMNS
    assert len([line for line in screen if TIME.match(line)]) == 3
    assert not [line for line in shown.lines if "{" in line]  # none of the log


def test_a_message_that_fails(show: Callable[..., Shown]) -> None:
    """What the agent raised stands below its line, with when it is tried again."""
    shown = show()
    agent = shown.folder / ".dev" / "agents" / "dev_agent.py"
    agent.write_text(
        "class DevAgent:\n    def handle(self, event):\n        raise RuntimeError('no CRM')\n"
    )
    subprocess.run([*PROGRAM, "reload"], cwd=shown.folder, env=shown.environment, check=True)
    shown.send("sms")
    assert "sms" in shown.wait_for("exception")
    shown.wait_for("RuntimeError: no CRM; again in ")


def test_the_logs_with_debug(show: Callable[..., Shown]) -> None:
    """As ever, and no table beside them."""
    shown = show("--debug")
    shown.send("sms")
    shown.wait_for('"event":"attempt.succeeded"')
    assert not [line for line in shown.lines if line.startswith("UTC")]


def test_a_saved_agent_is_loaded_anew(show: Callable[..., Shown]) -> None:
    """A broken one is named with its error, once, whatever number of agents it is the code of; and
    what is mended is loaded.
    """
    shown = show("--reload")
    agent = shown.folder / ".dev" / "agents" / "dev_agent.py"
    text = agent.read_text()
    agent.write_text(text.replace("I read", "I have read"))
    shown.until_answered("I have read")
    agent.write_text(f"{text}\ndef broken(:\n")
    number = len(text.splitlines()) + 2
    shown.wait_for(f"agent.outdated: dev_agent.py:{number}: SyntaxError: invalid syntax")
    shown.until_answered("I have read")  # by the code before
    agent.write_text(text.replace("I read", "I read again"))
    shown.until_answered("I read again")
    assert len([line for line in shown.lines if "SyntaxError" in line]) == 1


def test_reload_is_for_trying_out(tmp_path: Path) -> None:
    """A service is reloaded by a signal."""
    done = subprocess.run(
        [*PROGRAM, "serve", "--reload"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--reload is for --dev" in done.stderr


def test_which_files_are_looked_at(tmp_path: Path) -> None:
    """The agents' own Python files, not what they write, nor their virtual environment."""
    for name in ("agent.py", "deep/er/agent.py", "seen.jsonl", ".git/hook.py", "venv/lib.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "agent.py").touch()
    found = stamps(tmp_path)
    assert set(found) == {str(tmp_path / "agent.py"), str(tmp_path / "deep" / "er" / "agent.py")}
    (tmp_path / "agent.py").write_text("x = 1\n")
    assert stamps(tmp_path) != found


def test_a_name_that_leads_nowhere_is_no_agent(tmp_path: Path) -> None:
    """A link to itself, through a file, to a name that is too long."""
    (tmp_path / "agent.py").touch()
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "through.py").symlink_to("agent.py/other.py")
    (tmp_path / "long.py").symlink_to("x" * 300)
    assert set(stamps(tmp_path)) == {str(tmp_path / "agent.py")}
