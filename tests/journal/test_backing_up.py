"""Backups of a SQLite journal: what is at their place, and what goes wrong on the way."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click.testing
import pytest

from berinia_webhookd.cli import root
from berinia_webhookd.errors import CannotStart, NotFound, WebhookdError
from berinia_webhookd.journal import backing_up, saved_copies, sqlite
from berinia_webhookd.journal.backing_up import back_up
from berinia_webhookd.journal.journal_file import SqliteDatabase
from berinia_webhookd.journal.restoring import restore_journal

from ..full_disk import full_disk
from ..tools.journals import a_journal

NOW = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """One with two events."""
    a_journal(tmp_path / "journal.db", "one", "two")
    return tmp_path / "journal.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one."""
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups"


def test_a_backup_is_a_journal_of_one_instant(journal: Path, folder: Path) -> None:
    """Whatever is written while it is made: all of a transaction is there, or nothing."""
    file, begun, ended = folder / "backup.db", threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
            while not ended.is_set():
                connection.execute("BEGIN")
                for _ in range(7):
                    connection.execute("INSERT INTO seen VALUES (randomblob(32), 'one', 1)")
                connection.execute("COMMIT")
                begun.set()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        assert begun.wait(90)
        done = back_up(journal, file, NOW)
    finally:
        ended.set()
        writing.join()
    assert (done.events, done.has_key, done.size) == (2, False, file.stat().st_size)
    with closing(sqlite3.connect(file)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ((rows,),) = copy.execute("SELECT count(*) FROM seen WHERE received_at = 1")
        assert (rows > 0, rows % 7) == (True, 0)
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize("there", ["a file", "a folder", "a link", "a link to nothing"])
def test_what_is_there_is_left_as_it_is(journal: Path, folder: Path, there: str) -> None:
    """Also a link that leads nowhere."""
    file, other = folder / "backup.db", folder / "other"
    match there:
        case "a file":
            file.write_text("mine")
        case "a folder":
            file.mkdir()
        case "a link":
            other.write_text("mine")
            file.symlink_to(other)
        case _:
            file.symlink_to(other)
    before = sorted(folder.iterdir())
    with pytest.raises(WebhookdError, match="is there already"):
        back_up(journal, file, NOW)
    assert sorted(folder.iterdir()) == before
    assert file.is_dir() or not file.exists() or file.read_text() == "mine"


def test_a_disk_that_fills_leaves_nothing(journal: Path, folder: Path) -> None:
    """Though there seemed to be room."""
    with full_disk(), pytest.raises(WebhookdError, match="no backup was made at"):
        back_up(journal, folder / "backup.db", NOW)
    assert list(folder.iterdir()) == []


def test_a_disk_without_room_is_not_filled(
    journal: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal may lie on the same."""
    monkeypatch.setattr(backing_up, "ROOM_LEFT", 1 << 60)
    with pytest.raises(WebhookdError, match="it takes") as raised:
        back_up(journal, folder / "backup.db", NOW)
    assert raised.value.hint == f"make room: df -h {folder}"
    assert list(folder.iterdir()) == []


def test_a_damaged_journal_makes_no_backup(journal: Path, folder: Path) -> None:
    """Somebody would rely on it."""
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'actions'")
    with journal.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(WebhookdError):
        back_up(journal, folder / "backup.db", NOW)
    assert list(folder.iterdir()) == []


def test_a_journal_of_another_version_makes_no_backup(journal: Path, folder: Path) -> None:
    """This program cannot say whether all of it is there."""
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("UPDATE schema SET version = version + 1")
        connection.commit()
    with pytest.raises(CannotStart, match="schema 2"):
        back_up(journal, folder / "backup.db", NOW)
    assert list(folder.iterdir()) == []


def test_without_a_journal_there_is_no_backup(folder: Path) -> None:
    """And none is made."""
    with pytest.raises(NotFound, match="there is no journal at"):
        back_up(folder / "journal.db", folder / "backup.db", NOW)
    assert list(folder.iterdir()) == []


def test_rows_that_did_not_arrive_are_missed(
    journal: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that can be read is not enough."""
    flush = saved_copies.flush

    def lose(path: Path) -> None:
        if path.is_file():
            with closing(sqlite3.connect(path)) as copy:
                copy.execute("DELETE FROM entries WHERE place = (SELECT max(place) FROM entries)")
                copy.commit()
        flush(path)

    monkeypatch.setattr(backing_up, "flush", lose)
    with pytest.raises(WebhookdError, match="as many rows"):
        back_up(journal, folder / "backup.db", NOW)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_backup_that_is_stopped_leaves_nothing(
    journal: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As systemd stops a timer's service, or a terminal that is closed."""
    check = sqlite.damage
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}

    def stopped(copy: sqlite3.Connection, kind: str) -> str | None:
        os.kill(os.getpid(), number)
        return check(copy, kind)

    monkeypatch.setattr(backing_up, "damage", stopped)
    monkeypatch.setattr(os, "nice", lambda _: 0)
    environment: Mapping[str, str] = {
        "BERINIA_WEBHOOKD_JOURNAL__URL": f"sqlite:///{journal}",
        "STATE_DIRECTORY": str(journal.parent / "state"),
        "RUNTIME_DIRECTORY": str(journal.parent / "state"),
    }
    monkeypatch.chdir(journal.parent)
    try:
        words = ["journal", "backup", str(folder / "backup.db")]
        done = click.testing.CliRunner().invoke(root, words, env=environment)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert done.exit_code == 128 + number, done.output
    assert list(folder.iterdir()) == []


KILLED_MEANWHILE = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from berinia_webhookd.journal import {module}, sqlite

{module}.damage = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
{module}.{function}(Path(sys.argv[1]), Path(sys.argv[2]), datetime.now(UTC))
"""


def kill_meanwhile(module: str, function: str, journal: Path, file: Path) -> None:
    """Do it in a process that is killed when all is written and nothing yet checked."""
    program = KILLED_MEANWHILE.format(module=module, function=function)
    done = subprocess.run([sys.executable, "-c", program, journal, file], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_backup_left_goes_with_the_next(journal: Path, folder: Path) -> None:
    """Whatever its name; not that of one which goes on, nor what only looks like it."""
    kill_meanwhile("backing_up", "back_up", journal, folder / "yesterday.db")
    [left] = folder.iterdir()
    others = {folder / "mine.unfinished", folder / "going-on.db.00000000.unfinished"}
    for other in others:
        other.write_text("no backup")
    with (folder / "going-on.db.00000000.unfinished").open() as going_on:
        fcntl.flock(going_on, fcntl.LOCK_EX)
        done = back_up(journal, folder / "today.db", NOW)
    assert done.removed == [left]
    assert set(folder.iterdir()) == {folder / "today.db", *others}


def test_what_a_killed_restore_left_goes_with_the_next(journal: Path, folder: Path) -> None:
    """Or with the next start of the daemon; the journal is as it was."""
    back_up(journal, folder / "backup.db", NOW)
    left, before = journal.with_name("journal.db.restoring"), events_in(journal)
    kill_meanwhile("restoring", "restore_journal", journal, folder / "backup.db")
    assert left.exists()
    saved_copies.remove_unfinished(journal)
    assert not left.exists()
    kill_meanwhile("restoring", "restore_journal", journal, folder / "backup.db")
    assert restore_journal(journal, folder / "backup.db", NOW).removed == left
    assert not left.exists()
    assert events_in(journal) == before


def events_in(journal: Path) -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(journal)) as connection:
        return connection.execute("SELECT number, data FROM events").fetchall()


@pytest.mark.parametrize(
    "stranger",
    [
        "CREATE TRIGGER evil AFTER INSERT ON events BEGIN DELETE FROM deliveries; END",
        "CREATE VIEW evil AS SELECT data FROM events",
        "CREATE TABLE evil (data TEXT)",
    ],
)
def test_a_backup_with_what_no_journal_has_is_refused(
    journal: Path, folder: Path, stranger: str
) -> None:
    """It would act, or be read, in the place of what the daemon means."""
    file = folder / "backup.db"
    back_up(journal, file, NOW)
    with closing(sqlite3.connect(file)) as copy:
        copy.execute(stranger)
    with pytest.raises(CannotStart, match=rf"{stranger.split()[1].lower()} evil"):
        restore_journal(journal, file, NOW)
    assert [one.name for one in folder.iterdir()] == ["backup.db"]


def test_a_trigger_with_a_name_of_sqlites_is_refused(journal: Path, folder: Path) -> None:
    """SQLite gives nobody such a name, but takes what is written into the schema itself."""
    file = folder / "backup.db"
    back_up(journal, file, NOW)
    evil = "CREATE TRIGGER sqlite_evil AFTER INSERT ON events BEGIN DELETE FROM deliveries; END"
    with closing(sqlite3.connect(file)) as copy, copy:
        copy.execute("PRAGMA writable_schema = 1")
        row = "INSERT INTO sqlite_master VALUES ('trigger', 'sqlite_evil', 'events', 0, ?)"
        copy.execute(row, (evil,))
    with pytest.raises(CannotStart, match="trigger sqlite_evil"):
        restore_journal(journal, file, NOW)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("DROP TABLE seen", "lacks what each journal has: .*table seen"),
        ("DROP VIEW reasons", "lacks what each journal has: view reasons"),
        ("DELETE FROM schema", "has schema of no version"),
        ("INSERT INTO schema SELECT * FROM schema", "has schema 1 and 1"),
        ("DELETE FROM backup", "key of the register of consents cannot be read"),
        ("INSERT INTO backup SELECT * FROM backup", "key of the register .* cannot be read"),
        ("UPDATE backup SET consents_key = x'00ff'", "no journal holds, in backup.consents_key"),
        ("ALTER TABLE actions ADD COLUMN more CHECK (0)", "what no journal has: table actions"),
        ("ALTER TABLE actions RENAME COLUMN at TO since", "what no journal has: table actions"),
        ("ALTER TABLE seen ADD COLUMN more AS (digest)", "what no journal has: table seen"),
        ("UPDATE events SET data = x'7b7d', kind = 1 + 1", "type .* holds, in events.data$"),
        (
            "UPDATE deliveries SET received_at = 'soon', body = 'text'",
            "in deliveries.received_at, deliveries.body",
        ),
    ],
)
def test_a_backup_that_is_sound_and_none_of_ours_is_refused(
    journal: Path, folder: Path, change: str, why: str
) -> None:
    """With what does not fit, and the journal is as it was."""
    file, before = folder / "backup.db", events_in(journal)
    back_up(journal, file, NOW)
    with closing(sqlite3.connect(file)) as copy, copy:
        copy.execute(change)
    with pytest.raises(CannotStart, match=why):
        restore_journal(journal, file, NOW)
    assert events_in(journal) == before
    assert [one.name for one in journal.parent.glob("*.restoring*")] == []


def test_a_backup_whose_view_is_another_is_refused(journal: Path, folder: Path) -> None:
    file = folder / "backup.db"
    back_up(journal, file, NOW)
    with closing(sqlite3.connect(file)) as copy:
        copy.execute("DROP VIEW reasons")
        copy.execute("CREATE VIEW reasons AS SELECT 1 AS place, data AS reason FROM events")
    with pytest.raises(CannotStart, match="view reasons"):
        restore_journal(journal, file, NOW)


async def test_what_is_left_of_an_emptied_journal_is_kept(journal: Path, folder: Path) -> None:
    """SQLite would delete its WAL; a start and a restore say what becomes of it."""
    back_up(journal, folder / "backup.db", NOW)
    wal = journal.with_name("journal.db-wal")
    for gone in (lambda: journal.write_bytes(b""), journal.unlink):
        wal.write_bytes(b"what was committed last")
        gone()
        with pytest.raises(CannotStart, match="is empty or gone") as refused:
            await SqliteDatabase(journal, lambda: NOW).own()
        assert "journal restore FILE" in str(refused.value.hint)
        assert wal.read_bytes() == b"what was committed last"
        done = restore_journal(journal, folder / "backup.db", NOW)
        assert done.set_aside == Path(f"{wal}.damaged-20261130T000000Z")
        assert done.set_aside.read_bytes() == b"what was committed last"
        assert (done.events, wal.exists()) == (2, False)
