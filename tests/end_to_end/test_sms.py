"""The way of an SMS: from a signed request on a real socket to the agent and the logs."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from .daemon import PUBLIC_URL, SMS_PATH, Answer, Daemon, sample_sms, signed_sms

TWIML = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'


def test_a_signed_sms_reaches_the_agent(daemon: Daemon) -> None:
    """Verified, committed, answered with TwiML, dispatched with BerinIA's payload, visible."""
    fields = sample_sms(Body="  Oui 🙂 merci ")
    answer = daemon.sms(fields)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/xml")
    assert answer.body == TWIML
    accepted = daemon.wait_for("event.accepted")
    daemon.wait_for("attempt.succeeded", event_id=accepted["event_id"])
    (payload,) = daemon.seen()
    assert payload["action"] == "process_sms_response"
    assert payload["data"]["sender"] == fields["From"]
    assert payload["data"]["recipient"] == fields["To"]
    assert payload["data"]["body"] == fields["Body"]
    assert payload["data"]["message_sid"] == fields["MessageSid"]
    assert payload["data"]["raw_data"] == fields
    assert payload["event_id"] == accepted["event_id"]
    assert payload["attempt"] == 1


def test_every_step_is_visible(daemon: Daemon) -> None:
    """The unified logs, `events list` and `events show` tell the same story."""
    daemon.sms(Body="Bonjour")
    event_id = daemon.wait_for("attempt.succeeded")["event_id"]
    shown = json.loads(daemon.run("events", "show", event_id, "--json").stdout)
    assert shown["state"] == "done"
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["success"]
    (listed,) = json.loads(daemon.run("events", "list", "--json").stdout)
    expected = {
        "id": event_id,
        "state": "done",
        "channel": "sms",
        "agent": "ResponseListenerAgent",
        "attempts": 1,
    }
    assert expected.items() <= listed.items()
    readable = daemon.run("events", "show", event_id).stdout
    assert "done" in readable
    assert "ResponseListenerAgent" in readable
    assert daemon.stop() == 0
    logged = daemon.run("logs", "--type", "sms").stdout
    assert event_id in logged
    assert "event.accepted" in logged


def test_a_status_callback_is_no_message(daemon: Daemon) -> None:
    """Twilio is told that it arrived, the log once which line to change, and no agent anything."""
    fields = sample_sms(MessageStatus="delivered", SmsStatus="delivered")
    del fields["Body"]
    for _ in range(2):
        assert daemon.sms(fields).status == 200
    skipped = daemon.wait_for("event.skipped")
    assert (skipped["reason"], skipped["level"]) == ("receipt", "warning")
    assert "channels.sms.receipt_agent" in skipped["hint"]
    assert daemon.wait_for("event.duplicate")["event_id"] == skipped["event_id"]
    daemon.sms(Body="Désinscrire.")
    (payload,) = daemon.wait_until_seen(1)
    assert payload["data"]["opt_out"] == "STOP"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"Body": "changed"}, id="a changed value"),
        pytest.param({"Extra": "1"}, id="an added field"),
        pytest.param({"NumMedia": None}, id="a missing field"),
    ],
)
def test_an_altered_request_is_refused(daemon: Daemon, change: dict[str, str | None]) -> None:
    """Whatever differs from what was signed is 403 and reaches nobody."""
    fields = sample_sms()
    _, headers = signed_sms(fields)
    altered = {k: v for k, v in {**fields, **change}.items() if v is not None}
    body, _ = signed_sms(altered)
    answer = daemon.post_sms(body, headers)
    assert answer.status == 403
    assert answer.json()["status"] == 403
    daemon.wait_for("signature.invalid")
    assert json.loads(daemon.run("events", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-Twilio-Signature": ""}, {"X-Twilio-Signature": "\xff" * 28}],
    ids=["none", "empty", "not ASCII"],
)
def test_an_unsigned_request_is_refused(daemon: Daemon, headers: dict[str, str]) -> None:
    """No signature, no entry."""
    body, signed = signed_sms(sample_sms())
    sent = {"Content-Type": signed["Content-Type"], **headers}
    assert daemon.post_sms(body, sent).status == 403


def test_another_accounts_token_is_refused(daemon: Daemon) -> None:
    """A signature by a token that is not ours proves nothing."""
    body, headers = signed_sms(sample_sms(), token="f" * 32)
    assert daemon.post_sms(body, headers).status == 403


def test_a_shifted_boundary_is_refused(daemon: Daemon) -> None:
    """Fields glued together keep Twilio's signature valid, but not the checks after it."""
    fields = sample_sms()
    _, headers = signed_sms(fields)
    names = sorted(fields)
    glued = {**fields}
    first, second = names[0], names[1]
    glued[first] = fields[first] + second + fields[second]
    del glued[second]
    body, same = signed_sms(glued)
    assert same["X-Twilio-Signature"] == headers["X-Twilio-Signature"]
    assert daemon.post_sms(body, headers).status in {400, 403}
    assert daemon.seen() == []


def test_a_query_string_is_part_of_what_is_signed(daemon: Daemon) -> None:
    """The request target counts byte for byte, bare question mark and odd escapes included."""
    for query in ("?foo=1&bar=%20a+b", "?", "?a=%zz&b=%E9%e9", "?a=1&a=1", "?a='b'"):
        target = SMS_PATH + query
        body, headers = signed_sms(sample_sms(), url=PUBLIC_URL + target)
        assert daemon.post_sms(body, headers, target).status == 200, query


def test_both_port_forms_are_accepted(daemon: Daemon) -> None:
    """Twilio signs with and without the default port, depending on the product."""
    for url in (f"{PUBLIC_URL}{SMS_PATH}", f"{PUBLIC_URL}:443{SMS_PATH}"):
        body, headers = signed_sms(sample_sms(), url=url)
        assert daemon.post_sms(body, headers).status == 200


def test_the_same_message_is_dispatched_once(daemon: Daemon) -> None:
    """Copies that arrive at one moment are all answered alike, and handed on once."""
    fields = sample_sms()
    answers: list[Answer] = []
    start = threading.Barrier(8)

    def send() -> None:
        start.wait()
        answers.append(daemon.sms(fields))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(a.status, a.body) for a in answers] == [(200, TWIML)] * 8
    daemon.wait_for("event.duplicate", count=7)
    daemon.sms(sample_sms(From="+33639980009", Body="later"))
    daemon.wait_for("attempt.succeeded", count=2)
    assert [p["data"]["message_sid"] for p in daemon.seen()].count(fields["MessageSid"]) == 1


def test_a_duplicate_is_known_after_a_restart(daemon: Daemon) -> None:
    """What was seen stays seen."""
    fields = sample_sms()
    daemon.sms(fields)
    daemon.wait_for("attempt.succeeded")
    daemon.stop()
    daemon.start()
    assert daemon.sms(fields).status == 200
    daemon.wait_for("event.duplicate")
    assert len(daemon.seen()) == 1


def test_kill_between_answer_and_dispatch_loses_nothing(stopped: Daemon) -> None:
    """What was answered is on disk: another process delivers it, in the order of arrival."""
    stopped.start("--no-dispatch")
    bodies = [f"message {n}" for n in range(20)]
    for body in bodies:
        assert stopped.sms(Body=body).status == 200
    stopped.kill()
    assert stopped.seen() == []
    stopped.start()
    stopped.wait_for("attempt.succeeded", count=20)
    assert [p["data"]["body"] for p in stopped.seen()] == bodies


def test_kill_during_the_attempt_repeats_it_in_order(daemon: Daemon) -> None:
    """An attempt that died with the daemon is made again, before the later messages."""
    hold = daemon.agents / "hold"
    hold.touch()
    daemon.sms(Body="first")
    wait_until_seen(daemon.agents / "seen.jsonl", 1)
    daemon.sms(Body="second")
    daemon.kill()
    hold.unlink()
    daemon.start()
    daemon.wait_for("attempt.succeeded", count=2)
    assert [p["data"]["body"] for p in daemon.seen()] == ["first", "first", "second"]
    first_id = daemon.seen()[0]["event_id"]
    shown: dict[str, Any] = json.loads(daemon.run("events", "show", first_id, "--json").stdout)
    assert [a["outcome"] for a in shown["attempts"]] == ["lost", "success"]


def wait_until_seen(path: Path, count: int) -> None:
    """Block until the agent has written `count` lines (it writes before it holds)."""
    done = threading.Event()
    for _ in range(9000):
        if path.exists() and path.read_text().count("\n") >= count:
            return
        done.wait(0.01)
    raise AssertionError(f"the agent was not reached: {path}")


FAILING = """
import json, pathlib
SEEN = pathlib.Path(__file__).with_name("seen.jsonl")

def handle(event):
    with SEEN.open("a") as seen:
        seen.write(json.dumps(event) + "\\n")
    if event["data"]["attempt"] < 3:
        raise RuntimeError("not yet: " + event["data"]["body"])
"""


def test_a_failing_agent_is_tried_again(tmp_path: Path) -> None:
    """Attempts follow the schedule and are all recorded; later messages wait their turn."""
    daemon = Daemon(tmp_path, agent=FAILING)
    daemon.config.write_text(
        daemon.config.read_text().replace("recorder:Recorder", "recorder:handle")
    )
    daemon.start()
    try:
        daemon.sms(Body="one")
        daemon.sms(Body="two")
        daemon.wait_for("attempt.succeeded", count=2)
        seen = [(e["data"]["body"], e["data"]["attempt"]) for e in daemon.seen()]
        assert seen == [(b, n) for b in ("one", "two") for n in (1, 2, 3)]
        event_id = daemon.seen()[0]["id"]
        shown = json.loads(daemon.run("events", "show", event_id, "--json").stdout)
        assert [a["outcome"] for a in shown["attempts"]] == ["exception", "exception", "success"]
        assert "RuntimeError: not yet: " in shown["attempts"][0]["error"]
        logged = "\n".join(json.dumps(line) for line in daemon.lines)
        assert "not yet: one" not in logged
    finally:
        daemon.close()


def test_an_exhausted_schedule_ends_dead(tmp_path: Path) -> None:
    """After the last try the entry is dead: visible, and replayable."""
    daemon = Daemon(tmp_path, agent="def handle(event):\n    raise ValueError('never')\n")
    daemon.config.write_text(
        daemon.config.read_text().replace("recorder:Recorder", "recorder:handle")
    )
    daemon.start()
    try:
        daemon.sms()
        event_id = daemon.wait_for("entry.dead")["event_id"]
        (listed,) = json.loads(daemon.run("events", "list", "--state", "dead", "--json").stdout)
        assert (listed["id"], listed["attempts"]) == (event_id, 4)
        daemon.run("events", "replay", event_id)
        daemon.wait_for("entry.dead", count=2)
        lines = daemon.run("events", "show", event_id).stdout.splitlines()
        told = [line.partition("  ")[2] for line in lines if re.match(r"\d{4}-", line)]
        (replayed,) = [line for line in told if line.startswith("events replay, by ")]
        order = [line.partition(":")[0] for line in told[1:]]
        tries = [f"attempt {number}" for number in range(1, len(order) - 1)]
        assert order == [*tries[:4], replayed, *tries[4:], "dead"]  # as it happened
    finally:
        daemon.close()
