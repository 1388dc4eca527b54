"""The daemon under a supervisor: what it says, when it is alive, and restarts behind a socket."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.end_to_end.daemon import PATIENCE_SECONDS, SMS_PATH, Daemon, sample_sms, signed_sms
from tests.end_to_end.load import Load, wait_until_delivered
from tests.end_to_end.providers import ALL_CHANNELS, WHATSAPP_PATH, posted_whatsapp
from tests.end_to_end.supervisor import NotifySocket, held_port, start_behind

pytestmark = pytest.mark.system

WATCHDOG_SECONDS = 2.0
# Blocks the event loop's thread, and no other, as long as a file exists.
BLOCKER = """
import os, pathlib, signal, time

def block(*_):
    while pathlib.Path(os.environ["TEST_BLOCK"]).exists():
        time.sleep(0.01)

signal.signal(signal.SIGUSR1, block)
"""


def test_it_says_what_it_does(stopped: Daemon, tmp_path: Path) -> None:
    """READY when it listens, RELOADING with the time and READY again, STOPPING at the end."""
    with NotifySocket(tmp_path) as notify:
        stopped.launch(environment=notify.environment())
        notify.wait_for("READY", "1")
        stopped.wait_until_started()
        assert stopped.sms().status == 200
        before = time.monotonic_ns() // 1000
        stopped.reload()
        said = notify.wait_for("RELOADING", "1")
        assert before < int(said["MONOTONIC_USEC"]) < time.monotonic_ns() // 1000
        notify.wait_for("READY", "1", count=2)
        assert stopped.stop() == 0
        assert notify.names() == ["READY", "RELOADING", "READY", "STOPPING"]


def test_a_refused_reload_ends_too(stopped: Daemon, tmp_path: Path) -> None:
    """After a bad file systemd does not wait for READY in vain."""
    with NotifySocket(tmp_path) as notify:
        stopped.start(environment=notify.environment())
        stopped.config.write_text("no = such = thing")
        stopped.send_signal(signal.SIGHUP)
        stopped.wait_for("config.refused")
        notify.wait_for("READY", "1", count=2)
        assert stopped.sms().status == 200
        assert notify.names() == ["READY", "RELOADING", "READY"]


def test_the_status_line_shows_depth_and_age_or_degraded(stopped: Daemon, tmp_path: Path) -> None:
    """What `systemctl status` shows is what an operator wants to know first."""
    (stopped.agents / "hold").touch()
    journal = stopped.folder / "state" / "journal.db"
    with NotifySocket(tmp_path) as notify:
        stopped.start(environment=notify.environment())
        notify.wait_for("STATUS", "0 entries open")
        for _ in range(3):
            stopped.sms()
        said = notify.wait_for("STATUS", lambda status: status.startswith("3 entries open, oldest"))
        assert said["STATUS"].endswith(" s")
        journal.rename(journal.with_name("elsewhere"))
        notify.wait_for("STATUS", lambda status: status.startswith("degraded: "))
        journal.with_name("elsewhere").rename(journal)
        notify.wait_for("STATUS", lambda status: status.startswith("3 entries open"), count=2)


def test_a_blocked_event_loop_starves_the_watchdog(stopped: Daemon, tmp_path: Path) -> None:
    """Signs of life stop with the loop although threads go on."""
    block = tmp_path / "block"
    (stopped.folder / "sitecustomize.py").write_text(BLOCKER)
    paths = {"PYTHONPATH": str(stopped.folder), "TEST_BLOCK": str(block)}
    with NotifySocket(tmp_path) as notify:
        stopped.start(environment=notify.environment(WATCHDOG_SECONDS) | paths)
        notify.wait_for("WATCHDOG", "1", count=3)
        block.touch()
        stopped.send_signal(signal.SIGUSR1)
        notify.wait_until_silent("WATCHDOG", 1.5 * WATCHDOG_SECONDS)
        block.unlink()
        notify.wait_for("WATCHDOG", "1", since=time.monotonic())


def test_a_stopped_process_starves_the_watchdog(stopped: Daemon, tmp_path: Path) -> None:
    with NotifySocket(tmp_path) as notify:
        stopped.start(environment=notify.environment(WATCHDOG_SECONDS))
        notify.wait_for("WATCHDOG", "1", count=2)
        stopped.send_signal(signal.SIGSTOP)
        notify.wait_until_silent("WATCHDOG", 1.5 * WATCHDOG_SECONDS)
        stopped.send_signal(signal.SIGCONT)
        notify.wait_for("WATCHDOG", "1", since=time.monotonic())
        assert stopped.sms().status == 200


def test_a_journal_that_went_away_does_not_starve_the_watchdog(
    stopped: Daemon, tmp_path: Path
) -> None:
    """An outage is no reason to be killed: 503, signs of life, and recovery by itself."""
    journal = stopped.folder / "state" / "journal.db"
    with NotifySocket(tmp_path) as notify:
        stopped.start(environment=notify.environment(WATCHDOG_SECONDS))
        journal.rename(journal.with_name("elsewhere"))
        stopped.wait_for("journal.degraded")
        assert stopped.sms().status == 503
        notify.wait_for("WATCHDOG", "1", count=8, since=time.monotonic())
        journal.with_name("elsewhere").rename(journal)
        stopped.wait_for("journal.recovered")
        assert stopped.sms().status == 200


def test_a_database_that_never_answers_does_not_starve_the_watchdog(tmp_path: Path) -> None:
    """Connections are taken and nothing is said on them: the worst a database can do."""
    with socket.create_server(("127.0.0.1", 0)) as silent, NotifySocket(tmp_path) as notify:
        port = silent.getsockname()[1]
        url = f"postgresql://berinia@127.0.0.1:{port}/berinia"
        daemon = Daemon(tmp_path, f'journal.url = "{url}"')
        try:
            daemon.start(environment=notify.environment(WATCHDOG_SECONDS))
            notify.wait_for("WATCHDOG", "1", count=8)
            assert daemon.sms().status == 503
            assert daemon.stop() == 0
        finally:
            daemon.close()


def test_a_supervisor_that_is_gone_is_no_reason_to_fail(stopped: Daemon, tmp_path: Path) -> None:
    """A notify socket that nobody reads costs warnings at most."""
    stopped.start(
        environment={"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "200000"}
    )
    stopped.wait_for("server.supervisor_unreachable")
    assert stopped.sms().status == 200
    assert stopped.stop() == 0


def test_restarts_behind_the_held_socket_refuse_and_lose_nothing(stopped: Daemon) -> None:
    """Under constant load every request gets its 2xx, and every message reaches the agent."""
    with held_port() as held:
        start_behind(held, stopped)
        with Load(stopped) as load:
            for _ in range(5):
                load.wait_for_more(40)
                stopped.wait_for("server.started")
                assert stopped.stop() == 0
                start_behind(held, stopped)
            load.wait_for_more(40)
        assert (load.refused, load.failed) == ({}, {})
        wait_until_delivered(stopped, load.accepted)


def test_a_crash_behind_the_held_socket_loses_nothing_that_was_answered(stopped: Daemon) -> None:
    """`kill -9` under load: who was not answered may be cut off; what was answered arrives."""
    with held_port() as held:
        start_behind(held, stopped)
        with Load(stopped) as load:
            load.wait_for_more(40)
            stopped.wait_for("server.started")
            stopped.kill()
            start_behind(held, stopped)
            load.wait_for_more(40)
        assert load.refused == {}
        assert not [reason for reason in load.failed.values() if "refused" in reason]
        wait_until_delivered(stopped, load.accepted)


def test_systemds_own_socket_activation(stopped: Daemon) -> None:
    """The first caller starts the daemon, waits in the backlog and is answered."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    activate = shutil.which("systemd-socket-activate")
    assert activate is not None
    kept = [f"--setenv={name}" for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY")]
    stopped.port = port
    stopped.launch(
        *("--port", str(port)),
        launcher=[activate, *kept, f"--listen=127.0.0.1:{port}"],
    )
    stopped.wait_for("not json", text=f"Listening on 127.0.0.1:{port} as 3.\n")
    assert stopped.sms().status == 200
    stopped.wait_for("attempt.succeeded")
    assert not [line for line in stopped.lines if line["event"] == "server.sockets_differ"]
    assert stopped.stop() == 0


def test_a_socket_unit_holds_the_bots_own_listener_too(stopped: Daemon) -> None:
    """Each serves what is its own, and both outlive a restart."""
    with held_port() as held, held_port() as own:
        address = f"127.0.0.1:{own.getsockname()[1]}"
        listen = f'channels.whatsapp.listen = "{address}"\n{ALL_CHANNELS}'
        stopped.config.write_text(stopped.config.read_text() + listen)
        for _ in range(2):
            start_behind(held, stopped, own)
            stopped.wait_for("server.started", address=f"127.0.0.1:{stopped.port}")
            assert stopped.sms().status == 200
            assert stopped.request("POST", WHATSAPP_PATH, *posted_whatsapp()).status == 404
            assert status_at(own, "POST", WHATSAPP_PATH, *posted_whatsapp()) == 200
            assert status_at(own, "POST", SMS_PATH, *signed_sms(sample_sms())) == 404
            assert status_at(own, "GET", "/metrics") == 404
            assert not [line for line in stopped.lines if line["event"] == "server.sockets_differ"]
            assert stopped.stop() == 0


def status_at(
    listener: socket.socket,
    method: str,
    target: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = {},
) -> int:
    """The status of a request on another listener than the daemon's first."""
    host, port = listener.getsockname()
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, target, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


def test_an_inherited_socket_wins_and_a_difference_is_said(stopped: Daemon) -> None:
    """The socket of systemd is served whatever the settings say, with a warning that names both."""
    with held_port() as held:
        start_behind(held, stopped, flags=("--port", "1"))
        assert stopped.sms().status == 200
        said = stopped.wait_for("server.sockets_differ", configured="127.0.0.1:1")
        assert said["inherited"] == [f"127.0.0.1:{stopped.port}"]


def test_a_descriptor_that_is_no_listening_socket_is_exit_3(stopped: Daemon) -> None:
    """A wrong socket unit does not mend itself: no traceback, and the lines to change."""
    wrong, other = socket.socketpair()
    with wrong, other:
        start_behind(wrong, stopped, flags=("--port", "1"))
        assert stopped.wait_until_ended() == 3
    said = "".join(line.get("text", "") for line in stopped.lines)
    assert "berinia-webhook.socket" in said
    assert "Traceback" not in said
