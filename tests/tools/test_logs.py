"""`logs` right after a rotation, and where there is no log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from berinia_webhookd.logs import reading
from berinia_webhookd.logs.reading import Follower
from berinia_webhookd.tools.logs import readable

PATIENCE_SECONDS = 180

Logs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    """Runs `logs` over a folder of the test's own, into a pipe."""
    config = tmp_path / "berinia.toml"
    config.write_text(f'logs.dir = "{tmp_path}"\n')
    config.chmod(0o600)
    environ = {"PATH": os.environ["PATH"], "STATE_DIRECTORY": str(tmp_path / "state")}
    program = [sys.executable, "-m", "berinia_webhookd", "--config", str(config), "logs"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    return run


def test_a_log_that_was_just_rotated_is_read(logs: Logs, tmp_path: Path) -> None:
    """The daemon makes the new file with its next line; until then the rotated one counts."""
    (tmp_path / "error.log.1").write_text("one\ntwo\nthree\nfour\n")
    done = logs("--type", "error", "-n", "3")
    assert (done.returncode, done.stdout) == (0, "two\nthree\nfour\n")


def test_what_the_log_lacks_comes_from_the_rotated_one(logs: Logs, tmp_path: Path) -> None:
    """Only as many lines as are missing, the oldest first, no older file."""
    (tmp_path / "webhook.log.2").write_text("oldest\n")
    (tmp_path / "webhook.log.1").write_text("one\ntwo\n")
    (tmp_path / "webhook.log").write_text("three\n")
    assert logs("-n", "1").stdout == "three\n"
    assert logs("-n", "2").stdout == "two\nthree\n"
    assert logs("-n", "500").stdout == "one\ntwo\nthree\n"


def test_nothing_was_logged_yet(logs: Logs) -> None:
    """Said with what it may mean; where only errors are written, that is good news."""
    done = logs("--type", "error")
    assert done.returncode == 1
    assert "there is no log" in done.stderr
    assert "good news" in done.stderr
    assert "good news" not in logs("--type", "sms").stderr


def test_following_begins_in_the_rotated_log(tmp_path: Path) -> None:
    """Until there is a new file, the daemon may still write to the old one."""
    log, rotated = tmp_path / "sms.log", tmp_path / "sms.log.1"
    rotated.write_text("one\n")

    def write() -> None:
        with rotated.open("a") as stream:
            stream.write("two\n")
        log.write_text("three\n")

    with Follower(log) as follower:
        assert follower.last(10) == ["one"]
        news = follower.follow(write)
        assert [next(news), next(news)] == ["two", "three"]


def test_a_log_rotated_while_it_is_read_is_shown_once(tmp_path: Path) -> None:
    """The rotated file is the one that is open already."""
    log = tmp_path / "sms.log"
    log.write_text("one\n")
    with Follower(log) as follower:
        log.rename(tmp_path / "sms.log.1")
        assert follower.last(10) == ["one"]


def test_both_files_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rotated one is read as far as the first one left room, and not after a gap."""
    log, rotated = tmp_path / "sms.log", tmp_path / "sms.log.1"
    monkeypatch.setattr(reading, "MAX_READ_BYTES", 20)
    rotated.write_text("too old\nold\nolder\n")
    log.write_text("12345678\n")
    with Follower(log) as follower:
        assert follower.last(10) == ["old", "older", "12345678"]
    monkeypatch.setattr(reading, "MAX_READ_BYTES", 9)
    with Follower(log) as follower:
        assert follower.last(10) == ["12345678"]


def test_a_link_is_not_read_in_the_place_of_a_rotated_log(logs: Logs, tmp_path: Path) -> None:
    """Nor is the rotated log shown in the place of a log that cannot be read."""
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "sms.log.1").symlink_to(tmp_path / "secret")
    assert logs("--type", "sms").returncode == 1
    (tmp_path / "email.log").symlink_to(tmp_path / "secret")
    (tmp_path / "email.log.1").write_text("one\n")
    assert logs("--type", "email").returncode == 1


def test_the_page_shows_one_file(tmp_path: Path) -> None:
    """`GET /webhook/logs` has no lines of a log that does not exist."""
    (tmp_path / "error.log.1").write_text("one\n")
    assert reading.tail(tmp_path / "error.log", 5) == []


LINES = """\
{"timestamp":"2026-11-30T05:00:00+00:00","event":"event.accepted","event_id":"01a2b","n":1}
no JSON
{"timestamp":"2026-11-30T06:00:00+00:00","event":"event.accepted","event_id":"01a3c","n":2}
{"timestamp":"2026-11-30T07:00:00+00:00","event":"attempt.failed","event_id":"01a2b","n":3}
[1]
{"timestamp":7,"event":"odd","event_id":7}
"""


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("--event", "01a2"), [1, 3]),
        (("--event", "01a2", "-n", "1"), [3]),
        (("--event", "01a2", "-n", "0"), []),
        (("--since", "2026-11-30T06:00"), [2, 3]),
        (("--since", "2026-11-30T06:00", "--event", "01a2b", "--json"), [3]),
        (("--event", "none"), []),
    ],
)
def test_lines_of_an_event_or_a_time(
    logs: Logs, tmp_path: Path, words: tuple[str, ...], numbers: list[int]
) -> None:
    """The last of those that are asked for, whatever else stands between them."""
    (tmp_path / "webhook.log").write_text(LINES)
    done = logs(*words)
    assert done.returncode == 0
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == numbers


def test_the_reason_comes_before_the_ids() -> None:
    """What an operator reads first stands where 80 columns end late."""
    line = json.dumps({"event": "attempt.failed", "request_id": "r", "event_id": "e", "error": "x"})
    shown = click.unstyle(readable(line))
    assert shown.index("error=x") < shown.index("event_id=e") < shown.index("request_id=r")
