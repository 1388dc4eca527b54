"""`journal copy`, as an operator calls it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from ..end_to_end.daemon import Daemon
from .journals import a_journal


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The URL of a journal with one event."""
    return a_journal(tmp_path / "old.db", "one")


def test_no_command_needs_the_driver_of_postgresql() -> None:
    """An installation with a SQLite journal does without, and every command begins there."""
    look = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from importlib import import_module\n"
        "from berinia_webhookd.cli import root\n"
        "for module, _, _ in root.modules.values(): import_module(module)\n"
    )
    subprocess.run([sys.executable, "-c", look], check=True)


def test_a_copy_says_what_it_counted(tmp_path: Path, source: str) -> None:
    """On both sides, table by table; without --to it goes to the configured journal."""
    daemon = Daemon(tmp_path)
    done = daemon.run("journal", "copy", "--from", source)
    assert "entries                     1           1" in done.stdout
    assert done.stdout.endswith("1 event is in both, nothing differs\n")
    assert str(tmp_path / "state" / "journal.db") in done.stderr
    again = json.loads(daemon.run("journal", "copy", "--from", source, "--json").stdout)
    assert again["complete"] is True
    assert {"table": "events", "from": 1, "to": 1} in again["tables"]
    assert len(json.loads(daemon.run("events", "list", "--json").stdout)) == 1


def test_a_dry_run_says_what_would_be_copied(tmp_path: Path, source: str) -> None:
    """What is not there yet is no difference; afterwards there is nothing to do."""
    daemon = Daemon(tmp_path)
    before = daemon.run("journal", "copy", "--from", source, "--dry-run")
    assert "entries                     1           0  1 to copy" in before.stdout
    assert before.stdout.endswith("events to copy: 1; there already: 0\n")
    assert "differs" not in before.stdout
    daemon.run("journal", "copy", "--from", source)
    after = daemon.run("journal", "copy", "--from", source, "--dry-run")
    assert after.stdout.endswith("1 event is in both, nothing differs\n")


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_what_the_target_holds_is_counted(
    tmp_path: Path, source: str, words: tuple[str, ...]
) -> None:
    """And it is said what to do with it; nothing is copied."""
    other = a_journal(tmp_path / "other.db", "two", "three")
    refused = Daemon(tmp_path).run(
        "journal", "copy", "--from", source, "--to", other, *words, check=False
    )
    assert refused.returncode == 3
    assert "a journal of its own: 2 events, the newest received at 2" in refused.stderr
    assert "its socket unit as well; then give another file" in refused.stderr
    assert "docs/operating.md" in refused.stderr


def actions(file: Path) -> list[tuple[str, str]]:
    """Who did what, as the journal keeps it."""
    with closing(sqlite3.connect(file)) as journal:
        return list(journal.execute("SELECT what, who FROM actions ORDER BY number"))


def test_a_copy_is_written_down(tmp_path: Path, source: str) -> None:
    """With who gave the command, in what was copied as in the copy; a dry run is not."""
    daemon = Daemon(tmp_path)
    daemon.run("journal", "copy", "--from", source, "--dry-run")
    daemon.run("journal", "copy", "--from", source, environment={"SUDO_USER": "anna"})
    files = (tmp_path / "old.db", tmp_path / "state" / "journal.db")
    assert [actions(file) for file in files] == [[("journal copy", "anna")]] * 2


def test_giving_up_a_saved_copy_is_written_down(tmp_path: Path, source: str) -> None:
    """In the journal that is there; where there is none, it is said that nobody will know."""
    daemon = Daemon(tmp_path)
    saved = tmp_path / "state" / "journal.db.saved-20261130T101004Z"
    saved.parent.mkdir(mode=0o700)
    saved.touch()
    alone = daemon.run("journal", "discard", str(saved))
    assert "is not noted: there is no journal at" in alone.stderr
    assert not saved.exists()
    daemon.run("journal", "copy", "--from", source, environment={"SUDO_USER": "anna"})
    saved.touch()
    daemon.run("journal", "discard", str(saved), environment={"SUDO_USER": "ben"})
    assert not saved.exists()
    noted = actions(tmp_path / "state" / "journal.db")
    assert noted == [("journal copy", "anna"), ("journal discard", "ben")]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0 and then nothing"])
def test_what_could_not_be_rescued_is_no_journal(tmp_path: Path, content: bytes) -> None:
    """A dump that failed leaves an empty file: it is refused, and leaves nothing that the daemon
    would start on.
    """
    daemon = Daemon(tmp_path)
    rescued = tmp_path / "journal.db.rescued"
    rescued.write_bytes(content)
    (tmp_path / "state").mkdir(mode=0o700)
    refused = daemon.run("journal", "restore", str(rescued), check=False)
    assert refused.returncode == 3
    assert "is no journal that can be read" in refused.stderr
    assert list((tmp_path / "state").iterdir()) == []


def test_two_journals_are_joined_before_they_are_copied(tmp_path: Path, source: str) -> None:
    """As the guide says, where the socket started the daemon on the empty target: what came there
    is copied into a file, which the older journal takes in when it is restored.
    """
    came_there = a_journal(tmp_path / "there.db", "two", "three")
    daemon = Daemon(tmp_path)
    daemon.run("journal", "copy", "--from", came_there)
    old = tmp_path / "old.db"
    done = daemon.run("journal", "restore", str(old))
    assert "3 events, 2 of them from the journal that was there" in done.stdout


def test_a_password_on_the_command_line_is_refused(tmp_path: Path, source: str) -> None:
    """Everybody who lists processes would see it; the message says where to put it, not what."""
    target = "postgresql://postgres:geheim@127.0.0.1:1/berinia"
    refused = Daemon(tmp_path).run("journal", "copy", "--from", source, "--to", target, check=False)
    assert refused.returncode == 2
    assert "PGPASSWORD" in refused.stderr
    assert "geheim" not in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    "words", [[], ["--from", "nonsense"], ["--from", "{source}", "--to", "{source}"]]
)
def test_what_makes_no_sense_is_a_usage_error(
    tmp_path: Path, source: str, words: list[str]
) -> None:
    """No place at all, no journal's place, or the same place twice."""
    given = [word.format(source=source) for word in words]
    refused = Daemon(tmp_path).run("journal", "copy", *given, check=False)
    assert refused.returncode == 2
    assert refused.stdout == ""
