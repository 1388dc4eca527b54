"""What people read on a terminal of 80 columns and 24 lines: no line is wider, and what matters
stands where they look first.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import tempfile
import termios
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import wcwidth

from tests.end_to_end.daemon import PATIENCE_SECONDS, Daemon
from tests.end_to_end.providers import MAILGUN_KEY

COLUMNS, LINES = 80, 24
# A line to copy whole: the terminal itself breaks it, without a line end in the copy.
TO_COPY = re.compile(r"\s*(fix: )?(`[^`]+`|[^\s]+)[.,;]?")
SETTINGS = f"""
channels.email.signing_keys = ["{MAILGUN_KEY}"]
channels.sms.agent = "AgentOfAnUncommonlyLongNameInThisHouse"
channels.whatsapp.late_reply_url = "http://127.0.0.1:3030/send/to/a/place/far/far/away/and/further"
channels.whatsapp.block = ["+33639980010", "+33639980011", "+33639980012", "+33639980013"]
channels.telnyx.preset = "telnyx"
channels.telnyx.secrets = ["pBqLZe2vY0dE8cVbTqUDVvZ9cgQm3+6ytYVx7Yw4W0c="]
channels.telnyx.agent = "MetaAgent"
agents.AgentOfAnUncommonlyLongNameInThisHouse.target = "python:recorder:Recorder"
agents.AgentOfAnUncommonlyLongNameInThisHouse.retry_schedule_seconds = []
agents.MetaAgent.target = "log:"
agents.AdminInterpreterAgent.target = "python:unfinished:Agent"
"""
FAILS = (
    "class Recorder:\n    def run(self, input_data):\n"
    "        raise ConnectionError('the CRM at https://crm.example.com/api/v2/contacts/search?q="
    "a+rather+long+query refused the connection after three attempts in a row')\n"
)
COMMANDS = (
    "--help",
    "events --help",
    "doctor",
    "doctor --problems",
    "check-config",
    "check-config --all",
    "channels list",
    "channels show sms",
    "channels show whatsapp",
    "channels show telnyx",
    "events list",
    "events list --state dead",
    "events stats",
    "events discard --state dead --dry-run",
    "events replay --state dead --dry-run",
    "events erase --sender +33639980001 --dry-run",
    "conversations list",
    "conversations show --sender +33639980001",
    "consents list",
    "consents check +33639980001",
    "logs -n 40",
    "reload",
)


@dataclass(frozen=True)
class Screen:
    """What a command left on the terminal."""

    lines: list[str]
    status: int

    @property
    def first(self) -> str:
        """What fits without scrolling back up from its beginning."""
        return "\n".join(self.lines[:LINES])

    @property
    def last(self) -> str:
        """What stands there when it has ended, above the prompt."""
        return "\n".join(self.lines[-(LINES - 1) :])


def on_a_terminal(daemon: Daemon, *words: str) -> Screen:
    """Run a command with a terminal of its own for all that it writes."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {k: v for k, v in daemon.environment.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        daemon.command(*words),
        env={**environment, "TERM": "xterm"},
        cwd=daemon.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = bytearray()
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # so a terminal says that nobody has it any more
            break
        if not block:
            break
        written += block
    os.close(ours)
    text = click.unstyle(written.decode()).replace("\r\n", "\n")
    return Screen(text.splitlines(), process.wait(PATIENCE_SECONDS))


@pytest.fixture(scope="module")
def installed() -> Iterator[Daemon]:
    """A daemon with long names, and with messages that went well, failed, and wait."""
    with tempfile.TemporaryDirectory() as name, closing(Daemon(Path(name), SETTINGS)) as daemon:
        lines = daemon.config.read_text().splitlines()
        daemon.config.write_text("\n".join(one for one in lines if "public_url" not in one))
        (daemon.agents / "recorder.py").write_text(FAILS)
        (daemon.agents / "unfinished.py").write_text("def unfinished(:\n")
        daemon.start()
        daemon.wait_for("agent.unavailable", agent="AdminInterpreterAgent")
        to = f"http://127.0.0.1:{daemon.port}"
        for command in (
            "send sms --count 3 --set From=+33639980001 --set Body=" + "Bonjour_à_tous_" * 20,
            "send sms --set From=+33639980001 --set Body=STOP",
            "send email --set sender=somebody.with.a.long.name@mail.department.example.com",
            "send whatsapp --set content=Combien",
        ):
            daemon.run(*command.split(), "--to", to)
        daemon.wait_for("entry.dead", count=5)
        yield daemon


@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_wider_than_the_terminal(installed: Daemon, command: str) -> None:
    """Tables are cut or wrapped; what is to be copied whole may stand alone on its line."""
    screen = on_a_terminal(installed, *command.split())
    assert screen.lines
    wide = [line for line in screen.lines if wcwidth.width(line) > COLUMNS]
    assert [line for line in wide if not TO_COPY.fullmatch(line)] == []


def test_the_first_screen_has_what_matters(installed: Daemon) -> None:
    """Cause and fix of what is wrong; who wrote what and why it failed; what is set."""
    where = "unfinished.py:1: SyntaxError"
    problems = on_a_terminal(installed, "doctor", "--problems")
    assert problems.status == 1
    assert where in re.sub(r"\s+", " ", problems.first)
    assert "berinia-webhookd reload" in problems.first
    whole = on_a_terminal(installed, "doctor")
    assert whole.lines[-1].split(",")[0].endswith("wrong")
    assert [line[:5] for line in whole.lines].index("wrong") > [
        index for index, line in enumerate(whole.lines) if line.startswith("ok ")
    ][-1]
    listed = on_a_terminal(installed, "events", "list")
    for word in ("+33639980001", "Bonjour", "recorder.py:3: ConnectionError: the CRM", "dead"):
        assert word in listed.first
    assert installed.process is not None
    checked = on_a_terminal(installed, "check-config")
    assert "channels.sms.agent" in checked.first
    assert (
        f"running: process {installed.process.pid} on 127.0.0.1:{installed.port}" in checked.first
    )
    assert f"http://127.0.0.1:{installed.port}/webhook/whatsapp" in "\n".join(checked.lines)
    assert "rate_limit.per_seconds" not in "\n".join(checked.lines)  # at its default
    assert where in re.sub(r"\s+", " ", checked.last)
    paths = [line.split()[-1] for line in checked.lines if line.strip()]
    assert str(installed.agents) in paths  # to copy: never broken in the middle
    every = on_a_terminal(installed, "check-config", "--all")
    assert "rate_limit.per_seconds" in "\n".join(every.lines)


def test_a_log_line_says_why_before_its_ids(installed: Daemon) -> None:
    """The reason stands where the eye is, in whole words below it where it is long."""
    screen = on_a_terminal(installed, "logs", "--type", "error", "-n", "40")
    text = re.sub(r"\s+", " ", "\n".join(screen.lines))
    assert re.search(r"agent.unavailable agent=AdminInterpreterAgent error=unfinished.py:1:", text)
    reason, id_ = text.index("outcome=exception"), text.index("event_id=")
    assert reason < id_
