"""Guards of a running daemon: what they hold, what an operator sees of it, what a crash leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .cluster import wait_until_equal
from .daemon import PUBLIC_URL, SMS_PATH, TOKEN, Daemon, sample_sms, signed_sms

# Answers every SMS with another one of the same person, as two autoresponders do.
AUTORESPONDER = f"""
import http.client, json, pathlib, urllib.parse

from twilio.request_validator import RequestValidator

HERE = pathlib.Path(__file__).parent


class Recorder:
    def run(self, input_data):
        with (HERE / "seen.jsonl").open("a") as seen:
            seen.write(json.dumps(input_data) + "\\n")
        fields = dict(input_data["data"]["raw_data"])
        number = int(fields["MessageSid"][2:], 16) + 1
        fields |= {{"MessageSid": f"SM{{number:032x}}", "Body": f"Absent ({{number}})"}}
        signature = RequestValidator("{TOKEN}").compute_signature("{PUBLIC_URL}{SMS_PATH}", fields)
        connection = http.client.HTTPConnection("127.0.0.1", int((HERE / "port").read_text()))
        headers = {{
            "X-Twilio-Signature": signature,
            "Content-Type": "application/x-www-form-urlencoded",
        }}
        connection.request("POST", "{SMS_PATH}", urllib.parse.urlencode(fields), headers)
        assert connection.getresponse().status == 200
"""

# Fails while a file named `broken` is there, and says what it cost otherwise.
FRAGILE = """
import json, pathlib

HERE = pathlib.Path(__file__).parent


class Recorder:
    def run(self, input_data):
        with (HERE / "seen.jsonl").open("a") as seen:
            seen.write(json.dumps(input_data) + "\\n")
        if (HERE / "broken").exists():
            raise RuntimeError("no CRM")
        return {"status": "success", "cost": 2.5}
"""
NO_RETRY = "agents.ResponseListenerAgent.retry_on = []"
BUDGETS = """
agents.ResponseListenerAgent.per_sender = ["2/h"]
agents.ResponseListenerAgent.daily_cost = 10
"""


class Guarded(Daemon):
    """A daemon that looks for loops, as it does unless it is told otherwise."""

    loop_guard = True

    def send(self, text: str, sender: str = "+33639980001") -> None:
        body, headers = signed_sms(sample_sms(From=sender, Body=text))
        assert self.request("POST", SMS_PATH, body, headers).status == 200

    def ready(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.run("events", "list", "--state", "ready", "--json").stdout
        )
        return found

    def shown(self, id_: str) -> str:
        return self.run("events", "show", id_).stdout

    def listed(self, *options: str) -> str:
        return self.run("events", "list", *options, environment={"COLUMNS": "200"}).stdout


Start = Callable[..., Guarded]


@pytest.fixture
def start(tmp_path: Path, journal: str) -> Iterator[Start]:
    """Starts a daemon with an agent, and an alert command that notes what it is told."""
    with ExitStack() as stack:

        def begin(agent: str, settings: str = "") -> Guarded:
            alert = f"alerts.command = \"sh -c 'cat >> {tmp_path / 'alerts'}'\""
            daemon = Guarded(tmp_path, f"{journal}\n{alert}\n{settings}", agent=agent)
            stack.callback(daemon.close)
            return daemon

        yield begin


def alerts(daemon: Daemon) -> str:
    file = daemon.folder / "alerts"
    return file.read_text() if file.exists() else ""


def test_two_autoresponders_stop_within_ten_turns(start: Start) -> None:
    """Their conversation is held with the reason, and alerted; nothing of it is lost."""
    daemon = start(AUTORESPONDER)
    daemon.start()
    (daemon.agents / "port").write_text(str(daemon.port))
    daemon.send("Bonjour")
    held = daemon.wait_for("conversation.held")
    assert held["reason"] == "loop"
    assert len(daemon.seen()) == 10
    (waiting,) = daemon.ready()
    assert "held: loop: each of the last 10 messages" in daemon.shown(waiting["id"])
    assert "    loop: each of the last 10 messages" in daemon.listed()
    assert "conversations held, loop: 1" in daemon.run("events", "stats").stdout
    wait_until_equal(lambda: "conversation_held" in alerts(daemon), True)
    page = daemon.request("GET", "/metrics").body.decode()
    assert 'berinia_webhookd_held_conversations{reason="loop"} 1.0' in page


def test_an_agent_that_fails_is_spared_also_after_kill_9(start: Start) -> None:
    """Five failures, then one try at a time; what waits is told why, and flows once it works."""
    daemon = start(FRAGILE, NO_RETRY)
    daemon.start()
    (daemon.agents / "broken").touch()
    for number in range(3):
        daemon.send(f"first {number}", sender=f"+3363998{number:04d}")
    assert not daemon.wait_for("agent.failing", failures=3)["one_at_a_time"]
    for number in range(3, 5):  # all five might fail at one moment, and be told of once
        daemon.send(f"first {number}", sender=f"+3363998{number:04d}")
    assert daemon.wait_for("agent.failing", failures=5)["one_at_a_time"]
    looked = daemon.run("doctor", "--problems", check=False, environment={"COLUMNS": "200"})
    assert "ResponseListenerAgent failed on its last 5 attempts" in looked.stdout
    assert looked.returncode == 1
    assert "recorder.py:" in daemon.listed("--state", "dead")
    daemon.kill()
    daemon.start()
    for number in range(20):
        daemon.send(f"then {number}", sender=f"+336399801{number:02d}")
    newest, *_ = daemon.ready()
    assert "held: breaker: it failed on its last" in daemon.shown(newest["id"])
    assert "    breaker: it failed on its last" in daemon.listed()
    assert len(daemon.seen()) < 15
    wait_until_equal(lambda: "agent_failing" in alerts(daemon), True)
    (daemon.agents / "broken").unlink()
    daemon.wait_for("agent.recovered")
    wait_until_equal(daemon.ready, [])


def test_a_person_and_a_day_have_their_budgets(start: Start) -> None:
    """What is over them waits; the others' messages do not."""
    daemon = start(FRAGILE, BUDGETS)
    daemon.start()
    for number in range(3):
        daemon.send(f"message {number}")
    assert daemon.wait_for("conversation.held", reason="budget")["seconds"] > 3000
    for number in range(3):
        daemon.send(f"message {number}", sender=f"+336399802{number:02d}")
        if number < 2:  # what runs at the same time costs nothing yet
            daemon.wait_for("attempt.succeeded", count=3 + number)
    daemon.wait_for("conversation.held", channel=None)
    assert len(daemon.seen()) == 4
    held = {line for one in daemon.ready() for line in daemon.shown(one["id"]).splitlines()}
    assert any("held: budget: ResponseListenerAgent ran for this person" in one for one in held)
    assert any("held: budget: its results of today cost 10" in one for one in held)
    assert "    budget: ResponseListenerAgent ran for this person" in daemon.listed()
    assert "    budget: its results of today cost 10" in daemon.listed()
