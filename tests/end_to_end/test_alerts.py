"""Alerts of a real daemon, told to a command and a URL."""

from __future__ import annotations

import json
import resource
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .daemon import PATIENCE_SECONDS, SMS_PATH, TOKEN, Daemon, sample_sms, signed_sms

FAILING = """
class Recorder:
    def run(self, input_data):
        raise ValueError("cannot reach " + input_data["data"]["sender"])
"""


class Told:
    """Receives alerts by HTTP, one after the other."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        self.news = threading.Condition()
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with told.news:
                    told.alerts.append(json.loads(body))
                    told.news.notify_all()
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"

    def wait_for(self, kind: str) -> dict[str, Any]:
        """The alert of this kind; waits for it if need be."""

        def found() -> dict[str, Any] | None:
            return next((alert for alert in self.alerts if alert["kind"] == kind), None)

        with self.news:
            assert self.news.wait_for(found, PATIENCE_SECONDS), f"{kind} not in {self.alerts}"
            alert = found()
        assert alert is not None
        return alert

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.close()


HANGING = """
import time


class Recorder:
    def run(self, input_data):
        time.sleep(3600)
"""


def test_an_event_that_takes_the_daemon_down_is_told_of(tmp_path: Path, told: Told) -> None:
    """The daemon ends five times while an agent has it: it is dead, in the log and an alert."""
    daemon = Daemon(tmp_path, f'alerts.url = "{told.url}"', agent=HANGING)
    try:
        daemon.start()
        daemon.sms()
        for attempt in range(1, 6):
            event_id = daemon.wait_for("attempt.started", attempt=attempt)["event_id"]
            daemon.kill()
            daemon.start()
        assert daemon.wait_for("entry.dead", outcome="lost")["event_id"] == event_id
        alert = told.wait_for("entry_dead")
        assert alert["event_id"] == event_id
        assert "time and again" in alert["summary"]
    finally:
        daemon.close()


def test_whoever_is_responsible_is_told(tmp_path: Path, told: Told) -> None:
    """Of a dead entry, of Twilio's requests refused, of an agent that cannot be loaded: by the
    command and by the URL, at most once, without personal data.
    """
    said = tmp_path / "said.jsonl"
    append = (
        "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"
    )
    command = shlex.join([sys.executable, "-c", append, str(said)])
    daemon = Daemon(
        tmp_path,
        f"""
        alerts.url = "{told.url}"
        alerts.command = {json.dumps(command)}
        agents.MetaAgent.target = "python:nowhere:MetaAgent"
        agents.AdminInterpreterAgent.target = "python:nowhere:AdminInterpreterAgent"
        """,
        agent=FAILING,
    )
    try:
        daemon.start()
        unavailable = told.wait_for("agent_unavailable")
        assert "cannot be loaded, so its messages wait" in unavailable["summary"]
        fields = sample_sms()
        daemon.sms(fields)
        dead = daemon.wait_for("entry.dead")
        alert = told.wait_for("entry_dead")
        assert alert["event_id"] == dead["event_id"]
        assert alert["agent"] == "ResponseListenerAgent"
        body, headers = signed_sms(sample_sms(), token=TOKEN[::-1])
        assert daemon.request("POST", SMS_PATH, body, headers).status == 403
        assert "sms" in told.wait_for("signatures_refused")["summary"]
        for kind in ("agent_unavailable", "entry_dead", "signatures_refused"):
            daemon.wait_for("alert.sent", kind=kind, setting="alerts.command")
        daemon.sms()
        daemon.wait_for("entry.dead", count=2)
        assert daemon.stop() == 0
    finally:
        daemon.close()
    by_command = [json.loads(line) for line in said.read_text().splitlines()]
    in_order = sorted(by_command, key=lambda alert: str(alert["kind"]))
    assert in_order == sorted(told.alerts, key=lambda alert: str(alert["kind"]))
    assert [alert["kind"] for alert in in_order] == sorted({a["kind"] for a in in_order})
    assert fields["From"] not in said.read_text()
    assert fields["Body"] not in said.read_text()


def test_a_journal_that_cannot_be_written_is_told(tmp_path: Path, told: Told) -> None:
    """As long as nothing can be committed providers get 503, and somebody should know."""
    daemon = Daemon(tmp_path, f'alerts.url = "{told.url}"')
    try:
        daemon.start()
        assert daemon.process is not None
        unlimited = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        # As on a full disk: no file can grow.
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (1, unlimited[1]))
        assert daemon.sms().status == 503
        alert = told.wait_for("journal_degraded")
        assert alert["look"] == "berinia-webhookd doctor --problems"
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, unlimited)
        daemon.wait_for("journal.recovered")
    finally:
        daemon.close()
