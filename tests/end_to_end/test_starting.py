"""Starting, not starting, and saying why."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess

from berinia_webhookd.journal.lock import LOCKS

from ..full_disk import mounted
from ..outbound.agent_world import until
from .daemon import TOKEN, Daemon, sample_sms, signed_sms


def test_without_a_token_nothing_is_accepted(stopped: Daemon) -> None:
    """No secret, no proof: 503 with a hint for the operator, never an open door."""
    without = stopped.config.read_text().replace(f'channels.sms.tokens = ["{TOKEN}"]', "")
    stopped.config.write_text(without)
    stopped.start()
    answer = stopped.post_sms(*signed_sms(sample_sms()))
    assert answer.status == 503
    assert "Retry-After" in answer.headers
    checked = stopped.run("check-config", "--offline", check=False)
    assert "channels.sms.tokens" in checked.stdout


def test_a_wrong_setting_is_exit_3_with_a_hint(stopped: Daemon) -> None:
    """One clear line on stderr that names the setting and the nearest known one."""
    stopped.config.write_text('server.prot = 8001\nchannels.sms.tokens = ["secret-token-value"]\n')
    done = stopped.run("serve", "--port", "0", check=False)
    assert done.returncode == 3
    assert "server.prot" in done.stderr
    assert "server.port" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret-token-value" not in done.stderr + done.stdout


def test_a_settings_file_cannot_steer_the_terminal(stopped: Daemon) -> None:
    """What is wrong in it is quoted, and not obeyed."""
    stopped.config.write_text('"\\u202e\\u0007bell" = 1\n"\\u009b2J" = 1\n')
    done = stopped.run("serve", "--port", "0", check=False)
    assert done.returncode == 3
    assert "\\u202e\\x07bell: unknown setting" in done.stderr
    assert "\\x9b2J: unknown setting" in done.stderr


def test_a_taken_port_is_exit_4(stopped: Daemon) -> None:
    """A port that somebody holds may be free later: another exit code, naming the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = stopped.run("serve", "--port", str(port), check=False)
    assert done.returncode == 4
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_held_journal_is_exit_4(daemon: Daemon) -> None:
    """One `serve` owns the SQLite file; the second is told who."""
    assert daemon.process is not None
    done = daemon.run("serve", "--port", "0", check=False)
    assert done.returncode == 4
    assert str(daemon.process.pid) in done.stderr
    assert "Traceback" not in done.stderr


def serve_on(daemon: Daemon, journal: Path) -> CompletedProcess[str]:
    """A second `serve` that reaches a journal by another name."""
    with closing(Daemon(daemon.folder / "second", f'journal.url = "sqlite:///{journal}"')) as other:
        return other.run("serve", "--port", "0", check=False)


def test_a_held_journal_is_held_by_whatever_name(daemon: Daemon) -> None:
    """The lock lies on the file itself; the first `serve` goes on as if nothing had been."""
    assert daemon.process is not None
    journal = daemon.folder / "state" / "journal.db"
    link, folder, mount = (daemon.folder / name for name in ("link.db", "linked", "mounted"))
    link.symlink_to(journal)
    folder.symlink_to(journal.parent)
    with mounted(journal.parent, mount):
        for name in (link, folder / "journal.db", mount / "journal.db"):
            done = serve_on(daemon, name)
            assert done.returncode == 4, done.stderr
            assert f"held by process {daemon.process.pid}" in done.stderr
    assert daemon.sms().status == 200


def test_a_journal_with_two_names_is_exit_3(daemon: Daemon) -> None:
    """By a hard link both would run, each with a WAL of its own: refused under either name, with
    the command that finds them; so is every command that would read or write it.
    """
    journal, other = daemon.folder / "state" / "journal.db", daemon.folder / "other.db"
    assert daemon.sms().status == 200
    daemon.wait_for("attempt.succeeded")
    other.hardlink_to(journal)
    done = serve_on(daemon, other)
    assert (done.returncode, f"{other} has 2 names" in done.stderr) == (3, True), done.stderr
    assert f"-inum {journal.stat().st_ino}" in done.stderr
    assert daemon.run("events", "list", check=False).returncode == 3
    daemon.stop()
    assert daemon.run("serve", "--port", "0", check=False).returncode == 3
    other.unlink()
    daemon.start()
    assert daemon.sms().status == 200


def test_a_journal_that_is_mounted_by_itself_is_exit_3(stopped: Daemon) -> None:
    """Its WAL would lie in another folder than the file's own."""
    stopped.start()
    stopped.stop()
    elsewhere = stopped.folder / "elsewhere" / "journal.db"
    elsewhere.parent.mkdir()
    with mounted(stopped.folder / "state" / "journal.db", elsewhere):
        done = serve_on(stopped, elsewhere)
    assert (done.returncode, "mounted into its folder" in done.stderr) == (3, True), done.stderr


def test_a_journal_that_somebody_writes_to_is_exit_4(daemon: Daemon) -> None:
    """It may be free later, so that a supervisor tries again: not what a damaged file is."""
    daemon.stop()
    journal = daemon.folder / "state" / "journal.db"
    with contextlib.closing(sqlite3.connect(journal)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = daemon.run("serve", "--port", "0", check=False)
    assert done.returncode == 4
    assert "locked" in done.stderr
    for file in journal.parent.glob("journal.db*"):
        file.unlink()
    journal.write_bytes(b"no journal at all " * 100)
    done = daemon.run("serve", "--port", "0", check=False)
    assert done.returncode == 3
    assert "journal" in done.stderr


def test_a_place_where_no_other_command_finds_it_is_exit_3(stopped: Daemon) -> None:
    """`serve.json` has to be written; the line says where it cannot be."""
    stopped.launch(environment={"RUNTIME_DIRECTORY": str(stopped.config)})
    assert stopped.wait_until_ended() == 3
    last = stopped.lines[-1]["text"]
    assert str(stopped.config) in last
    assert "RUNTIME_DIRECTORY" in last
    assert not any("Traceback" in str(line) for line in stopped.lines)


def test_a_reload_that_is_asked_for_while_starting_comes_after_it(stopped: Daemon) -> None:
    """A signal that would end any other process: systemd takes that for an orderly end, and does
    not start it again.
    """
    stopped.start()
    stopped.stop()
    journal = stopped.folder / "state" / "journal.db"
    with contextlib.closing(sqlite3.connect(journal)) as other:
        other.execute("BEGIN IMMEDIATE")
        stopped.launch()
        assert stopped.process is not None
        pid, inode = stopped.process.pid, journal.stat().st_ino
        owner = re.compile(rf"FLOCK +ADVISORY +WRITE +{pid} [0-9a-f:]+:{inode} ")
        asyncio.run(until(lambda: owner.search(LOCKS.read_text()) is not None))
        stopped.send_signal(signal.SIGHUP)
    stopped.wait_until_started()
    stopped.wait_for("config.reloaded")


def test_sigterm_is_exit_0(daemon: Daemon) -> None:
    """An orderly end is a success and says so."""
    daemon.sms()
    daemon.wait_for("attempt.succeeded")
    assert daemon.stop() == 0
    assert [line["event"] for line in daemon.lines][-1] == "server.stopped"


def test_dev_refuses_to_listen_beyond_loopback(stopped: Daemon) -> None:
    """Throw-away secrets are for this machine alone."""
    done = stopped.run("serve", "--dev", "--host", "0.0.0.0", check=False)
    assert done.returncode in {2, 3}
    assert "loopback" in done.stderr
