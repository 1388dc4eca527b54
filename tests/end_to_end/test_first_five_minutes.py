"""What a newcomer does: start `serve --dev`, paste the lines it prints, look at what happened."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_SECONDS = 180
README = Path(__file__).parents[2] / "README.md"
PROGRAM = [sys.executable, "-m", "berinia_webhookd"]


@pytest.fixture
def printed(tmp_path: Path) -> Iterator[list[str]]:
    """The lines to paste, printed by a daemon that listens."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BERINIA_")}
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--dev", "--port", "0"],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("UTC"):  # the head of the table
            break
    try:
        yield [line.strip() for line in lines if line.startswith("    ")]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0, process.stderr.read()
        process.stderr.close()


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command there, as somebody whose home it is gives it."""
    return subprocess.run(
        [*PROGRAM, *words],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def paste(line: str, folder: Path) -> str:
    """Run one of the lines in that folder; what it prints."""
    words = shlex.split(line, comments=True)
    done = run(folder, *words[1:])
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_printed_lines_work_when_pasted(printed: list[str], tmp_path: Path) -> None:
    """A signed message of each channel is accepted, reaches the agent, and can be looked at."""
    sms, email, whatsapp, listing, show, logs, link = printed
    assert link.startswith("http://berinia-")
    assert '<?xml version="1.0" encoding="UTF-8"?><Response/>' in paste(sms, tmp_path)
    assert '{"status":"accepted"' in paste(email, tmp_path)
    assert "I read 'Combien de leads ?' (your message no. 1)" in paste(whatsapp, tmp_path)
    listed = paste(listing, tmp_path)
    rows = [line.split() for line in listed.splitlines()[1:]]
    assert [row[3] for row in rows] == ["whatsapp", "email", "sms"]
    shown = paste(show.replace("ID", rows[0][0], 1), tmp_path)
    assert "attempt 1: success" in shown
    assert "Combien de leads ?" in shown
    assert "event.accepted" in paste(logs, tmp_path)


def test_other_commands_find_it_by_its_configuration(printed: list[str], tmp_path: Path) -> None:
    """Whatever port it has: `send` needs no address then, and `doctor` sees that it runs."""
    command = printed[0].partition(" send ")[0]
    assert "<Response/>" in paste(f"{command} send sms", tmp_path)
    doctor = run(tmp_path, *shlex.split(f"{command} doctor --json")[1:])
    assert '"subject": "service"' in doctor.stdout, doctor.stderr
    assert "no daemon runs" not in doctor.stdout
    assert "sending key" not in doctor.stdout  # of the throw-away key that it made itself


def test_an_edited_agent_is_loaded_anew_as_the_readme_says(
    printed: list[str], tmp_path: Path
) -> None:
    """By the command that stands there, which finds the daemon by its file."""
    assert printed
    (command,) = re.findall(r"^\.venv/bin/(berinia-webhookd reload)$", README.read_text(), re.M)
    assert paste(command, tmp_path) == "reloaded; changed: nothing\n"


@pytest.mark.parametrize("loose", [".dev", ".dev/berinia-webhookd.toml", ".dev/agents"])
def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path, loose: str) -> None:
    """Its agents would run as whoever types `serve --dev` there."""
    (tmp_path / ".dev" / "agents").mkdir(mode=0o700, parents=True)
    (tmp_path / ".dev" / "berinia-webhookd.toml").touch(mode=0o600)
    (tmp_path / loose).chmod(0o777)
    done = run(tmp_path, "serve", "--dev", "--port", "0")
    assert done.returncode == 3
    assert f"{tmp_path}/{loose} can be written by others" in done.stderr


def test_without_the_option_it_is_said_that_its_folder_is_not_used(tmp_path: Path) -> None:
    """Whoever leaves out `--dev` would wonder where the secrets are; `doctor` says how to start."""
    (tmp_path / ".dev").mkdir(mode=0o700)
    (tmp_path / ".dev" / "berinia-webhookd.toml").touch(mode=0o600)
    environment = {**os.environ, "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if "server.started" in line:
            break
    process.terminate()
    process.communicate(timeout=PATIENCE_SECONDS)
    assert any(".dev/ in this folder is for `serve --dev` alone" in line for line in said)
    done = run(tmp_path, "doctor", "--json")
    assert f"cd {tmp_path}; berinia-webhookd serve --dev" in done.stdout


def test_what_was_killed_is_still_known_by_its_port_and_state(tmp_path: Path) -> None:
    """`doctor` names the port that was served, and the line that serves it again; `check-config`
    looks at the folders that `serve --dev` writes.
    """
    environment = {**os.environ, "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--dev", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    port = ""
    for line in process.stderr:
        if "listens on http://" in line:
            port = line.partition("127.0.0.1:")[2].partition(" ")[0]
        if line.startswith("UTC"):
            break
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)

    def said_by(command: str) -> dict[str, Any]:
        done = run(tmp_path, command, "--json")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    doctor = said_by("doctor")
    assert doctor["address"] == f"127.0.0.1:{port}"
    (down,) = [one for one in doctor["findings"] if one["subject"] == "service"]
    assert f"cd {tmp_path}; berinia-webhookd serve --dev --port {port}" in down["fix"]
    checked = json.dumps(said_by("check-config"))
    assert f"127.0.0.1:{port}/webhook/whatsapp" in checked
    assert ".local/state" not in checked


def test_only_this_machine_can_reach_it(tmp_path: Path) -> None:
    """Throw-away secrets are for loopback alone."""
    done = run(tmp_path, "serve", "--dev", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 3
    assert "server.host" in done.stderr
    assert "loopback" in done.stderr


@pytest.mark.parametrize("loose", [".dev", ".dev/berinia-webhookd.toml"])
def test_the_folder_of_somebody_else_is_not_used_by_commands(tmp_path: Path, loose: str) -> None:
    """Its agents and its journal could be anybody's."""
    (tmp_path / ".dev").mkdir(mode=0o700)
    (tmp_path / ".dev" / "berinia-webhookd.toml").touch(mode=0o600)
    (tmp_path / loose).chmod(0o777)
    done = run(tmp_path, "events", "list")
    assert done.returncode == 3
    assert "can be written by others, so it is not used" in done.stderr
