"""Starting, not starting, and saying why."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sqlite3

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
        owner = f"process {stopped.process.pid} "
        asyncio.run(until(lambda: owner in journal.with_name("journal.db.lock").read_text()))
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
