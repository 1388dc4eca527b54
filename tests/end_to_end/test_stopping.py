"""Stopping: who is being answered is answered, what was accepted is kept, attempts have a grace."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..outbound.agent_world import until
from .daemon import PATIENCE_SECONDS, SMS_PATH, Daemon, sample_sms, signed_sms
from .load import Load, wait_until_delivered

# Hears out its callers when it stops, however late a busy machine lets them speak.
PATIENT = "from berinia_webhookd import app, cli; app.FINISH_SECONDS = 60.0; cli.main()"


class PatientDaemon(Daemon):
    """One that has time for those who have just come."""

    def command(self, *words: str) -> list[str]:
        command = super().command(*words)
        if "serve" in words:
            command[1:3] = ["-c", PATIENT]
        return command


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Daemon]:
    """A running daemon that takes its time to stop."""
    with contextlib.closing(PatientDaemon(tmp_path)) as daemon:
        yield daemon.start()


def connected(daemon: Daemon) -> http.client.HTTPConnection:
    """A connection that the daemon has taken, with nothing sent on it yet."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE_SECONDS)
    connection.connect()
    assert daemon.request("GET", "/").status == 200  # it came later, and was taken
    return connection


def test_stopping_under_load_loses_nothing(daemon: Daemon) -> None:
    """SIGTERM is exit 0, and every message that was answered 2xx reaches the agent."""
    with Load(daemon) as load:
        load.wait_for_more(50)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait_for("server.stopped")
    assert daemon.wait_until_ended() == 0
    assert load.refused == {}
    daemon.start()
    wait_until_delivered(daemon, load.accepted)


def test_who_has_just_connected_is_heard_out(patient: Daemon) -> None:
    """A request on its way when the daemon stops gets its answer; the message is kept."""
    connection = connected(patient)
    patient.send_signal(signal.SIGTERM)
    patient.wait_for("server.stopping")
    fields = sample_sms()
    body, headers = signed_sms(fields)
    connection.request("POST", SMS_PATH, body, headers)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    connection.close()
    assert patient.wait_until_ended() == 0
    patient.start()
    wait_until_delivered(patient, {fields["MessageSid"]})


def test_a_body_on_its_way_is_read_to_its_end(patient: Daemon) -> None:
    """Stopping in the middle of a body does not cut it off."""
    connection = connected(patient)
    body, headers = signed_sms(sample_sms())
    connection.putrequest("POST", SMS_PATH)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body[:20])
    assert patient.request("GET", "/").status == 200
    patient.send_signal(signal.SIGTERM)
    patient.wait_for("server.stopping")
    connection.send(body[20:])
    assert connection.getresponse().status == 200
    connection.close()
    assert patient.wait_until_ended() == 0


def test_a_silent_caller_does_not_hold_up_the_end(daemon: Daemon) -> None:
    """Whoever connects and says nothing is closed, and the exit is clean all the same."""
    connection = connected(daemon)
    assert daemon.stop() == 0
    assert connection.sock.recv(1) == b""
    connection.close()


def test_attempts_under_way_have_their_grace(daemon: Daemon) -> None:
    """No new attempt begins, the one under way ends well, and messages are received meanwhile."""
    hold = daemon.agents / "hold"
    hold.touch()
    daemon.sms(Body="under way")
    daemon.wait_until_seen(1)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait_for("server.stopping", running=1)
    assert daemon.sms(Body="came meanwhile", From="+33639980077").status == 200
    hold.unlink()
    daemon.wait_for("attempt.succeeded")
    assert daemon.wait_until_ended() == 0
    assert [payload["data"]["body"] for payload in daemon.seen()] == ["under way"]
    daemon.start()
    seen = daemon.wait_until_seen(2)
    assert [payload["data"]["body"] for payload in seen] == ["under way", "came meanwhile"]


def test_what_outlasts_the_grace_is_given_back(tmp_path: Path) -> None:
    """It is killed, costs nothing of its schedule, and comes first at the next start."""
    daemon = Daemon(tmp_path, "server.shutdown_grace_seconds = 0.1")
    hold = daemon.agents / "hold"
    hold.touch()
    try:
        daemon.start()
        daemon.sms(Body="first")
        daemon.wait_until_seen(1)
        daemon.sms(Body="second")
        assert daemon.stop() == 0
        hold.unlink()
        daemon.start()
        seen = daemon.wait_until_seen(3)
        assert [payload["data"]["body"] for payload in seen] == ["first", "first", "second"]
        assert [payload["attempt"] for payload in seen] == [1, 1, 1]
    finally:
        daemon.close()


def test_a_waiting_bot_is_answered_at_once(tmp_path: Path) -> None:
    """A WhatsApp request that waits for a reply gets its 202 when the daemon stops."""
    daemon = Daemon(tmp_path, 'agents.MetaAgent.target = "python:recorder:Recorder"')
    hold = daemon.agents / "hold"
    hold.touch()
    try:
        daemon.start()
        connection = connected(daemon)
        message = {"source": "whatsapp", "type": "direct", "author": "33639980001@c.us"}
        message |= {"content": "?", "timestamp": "2026-11-24T09:30:00Z", "messageId": "3EB0"}
        connection.request(
            *("POST", "/webhook/whatsapp", json.dumps(message)),
            {"Content-Type": "application/json", "Host": f"127.0.0.1:{daemon.port}"},
        )
        daemon.wait_until_seen(1)
        daemon.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["status"]) == (202, "accepted")
        hold.unlink()
        assert daemon.wait_until_ended() == 0
        connection.close()
    finally:
        daemon.close()


# Starts the program that it is given with a SIGTERM that has come already.
TERMINATED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_signal_in_the_first_moment_ends_it_in_order(stopped: Daemon) -> None:
    """Nothing was begun: exit 0, and nothing to say."""
    stopped.launch(launcher=[sys.executable, "-c", TERMINATED])
    assert stopped.wait_until_ended() == 0
    assert stopped.lines == []


def test_a_signal_while_starting_ends_it_in_order(stopped: Daemon) -> None:
    """What was opened so far is closed again; another one can start."""
    stopped.start()
    stopped.stop()
    journal = stopped.folder / "state" / "journal.db"
    with contextlib.closing(sqlite3.connect(journal)) as other:
        other.execute("BEGIN IMMEDIATE")
        stopped.launch()
        assert stopped.process is not None
        asyncio.run(until(lambda: has_open(stopped.process, journal)))
        stopped.send_signal(signal.SIGTERM)
        assert stopped.wait_until_ended() == 0
    assert stopped.lines == []
    stopped.start()


def has_open(process: subprocess.Popen[bytes] | None, file: Path) -> bool:
    assert process is not None
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if link.readlink() == file:
                return True
    return False


def test_an_agent_that_is_being_loaded_is_not_blamed(tmp_path: Path) -> None:
    """Its host ends because the daemon does, and not because it does not load."""
    endless = "import time\nwhile True: time.sleep(0.01)\n"
    with contextlib.closing(Daemon(tmp_path, agent=endless)) as daemon:
        daemon.start()
        daemon.wait_for("agent_host.started")
        assert daemon.stop() == 0
        blamed = {line["agent"] for line in daemon.lines if line["event"] == "agent.unavailable"}
        assert blamed == {"MetaAgent", "AdminInterpreterAgent"}  # which have no target
