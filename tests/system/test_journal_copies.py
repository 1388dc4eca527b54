"""Copies of a journal by Debian's sqlite3: a backup beside a running daemon, and what is saved of a
damaged file, as the guides for operators have it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..end_to_end.daemon import Daemon

pytestmark = pytest.mark.system

PAGE_BYTES = 4096


def journal_of(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "journal.db"


def put_in_place(daemon: Daemon, copy: Path) -> None:
    """With the daemon stopped: the old file goes, with what belongs to it."""
    for ending in ("", "-wal", "-shm"):
        journal_of(daemon).with_name("journal.db" + ending).unlink(missing_ok=True)
    shutil.copy(copy, journal_of(daemon))


def events_of(daemon: Daemon) -> dict[str, str]:
    found: list[dict[str, Any]] = json.loads(daemon.run("events", "list", "--json").stdout)
    return {one["id"]: one["state"] for one in found}


def test_a_backup_of_a_running_daemon_is_whole(stopped: Daemon, tmp_path: Path) -> None:
    """What was done stays done; what was open is delivered after the restore; and what came later
    is not there, so that its copies are taken as new ones.
    """
    daemon = stopped.start()
    assert daemon.sms(MessageSid="SM" + "1" * 32).status == 200
    daemon.wait_for("attempt.succeeded")
    (daemon.agents / "hold").touch()
    assert daemon.sms(MessageSid="SM" + "2" * 32).status == 200
    daemon.wait_for("attempt.started", count=2)
    backup = tmp_path / "backup.db"
    subprocess.run(["sqlite3", journal_of(daemon), f".backup '{backup}'"], check=True)
    (daemon.agents / "hold").unlink()
    assert daemon.sms(MessageSid="SM" + "3" * 32).status == 200
    daemon.wait_for("attempt.succeeded", count=3)
    assert daemon.stop() == 0
    put_in_place(daemon, backup)
    daemon.start()
    daemon.wait_for("attempt.succeeded")
    assert list(events_of(daemon).values()) == ["done", "done"]
    assert daemon.sms(MessageSid="SM" + "2" * 32).status == 200
    assert daemon.sms(MessageSid="SM" + "3" * 32).status == 200
    daemon.wait_for("attempt.succeeded", count=2)
    assert list(events_of(daemon).values()) == ["done", "done", "done"]


def test_what_doctor_says_saves_a_damaged_journal(stopped: Daemon) -> None:
    """The command as it is printed, on this machine's sqlite3."""
    daemon = stopped.start()
    for _ in range(20):
        assert daemon.sms().status == 200
    daemon.wait_for("attempt.succeeded", count=20)
    before = events_of(daemon)
    assert daemon.stop() == 0
    journal = journal_of(daemon)
    damage_an_index(journal)
    report = json.loads(daemon.run("doctor", "--json", check=False).stdout)
    [finding] = [one for one in report["findings"] if "is damaged" in one["what"]]
    rescue, restore = finding["fix"][0].split("`")[1:4:2]
    subprocess.run(rescue, shell=True, check=True)
    daemon.run(*shlex.split(restore)[1:])
    daemon.start()
    assert events_of(daemon) == before
    assert daemon.sms().status == 200
    daemon.wait_for("attempt.succeeded")


def damage_an_index(journal: Path) -> None:
    """Overwrites the page of an index, as a bad disk might: the rows themselves are readable."""
    query = "SELECT rootpage FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL LIMIT 1"
    done = subprocess.run(["sqlite3", journal, query], capture_output=True, text=True, check=True)
    with journal.open("r+b") as file:
        file.seek((int(done.stdout) - 1) * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)
