"""A thought in five messages: one run and one reply, whatever ends in the middle of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .bot import Bot
from .daemon import Answer, Daemon
from .providers import ALL_CHANNELS, WHATSAPP_PATH, posted_whatsapp, sample_whatsapp

# Writes down what it gets, and rests while a file named `hold` is there.
LISTENER = """
import json, pathlib, time

HERE = pathlib.Path(__file__).parent


class Recorder:
    def handle(self, event):
        with (HERE / "seen.jsonl").open("a") as seen:
            seen.write(json.dumps(event) + "\\n")
        while (HERE / "hold").exists():
            time.sleep(0.01)
        return {"response": "re: " + event["data"]["body"]}
"""
SILENCE_SECONDS = 4  # between two messages even a busy machine needs less
THOUGHT = ["Bonjour", "je voudrais", "un rendez-vous", "demain", "si possible"]
Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, journal: str) -> Iterator[Start]:
    """Starts a daemon whose agents gather."""
    with ExitStack() as stack:

        def begin(
            settings: str = "",
            *,
            wait_seconds: float = 60,
            silence_seconds: float = SILENCE_SECONDS,
        ) -> Daemon:
            wait = f"channels.whatsapp.reply_wait_seconds = {wait_seconds}"
            gather = f"agents.defaults.gather_seconds = {silence_seconds}"
            lines = f"{ALL_CHANNELS}\n{journal}\n{gather}\n{wait}\n{settings}"
            daemon = Daemon(tmp_path, lines, agent=LISTENER)
            stack.callback(daemon.close)
            return daemon.start()

        yield begin


def bodies(event: dict[str, Any]) -> list[str]:
    return [message["body"] for message in event["data"]["messages"]]


def chat(daemon: Daemon, content: str) -> Answer:
    body, headers = posted_whatsapp(sample_whatsapp(content=content))
    return daemon.request("POST", WHATSAPP_PATH, body, headers)


def states(daemon: Daemon) -> list[tuple[str, str | None]]:
    listed = json.loads(daemon.run("events", "list", "--json").stdout)
    return [(one["state"], one["gathered_into"]) for one in listed]


def test_five_messages_are_one_run(start: Start) -> None:
    """By SMS; `events` says which share the attempt."""
    daemon = start()
    for text in THOUGHT:
        assert daemon.sms(Body=text).status == 200
    line = daemon.wait_for("attempt.succeeded")
    assert line["gathered"] == 5
    (event,) = daemon.seen()
    assert bodies(event) == THOUGHT
    assert event["data"]["body"] == "\n".join(THOUGHT)
    (last, *others) = states(daemon)
    assert last == ("done", None)
    assert others == [("done", event["id"])] * 4
    shown = daemon.run("events", "show", event["data"]["messages"][0]["id"]).stdout
    assert f"its attempts and its reply are those of {event['id']}" in shown
    assert "with 4 before it" in daemon.run("events", "show", event["id"]).stdout


def test_one_reply_goes_back_into_the_chat(start: Start) -> None:
    """To the last caller; the others are told at once that there is none for them."""
    daemon = start()
    with ThreadPoolExecutor(5) as callers:
        waiting = []
        for number, text in enumerate(THOUGHT, start=1):
            waiting.append(callers.submit(chat, daemon, text))
            daemon.wait_for("event.accepted", count=number)
        answers = [one.result() for one in waiting]
    assert [answer.status for answer in answers] == [200] * 5
    replies = [answer.json().get("response") for answer in answers]
    assert replies == [None] * 4 + ["re: " + "\n".join(THOUGHT)]
    assert len(daemon.seen()) == 1


def test_one_reply_is_posted_where_nobody_waits(start: Start) -> None:
    """Once."""
    with contextlib.closing(Bot()) as bot:
        daemon = start(f'channels.whatsapp.late_reply_url = "{bot.url}"', wait_seconds=0.2)
        for text in THOUGHT:
            assert chat(daemon, text).status == 202
        (posted,) = bot.wait_for(1)
        assert posted["message"] == "re: " + "\n".join(THOUGHT)


def test_kill_9_while_they_gather(start: Start) -> None:
    """What was written before and after comes together."""
    daemon = start(silence_seconds=15)  # longer than the daemon needs to be there again
    for text in THOUGHT[:3]:
        daemon.sms(Body=text)
    daemon.kill()
    daemon.start()
    for text in THOUGHT[3:]:
        daemon.sms(Body=text)
    daemon.wait_for("attempt.succeeded")
    seen = [text for event in daemon.seen() for text in bodies(event)]
    assert seen == THOUGHT


def test_kill_9_while_they_run(start: Start) -> None:
    """The same messages are tried again; what came later is a run of its own."""
    daemon = start()
    (daemon.agents / "hold").touch()
    for text in THOUGHT:
        daemon.sms(Body=text)
    daemon.wait_until_seen(1)
    daemon.sms(Body="encore")
    daemon.kill()
    (daemon.agents / "hold").unlink()
    daemon.start()
    daemon.wait_for("attempt.succeeded", count=2)
    assert [bodies(event) for event in daemon.seen()] == [THOUGHT, THOUGHT, ["encore"]]
    assert [event["data"]["attempt"] for event in daemon.seen()] == [1, 2, 1]


def test_a_burst_that_must_not_run_twice(start: Start) -> None:
    """Killed in the middle, none of it runs again by itself."""
    daemon = start('agents.defaults.delivery = "at-most-once"')
    (daemon.agents / "hold").touch()
    for text in THOUGHT:
        daemon.sms(Body=text)
    daemon.wait_until_seen(1)
    daemon.kill()
    (daemon.agents / "hold").unlink()
    daemon.start()
    daemon.wait_for("entry.dead", may_have_acted=True)
    assert [state for state, _ in states(daemon)] == ["dead"] * 5
    assert len(daemon.seen()) == 1
    first = daemon.seen()[0]["data"]["messages"][0]["id"]
    assert "5 passed over" in daemon.run("events", "replay", first, check=False).stderr
    daemon.run("events", "replay", first, "--once-again")
    daemon.wait_for("attempt.succeeded")
    assert [bodies(event) for event in daemon.seen()] == [THOUGHT, THOUGHT]


def test_what_was_refused_gathers_when_it_is_replayed(start: Start) -> None:
    """After the fix, the messages of one person are one run, in their order."""
    daemon = start('channels.sms.account_sids = ["AC11111111111111111111111111111111"]')
    for text in THOUGHT:
        assert daemon.sms(Body=text).status == 403
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("AC" + "1" * 32, "AC" + "0" * 32))
    daemon.reload()
    daemon.run("events", "replay", "--state", "rejected")
    daemon.wait_for("attempt.succeeded", gathered=5)
    (event,) = daemon.seen()
    assert bodies(event) == THOUGHT


def test_stop_in_the_middle(start: Start) -> None:
    """It waits for no silence, comes first, and alone."""
    daemon = start()
    for text in [*THOUGHT[:2], "STOP", *THOUGHT[2:]]:
        daemon.sms(Body=text)
    daemon.wait_for("attempt.succeeded", count=2)
    stop, thought = daemon.seen()
    assert (bodies(stop), stop["data"]["opt_out"]) == (["STOP"], "STOP")
    assert bodies(thought) == THOUGHT
