"""Manual pages and shell completion: those in contrib are current, and complete what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from berinia_webhookd.cli import root

from . import manual

PATIENCE_SECONDS = 180
CHANNEL = """
[channels.second-number]
kind = "twilio"
agent = "SalesAgent"
tokens = ["x"]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "berinia.toml"
    file.write_text(CHANNEL)
    file.chmod(0o600)
    return file


def test_what_contrib_has_is_current() -> None:
    """Every page and script is what click makes of the commands now, and there is no other."""
    for file, text in manual.files().items():
        assert file.read_text() == text, f"{file.name}: python -m tests.tools.manual"
    there = {*manual.MAN.iterdir(), *(f for f in manual.COMPLETION["bash"].parents[1].glob("*/*"))}
    assert there == manual.files().keys()


def test_every_command_has_its_place() -> None:
    """A page for each, and a section for each command of a group with all of its options."""
    pages = {file.name: file.read_text() for file in manual.MAN.iterdir()}
    context = click.Context(root)
    for name in root.list_commands(context):
        page = pages[f"berinia-webhookd-{name}.1"]
        command = root.get_command(context, name)
        assert command is not None
        subs = command.commands if isinstance(command, click.Group) else {}
        for one in (command, *subs.values()):
            options = [p for p in one.params if isinstance(p, click.Option) and not p.hidden]
            for option in options:
                assert manual.escaped(option.opts[0]) in page
        for sub in subs:
            assert f'.SH "{manual.escaped(f"{name} {sub}").upper()}"' in page


@pytest.mark.system
def test_man_has_nothing_to_say_about_the_pages() -> None:
    """No unknown request, no bad escape."""
    for page in manual.MAN.iterdir():
        done = subprocess.run(
            ["man", "--warnings", "--encoding=UTF-8", "--local-file", str(page)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        assert done.stderr == ""
        assert "SYNOPSIS" in done.stdout


def completed(shell: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the script of a shell gets from the program: words before, and the one to complete."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BERINIA_")}
    asked = {
        "_BERINIA_WEBHOOKD_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(("berinia-webhookd", *words)),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
        "HOME": str(folder),
        "STATE_DIRECTORY": str(folder),
    }
    return subprocess.run(
        [sys.executable, "-m", "berinia_webhookd"],
        env={**kept, **asked},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("events", "list", "--channel", "sec"), "second-number"),
        (("events", "list", "--agent", "Sal"), "SalesAgent"),
        (("events", "list", "--state", "dea"), "dead"),
        (("send", "sec"), "second-number"),
        (("logs", "--type", "sec"), "second-number"),
        (("eve",), "events"),
    ],
)
def test_names_are_completed(
    shell: str, words: tuple[str, ...], expected: str, config: Path
) -> None:
    """Channels, agents, states, logs and commands, from the configuration that `--config` names."""
    done = completed(shell, "--config", config.name, *words, folder=config.parent)
    assert expected in re.split(r"[,\t\n]", done.stdout)
    assert done.stderr == ""


def test_commands_are_completed_with_what_they_do(tmp_path: Path) -> None:
    """In whole, by the words of the list of commands."""
    done = completed("fish", "eve", folder=tmp_path)
    assert done.stdout == f"plain,events\t{root.modules['events'][2]}\n"


def test_a_configuration_that_cannot_be_used(config: Path) -> None:
    """Nothing is said in the middle of a line."""
    config.chmod(0o600)
    config.write_text("[channels")
    done = completed("bash", "--config", config.name, "send", "sec", folder=config.parent)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_bash_completes_a_line(config: Path) -> None:
    """By the script of contrib, and a program of that name."""
    program = config.with_name("berinia-webhookd")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m berinia_webhookd "$@"\n')
    program.chmod(0o755)
    script = f"""
    source {manual.COMPLETION["bash"]}
    COMP_WORDS=(berinia-webhookd --config {config} events list --channel "")
    COMP_CWORD=6
    _berinia_webhookd_completion berinia-webhookd
    echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{config.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert done.stdout.split() == ["email", "second-number", "sms", "whatsapp"]
    assert done.stderr == ""
