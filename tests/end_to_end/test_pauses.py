"""Somebody takes a conversation over from its agent, and gives it back, through the real daemon."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.journal.console import Action, ConsoleJournal, recent_actions

from .daemon import Daemon
from .providers import (
    ALL_CHANNELS,
    EMAIL_PATH,
    WHATSAPP_PATH,
    posted_mail,
    posted_whatsapp,
    sample_mail,
    sample_whatsapp,
)

# Says back what it was told; one word hands the conversation over.
TALKER = """
import json, pathlib

SEEN = pathlib.Path(__file__).with_name("seen.jsonl")


class Recorder:
    def run(self, input_data):
        with SEEN.open("a") as seen:
            seen.write(json.dumps(input_data) + "\\n")
        text = input_data.get("content") or input_data["data"]["body"]
        if text == "a person, please":
            return {"status": "handoff", "response": "Camille answers you.", "reason": "asked for",
                    "for_seconds": 3600}
        return {"status": "success", "response": f"re: {text}"}
"""
SENDER = "+33639980001"
GROUP = "🤖 Support IA / Chatbot"
KEY = "a-secret-of-the-url"
FREE_SENDERS = f"""
[channels.asked]
kind = "declared"
verify = "token"
token = "query:k"
body = "query"
methods = ["GET"]
agent = "ResponseListenerAgent"
secrets = ["{KEY}"]
[[channels.asked.event]]
where = "text"
id = ["id"]
sender = "from"
text = "text"
"""
Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, journal: str) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(settings: str = "channels.whatsapp.reply_wait_seconds = 0.2") -> Daemon:
            daemon = Daemon(tmp_path, f"{ALL_CHANNELS}\n{journal}\n{settings}", agent=TALKER)
            stack.callback(daemon.close)
            return daemon.start()

        yield begin


def bodies(daemon: Daemon, count: int) -> list[str]:
    return [told["data"]["body"] for told in daemon.wait_until_seen(count)]


def run_json(daemon: Daemon, *words: str) -> Any:
    return json.loads(daemon.run(*words, "--json").stdout)


def noted(daemon: Daemon) -> list[Action]:
    """Who did what, as the console shows it, but the oldest first."""

    async def look() -> list[Action]:
        async with ConsoleJournal(daemon.settings.journal.url.reveal()) as journal:
            return await journal.read(recent_actions)

    return asyncio.run(look())[::-1]


def actions(daemon: Daemon) -> list[tuple[str, Any]]:
    return [(one.what, one.about) for one in noted(daemon)]


def test_a_pause_outlives_kill_9_and_all_of_it_flows_in_order(start: Start) -> None:
    """What came meanwhile waits; STOP does not; afterwards the rest comes as it was sent."""
    daemon = start()
    daemon.sms(Body="one")
    assert bodies(daemon, 1) == ["one"]
    daemon.run("conversations", "pause", "--sender", "+33 6 39 98 00 01", "--reason", "angry")
    for text in ("two", "STOP", "three"):
        assert daemon.sms(Body=text).status == 200
    assert bodies(daemon, 2) == ["one", "STOP"]
    daemon.wait_for("attempt.succeeded", count=2)  # or it would rightly come again
    daemon.kill()
    daemon.start()
    daemon.sms(Body="four", From="+33639980009")  # the agent works, but not for this person
    assert bodies(daemon, 3)[2] == "four"
    (paused,) = run_json(daemon, "conversations", "list", "--paused")
    assert (paused["sender"], paused["ready"], paused["paused"]["reason"]) == (SENDER, 2, "angry")
    held = [one["reason"] for one in run_json(daemon, "events", "list", "--state", "ready")]
    assert held == ["paused", "paused"]
    daemon.run("conversations", "resume", "--sender", SENDER)
    assert bodies(daemon, 5)[3:] == ["two", "three"]
    what = [name for name, _ in actions(daemon)]
    assert what == ["conversations pause", "conversations resume"]
    assert SENDER not in repr(actions(daemon))


def test_a_pause_ends_by_itself(start: Start, journal: str) -> None:
    """When its time is over the dispatcher goes on, and the log says so."""
    daemon = start("" if journal else "journal.lease_seconds = 3")  # it looks three times in that
    daemon.sms(Body="one")
    bodies(daemon, 1)
    daemon.run("conversations", "pause", "--sender", SENDER, "--for", "2s")
    daemon.sms(Body="two")
    assert bodies(daemon, 2) == ["one", "two"]
    daemon.wait_for("conversation.resumed")
    assert run_json(daemon, "conversations", "list", "--paused") == []


def test_an_agent_hands_over(start: Start) -> None:
    """Its answer goes to the person, and what they write then waits for somebody."""
    daemon = start("channels.whatsapp.reply_wait_seconds = 60")
    answer = whatsapp(daemon, content="a person, please")
    assert answer.json()["response"] == "Camille answers you."
    event = daemon.wait_for("conversation.paused")
    assert (event["by"], event["for_seconds"]) == ("AdminInterpreterAgent", 3600)
    (shown,) = run_json(daemon, "conversations", "show", answer.json()["event_id"])
    assert shown["paused"]["reason"] == "asked for"
    assert [message["reply"]["text"] for message in shown["messages"]] == ["Camille answers you."]


def whatsapp(daemon: Daemon, **changes: object) -> Any:
    body, headers = posted_whatsapp(sample_whatsapp(**changes))
    return daemon.request("POST", WHATSAPP_PATH, body, headers)


def pause_by_bot(daemon: Daemon, **fields: object) -> Any:
    body, headers = posted_whatsapp({"source": "whatsapp", "type": "pause", **fields})
    return daemon.request("POST", WHATSAPP_PATH, body, headers)


def test_the_bot_pauses_a_group_with_everybody_in_it(start: Start) -> None:
    """Those too who write there for the first time, also after `kill -9`; twice is once."""
    daemon = start("channels.whatsapp.reply_wait_seconds = 6")
    daemon.wait_for("agent_host.started")
    assert whatsapp(daemon, content="one").json()["response"] == "re: one"
    for _ in range(2):
        assert pause_by_bot(daemon, group=GROUP).status == 200
    daemon.kill()
    daemon.start().wait_for("agent_host.started")
    for author in ("33639980001@c.us", "33639980007@c.us"):
        assert whatsapp(daemon, content="two", author=author).status == 202
    elsewhere = whatsapp(daemon, content="three", group="Les leads")
    assert elsewhere.json()["response"] == "re: three"
    assert [told["content"] for told in daemon.seen()] == ["one", "three"]
    daemon.run("conversations", "resume", "--group", GROUP)
    told = daemon.wait_until_seen(4)
    assert [one["content"] for one in told[2:]] == ["two", "two"]
    assert run_json(daemon, "conversations", "list", "--paused") == []


def test_a_sender_called_star_pauses_nobody_else(start: Start) -> None:
    """By mail, by the bot, and on a declared channel, whose senders are what anybody writes."""
    daemon = start(FREE_SENDERS)

    def mail(sender: str, text: str) -> None:
        body, headers = posted_mail(sample_mail(sender=sender, **{"stripped-text": text}))
        assert daemon.request("POST", EMAIL_PATH, body, headers).status == 200

    def asked(sender: str, text: str) -> None:
        query = urlencode({"k": KEY, "id": f"{sender} {text}", "from": sender, "text": text})
        assert daemon.request("GET", f"/webhook/asked?{query}", b"", {}).status == 200

    for count, send in enumerate((mail, asked), 1):
        send("*", "a person, please")
        daemon.wait_for("conversation.paused", count=count)
        send("new@example.com", "two")
        send("*", "three")
    assert pause_by_bot(daemon, author="*").status == 200
    assert whatsapp(daemon, group=None, content="two").json()["response"] == "re: two"
    told = [one.get("content") or one["data"]["body"] for one in daemon.wait_until_seen(5)]
    assert sorted(told) == ["a person, please"] * 2 + ["two"] * 3
    assert pause_by_bot(daemon, group=GROUP).status == 200
    assert "everybody > 🤖" in daemon.run("conversations", "list").stdout
    assert len(run_json(daemon, "conversations", "resume", "--sender", "*")["resumed"]) == 3
    daemon.wait_until_seen(7)
    daemon.wait_for("attempt.succeeded", count=7)
    assert run_json(daemon, "events", "erase", "--sender", "*")["events"] == 4
    (group,) = run_json(daemon, "conversations", "list", "--paused")
    assert group["party"] == normal_party(GROUP)


def test_a_pause_that_cannot_be_read_is_refused_and_kept(start: Start) -> None:
    """Like any message of the bot."""
    daemon = start()
    refused = pause_by_bot(daemon)
    assert (refused.status, refused.json()["missing"]) == (400, ["author or group"])
    assert len(run_json(daemon, "events", "list", "--state", "rejected")) == 1


def test_what_was_held_can_be_given_up(start: Start) -> None:
    """And is said so, with the number of it; what comes then goes to the agent."""
    daemon = start()
    daemon.sms(Body="one")
    bodies(daemon, 1)
    (paused,) = run_json(daemon, "conversations", "pause", "--sender", SENDER)["paused"]
    for text in ("two", "three"):
        daemon.sms(Body=text)
    resumed = run_json(daemon, "conversations", "resume", "--sender", SENDER, "--discard")
    assert resumed["discarded"] == 2
    daemon.sms(Body="four")
    assert bodies(daemon, 2) == ["one", "four"]
    about = {"conversations": [paused], "discarded": 2}
    assert dict(actions(daemon))["conversations resume"] == about


def test_what_is_not_there_is_exit_1_and_what_is_not_said_exit_2(start: Start) -> None:
    """One line each, never a traceback."""
    daemon = start()
    for words, status in (
        (("pause", "--sender", SENDER), 1),
        (("resume", "--sender", SENDER), 1),
        (("show", "--sender", SENDER), 1),
        (("show", "7"), 1),
        (("show", "01abc"), 1),
        (("pause",), 2),
        (("show",), 2),
        (("pause", "--sender", SENDER, "--for", "a while"), 2),
        (("pause", "--sender", SENDER, "--for", "99999999d"), 2),
    ):
        done = daemon.run("conversations", *words, check=False)
        assert (words, done.returncode) == (words, status), done.stderr
        assert "Traceback" not in done.stderr


def test_changes_are_written_down_with_who_made_them(start: Start) -> None:
    """Each command that changes something; not one that changes nothing, or would only."""
    daemon = start()
    daemon.sms(Body="one")
    bodies(daemon, 1)
    daemon.wait_for("attempt.succeeded")
    (one,) = run_json(daemon, "events", "list")
    daemon.run("events", "replay", one["id"], "--dry-run")
    assert actions(daemon) == []
    replay = ("events", "replay", one["id"])
    daemon.run(*replay, environment={"SUDO_USER": "camille"})
    bodies(daemon, 2)
    daemon.wait_for("attempt.succeeded", count=2)
    daemon.run("events", "discard", one["id"], check=False)  # it is done already
    daemon.run("events", "erase", "--sender", SENDER)
    replayed, erased = actions(daemon)
    assert replayed == ("events replay", {"ids": [one["id"]]})
    assert erased == ("events erase", {"events": 1})
    first, *_ = noted(daemon)
    assert (first.who, first.way) == ("camille", "command")


@pytest.mark.parametrize("journal", ["sqlite"], indirect=True)  # the command is for files
def test_a_restore_brings_no_agent_back_into_a_conversation(start: Start) -> None:
    """What was paused since the backup is paused in it, and what was resumed flows."""
    daemon = start()
    for sender in (SENDER, "+33639980009"):
        daemon.sms(Body="one", From=sender)
    bodies(daemon, 2)
    daemon.run("conversations", "pause", "--sender", "+33639980009")
    backup = daemon.folder / "backup.db"
    with (
        closing(sqlite3.connect(daemon.folder / "state" / "journal.db")) as journal,
        closing(sqlite3.connect(backup)) as copy,
    ):
        journal.backup(copy)
    daemon.run("conversations", "resume", "--sender", "+33639980009")
    daemon.run("conversations", "pause", "--sender", SENDER)
    assert daemon.stop() == 0
    daemon.run("journal", "restore", str(backup))
    daemon.start()
    for sender in (SENDER, "+33639980009"):
        daemon.sms(Body=f"to {sender}", From=sender)
    assert bodies(daemon, 3)[2] == "to +33639980009"
    (paused,) = run_json(daemon, "conversations", "list", "--paused")
    assert paused["sender"] == SENDER
    assert actions(daemon)[-1] == ("journal restore", {"events": 2})
