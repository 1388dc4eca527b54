"""A SQLite journal that is removed, replaced, cut or written over under the running daemon."""

from __future__ import annotations

import json
import os
import random
import resource
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from .cluster import wait_until_equal
from .daemon import Daemon, sample_sms

PAGE = 4096


def replace(journal: Path, backup: Path) -> None:
    backup.rename(journal)


def write_over(journal: Path, backup: Path) -> None:
    journal.write_bytes(backup.read_bytes())


def cut(journal: Path, backup: Path) -> None:
    del backup
    os.truncate(journal, 0)


def remove(journal: Path, backup: Path) -> None:
    del backup
    journal.unlink()


def spoil(journal: Path, backup: Path) -> None:
    """Random bytes in many pages."""
    del backup
    with journal.open("r+b") as file:
        for page in random.Random(1).sample(range(1, journal.stat().st_size // PAGE), 20):
            file.seek(page * PAGE)
            file.write(random.Random(page).randbytes(PAGE))


def cut_wal(journal: Path, backup: Path) -> None:
    del backup
    os.truncate(journal.with_name(journal.name + "-wal"), 0)


def cut_wal_short(journal: Path, backup: Path) -> None:
    """The beginning alone is left of it."""
    del backup
    wal = journal.with_name(journal.name + "-wal")
    os.truncate(wal, wal.stat().st_size // 3)


FAULTS = [replace, write_over, cut, remove, spoil, cut_wal, cut_wal_short]


def journal_of(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "journal.db"


def copy_of(journal: Path) -> Path:
    backup = journal.with_name("backup.db")
    with closing(sqlite3.connect(journal)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    return backup


def saved(daemon: Daemon) -> list[Path]:
    return sorted(journal_of(daemon).parent.glob("journal.db.saved-*"))


def lose(daemon: Daemon, fault: Callable[[Path, Path], None]) -> list[dict[str, str]]:
    """Accept messages, some of them after a backup, and then lose the journal; returns those that
    were accepted.
    """
    messages = [sample_sms(From=f"+336399{n:05d}") for n in range(120)]
    for fields in messages[:60]:
        assert daemon.sms(fields).status == 200
    backup = copy_of(journal_of(daemon))
    for fields in messages[60:]:
        assert daemon.sms(fields).status == 200
    fault(journal_of(daemon), backup)
    return messages


@pytest.mark.parametrize("fault", [remove, spoil])
def test_doctor_says_one_thing(stopped: Daemon, fault: Callable[[Path, Path], None]) -> None:
    """To put the copy in the journal's place; and nothing that speaks against it, as to restart."""
    daemon = stopped.start("--no-dispatch")
    lose(daemon, fault)
    assert daemon.sms(sample_sms()).status == 503
    wait_until_equal(lambda: len(saved(daemon)), 1)
    (copy,) = saved(daemon)
    found = json.loads(daemon.run("doctor", "--json", check=False).stdout)["findings"]
    (of_journal,) = [one for one in found if one["subject"] == "journal"]
    assert of_journal["level"] == "wrong"
    assert str(copy) in of_journal["what"]
    assert daemon.process is not None
    assert f"`kill {daemon.process.pid}`" in of_journal["fix"][0]
    assert f"journal restore {copy}" in of_journal["fix"][1]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_accepted_survives(stopped: Daemon, fault: Callable[[Path, Path], None]) -> None:
    """It is saved beside the journal; nobody is told 200 from then on, nothing starts while it is
    undecided, and once it is put in the journal's place everything is there, once.
    """
    daemon = stopped.start("--no-dispatch")
    messages = lose(daemon, fault)
    before = journal_of(daemon).read_bytes() if fault is replace else None
    late = sample_sms()
    assert daemon.sms(late).status == 503
    wait_until_equal(lambda: daemon.request("GET", "/health").status, 503)
    wait_until_equal(lambda: len(saved(daemon)), 1)
    (copy,) = saved(daemon)
    daemon.wait_for("journal.degraded")
    assert daemon.stop() == 0
    if before is not None:
        assert journal_of(daemon).read_bytes() == before
    assert copy.stat().st_mode & 0o077 == 0

    refused = daemon.run("serve", "--port", "0", check=False)
    assert refused.returncode == 3
    assert f"journal restore {copy}" in refused.stderr
    assert f"journal discard {copy}" in refused.stderr

    restored = daemon.run("journal", "restore", str(copy))
    assert restored.stdout.split()[0] in {"120", "121"}  # what got 503 may have been committed
    assert saved(daemon) == []
    daemon.start()
    assert {daemon.sms(fields).status for fields in [*messages, late]} == {200}
    daemon.wait_until_seen(121)
    assert daemon.stop() == 0
    assert len(daemon.seen()) == 121


def test_a_copy_that_is_given_up(stopped: Daemon) -> None:
    """What is at the journal's place is used then; only what was saved can be discarded."""
    daemon = stopped.start("--no-dispatch")
    lose(daemon, replace)
    wait_until_equal(lambda: len(saved(daemon)), 1)
    daemon.stop()
    (copy,) = saved(daemon)
    erasing = daemon.run("events", "erase", "--sender", "+33639900001", check=False)
    assert (erasing.returncode, str(copy) in erasing.stderr) == (1, True)
    other = daemon.run("journal", "discard", str(journal_of(daemon)), check=False)
    assert (other.returncode, journal_of(daemon).exists()) == (1, True)
    daemon.run("journal", "discard", str(copy))
    assert not copy.exists()
    daemon.start()
    assert daemon.run("events", "list", "--json", "--limit", "200").stdout.count('"id"') == 60


def test_a_journal_that_cannot_be_saved_is_no_orderly_end(daemon: Daemon) -> None:
    """Whoever stops it hears so."""
    assert daemon.sms().status == 200
    assert daemon.process is not None
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (PAGE, PAGE))
    journal_of(daemon).unlink()
    wait_until_equal(lambda: daemon.request("GET", "/health").status, 503)
    assert daemon.stop() == 1
    assert saved(daemon) == []


def test_damage_is_not_served_as_healthy(stopped: Daemon) -> None:
    """A start reads the journal through, and saves what can be read of it."""
    daemon = stopped.start("--no-dispatch")
    messages = [sample_sms() for _ in range(20)]
    assert {daemon.sms(fields).status for fields in messages} == {200}
    daemon.stop()
    with closing(sqlite3.connect(journal_of(daemon))) as journal:
        named = "SELECT rootpage FROM sqlite_master WHERE name = 'actions'"
        ((page,),) = journal.execute(named)
    with journal_of(daemon).open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(bytes(PAGE))
    daemon.start("--no-dispatch")
    assert daemon.sms().status == 503
    wait_until_equal(lambda: len(saved(daemon)), 1)
    daemon.stop()
    daemon.run("journal", "restore", str(saved(daemon)[0]))
    daemon.start()
    assert {daemon.sms(fields).status for fields in messages} == {200}
    daemon.wait_until_seen(20)
    assert daemon.stop() == 0
    assert len(daemon.seen()) == 20


def test_a_journal_that_is_made_is_said_to_be_new(stopped: Daemon) -> None:
    """One that was moved away between two starts would else be missed by nobody."""
    for new in (True, False):
        assert stopped.start().wait_for("server.started")["new_journal"] is new
        stopped.stop()


def test_a_journal_in_use_is_not_restored(daemon: Daemon) -> None:
    """Exit code 4, and nothing has changed."""
    daemon.sms()
    backup = copy_of(journal_of(daemon))
    refused = daemon.run("journal", "restore", str(backup), check=False)
    assert refused.returncode == 4
    assert daemon.sms().status == 200
    assert backup.exists()


def test_a_change_that_harms_nothing_is_checked_and_forgotten(daemon: Daemon) -> None:
    """A doubt ends where the file is sound."""
    assert daemon.sms().status == 200
    journal_of(daemon).touch()
    daemon.wait_for("journal.degraded")
    daemon.wait_for("journal.recovered")
    assert daemon.sms().status == 200
    assert saved(daemon) == []


def test_commands_beside_the_daemon_are_no_doubt(daemon: Daemon) -> None:
    """Whatever they read, change, erase or write back, every request is answered as before."""
    people = [f"+336399{n:05d}" for n in range(100)]
    for sender in people:
        assert daemon.sms(sample_sms(From=sender)).status == 200
    statuses, ended = set[int](), threading.Event()

    def send() -> None:
        while not ended.is_set():
            statuses.add(daemon.sms(sample_sms(From=people[-1])).status)
            statuses.add(daemon.request("GET", "/health").status)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        for sender in people[:5]:
            daemon.run("events", "erase", "--sender", sender)
        daemon.run("conversations", "pause", "--sender", people[-2])
        daemon.run("conversations", "resume", "--sender", people[-2])
        daemon.run("events", "replay", "--state", "dead")
        daemon.run("events", "list")
        copy_of(journal_of(daemon))
        refused = daemon.run(
            "journal", "copy", "--to", f"sqlite:///{daemon.folder}/c.db", check=False
        )
        assert refused.returncode == 4
    finally:
        ended.set()
        sending.join()
    assert statuses == {200}
    assert [line for line in daemon.lines if line["event"].startswith("journal.")] == []


def test_a_wal_that_another_program_writes_back_is_a_short_doubt(daemon: Daemon) -> None:
    """It ends by itself: the file is sound, and nothing is lost."""
    assert daemon.sms().status == 200
    with closing(sqlite3.connect(journal_of(daemon))) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    daemon.wait_for("journal.degraded")
    daemon.wait_for("journal.recovered")
    assert daemon.sms().status == 200
    assert daemon.request("GET", "/health").status == 200
    assert saved(daemon) == []


def test_what_came_in_after_a_backup_is_kept_when_it_is_restored(stopped: Daemon) -> None:
    """Events, their order, and erasures of the journal that is there are taken into the backup."""
    hold = stopped.agents / "hold"
    daemon = stopped.start("--no-dispatch")
    anna, ben = {"From": "+33639980011"}, {"From": "+33639980012"}
    first = [sample_sms(**who, Body=f"first of {who['From']}") for who in (anna, ben)]
    for fields in first:
        assert daemon.sms(fields).status == 200
    backup = copy_of(journal_of(daemon))
    later = [sample_sms(**ben, Body=f"later {n}") for n in range(3)]
    for fields in later:
        assert daemon.sms(fields).status == 200
    daemon.run("events", "erase", "--sender", anna["From"])
    daemon.stop()
    restored = daemon.run("journal", "restore", str(backup))
    assert "5 events, 3 of them from the journal" in restored.stdout
    assert "1 event that was erased there is erased" in restored.stdout
    assert b"first of +33639980011" not in journal_of(daemon).read_bytes()
    assert not hold.exists()
    daemon.start()
    bodies = [one["data"]["body"] for one in daemon.wait_until_seen(4)]
    assert bodies == [f"first of {ben['From']}", "later 0", "later 1", "later 2"]
    assert {daemon.sms(fields).status for fields in [*first, *later]} == {200}
    daemon.stop()
    assert len(daemon.seen()) == 4
