"""`journal backup` beside a running daemon, and `journal restore` of what it wrote."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

from ..full_disk import small_disk
from ..postgresql import Postgresql
from .daemon import Daemon, sample_sms
from .load import Load

MIB = 1024 * 1024
ANNA = "+33639980011"
WHILE_IT_RUNS = 500  # messages


def state_of(daemon: Daemon) -> Path:
    return daemon.folder / "state"


def messages_in(daemon: Daemon) -> Counter[str]:
    """How often each message stands in the journal, which nobody has open."""
    with closing(sqlite3.connect(state_of(daemon) / "journal.db")) as journal:
        rows = journal.execute("SELECT data FROM events WHERE data IS NOT NULL").fetchall()
    return Counter(json.loads(data)["message_id"] for (data,) in rows)


def back_up_under_load(daemon: Daemon, file: Path) -> tuple[Load, set[str]]:
    """Back up again and again, until enough messages came in meanwhile; returns those that were
    acknowledged before the last backup began.
    """
    with Load(daemon) as load:
        load.wait_for_more(50)
        first = len(load.accepted)
        while True:
            before = load.accepted
            daemon.run("journal", "backup", str(file))
            if len(load.accepted) >= first + WHILE_IT_RUNS:
                break
            file.unlink()
    assert (load.refused, load.failed) == ({}, {})
    return load, before


def test_nothing_is_restored_beside_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    """Another journal.url, the way out for a second `serve`, is none here."""
    daemon.run("journal", "backup", str(tmp_path / "backup.db"))
    done = daemon.run("journal", "restore", str(tmp_path / "backup.db"), check=False)
    assert done.returncode == 4
    assert "stop it first, and the socket" in done.stderr
    assert "journal.url" not in done.stderr


def test_nothing_acknowledged_before_a_backup_is_lost(stopped: Daemon, tmp_path: Path) -> None:
    """The machine is gone with its folder: the one file brings messages and opt-outs back, and what
    was in it is no new message.
    """
    daemon = stopped.start("--no-dispatch")
    daemon.sms(From=ANNA, Body="STOP")
    daemon.run("events", "erase", "--sender", ANNA)
    file = tmp_path / "kept" / "backup.db"
    file.parent.mkdir()
    _, before = back_up_under_load(daemon, file)
    daemon.kill()
    key = (state_of(daemon) / "consents.key").read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    shutil.rmtree(state_of(daemon))

    done = daemon.run("journal", "restore", str(file))
    assert f"consents.key is back: {state_of(daemon)}/consents.key" in done.stdout
    kept = messages_in(daemon)
    assert before <= kept.keys()
    assert set(kept.values()) == {1}
    put = state_of(daemon) / "consents.key"
    assert (put.read_text(), put.stat().st_mode & 0o777) == (key, 0o600)
    assert key.strip().encode() not in (state_of(daemon) / "journal.db").read_bytes()
    daemon.start()
    assert daemon.run("consents", "check", ANNA, check=False).returncode == 1
    known = sorted(before)[0]
    assert daemon.sms(sample_sms(MessageSid=known)).status == 200
    daemon.wait_until_seen(len(kept))
    assert daemon.stop() == 0
    assert Counter(one["data"]["message_sid"] for one in daemon.seen()) == kept
    assert file.exists()


def test_nothing_after_a_backup_is_lost_or_doubled(stopped: Daemon) -> None:
    """Where the journal is still there; and who was erased since stays erased."""
    daemon = stopped.start("--no-dispatch")
    daemon.sms(From=ANNA, Body="Only-Anna-said-this")
    file = daemon.folder / "backup.db"
    load, _ = back_up_under_load(daemon, file)
    assert b"Only-Anna-said-this" in file.read_bytes()
    daemon.run("events", "erase", "--sender", ANNA)
    later = sample_sms()
    assert daemon.sms(later).status == 200
    daemon.kill()
    done = daemon.run("journal", "restore", str(file))
    assert "1 event that was erased there is erased" in done.stdout
    assert "consents.key" not in done.stdout
    assert messages_in(daemon) == Counter([*load.accepted, later["MessageSid"]])
    assert b"Only-Anna-said-this" not in (state_of(daemon) / "journal.db").read_bytes()
    with closing(sqlite3.connect(state_of(daemon) / "journal.db")) as journal:
        (gone,) = journal.execute("SELECT count(*) FROM deliveries WHERE body IS NULL").fetchone()
    assert gone == 1, "only hers"
    assert daemon.start("--no-dispatch").sms(later).status == 200
    daemon.kill()
    assert set(messages_in(daemon).values()) == {1}


def test_a_key_is_never_put_over_another(daemon: Daemon) -> None:
    """It is refused by name, and nothing changes; without the other one the backup's is put back,
    unless the present journal has digests of that.
    """
    file, key = daemon.folder / "backup.db", state_of(daemon) / "consents.key"
    daemon.sms(From=ANNA, Body="STOP")
    daemon.run("journal", "backup", str(file))
    daemon.run("events", "erase", "--sender", ANNA)
    daemon.stop()
    own = key.read_text()
    key.write_text("0" * 64 + "\n")
    refused = daemon.run("journal", "restore", str(file), check=False)
    assert (refused.returncode, key.read_text()) == (3, "0" * 64 + "\n")
    assert "another consents.key" in refused.stderr
    with closing(sqlite3.connect(state_of(daemon) / "journal.db")) as journal:
        journal.execute("UPDATE consents SET erased_by = 'another' WHERE erased_by IS NOT NULL")
        journal.commit()
    key.unlink()
    unfit = daemon.run("journal", "restore", str(file), check=False)
    assert (unfit.returncode, key.exists()) == (3, False)
    assert "opt-outs of erased people" in unfit.stderr
    (state_of(daemon) / "journal.db").unlink()
    daemon.run("journal", "restore", str(file))
    assert key.read_text() == own


def test_where_there_is_no_room(daemon: Daemon, tmp_path: Path) -> None:
    """It is said, and how much it takes; nothing is left, and the daemon goes on."""
    daemon.sms()
    with small_disk(tmp_path / "small", MIB) as disk:
        file = disk.folder / "backup.db"
        done = daemon.run("journal", "backup", str(file), check=False)
        assert done.returncode == 1
        assert f"make room: df -h {disk.folder}" in done.stderr
        assert list(disk.folder.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
        read_only = daemon.run("journal", "backup", str(file), check=False)
        assert read_only.returncode == 1
        assert str(file) in read_only.stderr
    assert daemon.sms().status == 200


def test_another_file_system(daemon: Daemon, tmp_path: Path) -> None:
    """Also through a symbolic link to its folder; it can be restored from there."""
    daemon.sms()
    with small_disk(tmp_path / "other", 200 * MIB) as disk:
        (tmp_path / "link").symlink_to(disk.folder)
        done = daemon.run("journal", "backup", str(tmp_path / "link" / "backup.db"))
        assert "1 event, " in done.stdout
        assert "with consents.key; checked" in done.stdout
        assert [file.name for file in disk.folder.iterdir()] == ["backup.db"]
        daemon.stop()
        restored = daemon.run("journal", "restore", str(disk.folder / "backup.db"))
        assert restored.stdout.startswith("1 event, 0 of them")


def test_on_postgresql_its_own_program_makes_it(tmp_path: Path, postgresql: Postgresql) -> None:
    """The line to paste is printed, without the password, and works; so does what is made by it."""
    first, second = (asyncio.run(postgresql.new_database()) for _ in range(2))
    url = postgresql.url(first, password="geheim")
    daemon, file = Daemon(tmp_path, f'journal.url = "{url}"'), tmp_path / "it's a backup"
    with closing(daemon):
        assert daemon.start("--no-dispatch").sms(Body="kept").status == 200
        done = daemon.run("journal", "backup", str(file), check=False)
        assert (done.returncode, "geheim" in done.stderr) == (2, False)
        assert "Keep consents.key" in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "pg_dump" in line]
        path = {"PATH": f"{postgresql.programs}:{os.environ['PATH']}"}
        subprocess.run(line, shell=True, check=True, env={**os.environ, **path})
        assert file.stat().st_mode & 0o077 == 0
        restore = str(postgresql.programs / "pg_restore")
        subprocess.run([restore, f"--dbname={postgresql.url(second)}", file], check=True)
        daemon.stop()
        daemon.config.write_text(daemon.config.read_text().replace(f"/{first}?", f"/{second}?"))
        assert "kept" in daemon.start("--no-dispatch").run("events", "list").stdout
