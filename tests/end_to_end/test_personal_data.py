"""Whom the daemon speaks of: nobody in `mask`, and in `full` whoever wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .daemon import SMS_PATH, Daemon, sample_sms, signed_sms
from .providers import (
    ALL_CHANNELS,
    EMAIL_PATH,
    WHATSAPP_PATH,
    File,
    posted_mail,
    posted_whatsapp,
    sample_mail,
    sample_whatsapp,
)

# Every word of it is looked for, wherever it comes out again.
PEOPLE = {
    "phone": "33639981234",
    "our phone": "33639989876",
    "spelled": "6 39 98 12 34",
    "mail": "camille.durand@example.com",
    "name": "Camille",
    "surname": "Durand",
    "subject": "Devis-Rideaux",
    "word": "Chrysanthème",
    "escaped": "Chrysanth\\u00e8me",
    "group": "Famille Martin",
    "file": "facture-durand",
    "reply": "Hortensia",
}
TEXT = "Chrysanthème 🙂\nappelez Camille au +33 6 39 98 12 34 ou camille.durand@example.com"
# Prints and raises what it gets, as agents do.
TALKER = """
import json, sys

class Recorder:
    def run(self, input_data):
        print("got", input_data)
        print(json.dumps(input_data), file=sys.stderr, flush=True)
        text = str(input_data.get("content") or input_data["data"]["body"])
        for line in text.splitlines():
            print("line:", line.upper() if "shout" in text else line)
        if "please fail" in text:
            raise ValueError(input_data)
        if "error" in text:
            return {"status": "error", "error": "cannot handle " + text, "response": "Hortensia"}
        return {"status": "success", "response": "Hortensia"}
"""


@pytest.fixture
def masked(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon as it is by default, but for more lines in its logs."""
    yield from talking(tmp_path, 'logs.level = "debug"')


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that may name people."""
    yield from talking(tmp_path, 'logs.personal_data = "full"')


def talking(folder: Path, settings: str) -> Iterator[Daemon]:
    once = "agents.ResponseListenerAgent.retry_on = []\nagents.MetaAgent.retry_on = []"
    late = 'channels.whatsapp.late_reply_url = "http://127.0.0.1:9/send"'
    settings = f"{ALL_CHANNELS}\n{once}\n{late}\n{settings}"
    daemon = Daemon(folder, settings, agent=TALKER)
    daemon.start("--debug")
    yield daemon
    daemon.close()


SMS = {"From": f"+{PEOPLE['phone']}", "To": f"+{PEOPLE['our phone']}"}
MAIL = {
    "sender": PEOPLE["mail"],
    "from": f"Camille Durand <{PEOPLE['mail']}>",
    "subject": PEOPLE["subject"],
}
DIRECT: dict[str, object] = {"author": f"{PEOPLE['phone']}@c.us", "group": "Direct Message"}
GROUP: dict[str, object] = {**DIRECT, "group": PEOPLE["group"]}
JSON = {"Content-Type": "application/json"}

Posted = tuple[str, bytes, Mapping[str, str]]


def messages(text: str) -> Iterator[Posted]:
    """On every channel; the second is a duplicate."""
    sms = sample_sms(Body=text, **SMS)
    yield SMS_PATH, *signed_sms(sms)
    yield SMS_PATH, *signed_sms(sms)
    mail = sample_mail(**MAIL, stripped_text=text, body_plain=text)
    yield EMAIL_PATH, *posted_mail(mail, [File(text.encode(), name=f"{PEOPLE['file']}.pdf")])
    for chat in (DIRECT, GROUP):
        yield WHATSAPP_PATH, *posted_whatsapp(sample_whatsapp(**chat, content=text))


def refused() -> Iterator[Posted]:
    """Forged, incomplete, ill-formed, and sent where nothing is."""
    yield SMS_PATH, *signed_sms(sample_sms(Body=TEXT, **SMS), token="f" * 32)
    nobody = f"{PEOPLE['name']}\n{PEOPLE['phone']}"
    yield SMS_PATH, *signed_sms(sample_sms(Body=TEXT, **{**SMS, "From": nobody}))
    yield EMAIL_PATH, *posted_mail({**MAIL, "body-plain": TEXT})
    yield WHATSAPP_PATH, TEXT.encode(), JSON
    yield WHATSAPP_PATH, json.dumps({**GROUP, "content": {"text": TEXT}}).encode(), JSON
    yield f"{WHATSAPP_PATH}/{PEOPLE['phone']}/{PEOPLE['mail']}", TEXT.encode(), JSON
    yield f"{EMAIL_PATH}?from={PEOPLE['phone']}&name={PEOPLE['name']}", TEXT.encode(), JSON


def write_to(daemon: Daemon) -> str:
    """Messages of every kind, good and bad; returns the answers to the bad ones."""
    for text in (TEXT, f"please fail {TEXT}", f"error {TEXT}", f"shout {TEXT}"):
        for target, body, headers in messages(text):
            assert daemon.request("POST", target, body, headers).status in {200, 202}
    answers = [daemon.request("POST", *posted) for posted in refused()]
    assert [answer.status for answer in answers] == [403, 400, 403, 400, 400, 404, 415]
    daemon.wait_for("attempt.succeeded", count=8)
    daemon.wait_for("attempt.failed", count=8)
    return "\n".join(f"{answer.headers} {answer.body.decode()}" for answer in answers)


def leaks(text: str) -> list[str]:
    return [what for what, word in PEOPLE.items() if word.lower() in text.lower()]


def test_nobody_is_named_anywhere(masked: Daemon) -> None:
    """Logs, stderr, metrics, health, answers to bad requests, and commands that count or change;
    what shows messages, as `events list` and `show` do, is for whoever may read the journal.
    """
    said = {"answers": write_to(masked)}
    said["metrics"] = masked.request("GET", "/metrics").body.decode()
    said["health"] = masked.request("GET", "/health").body.decode()
    for words in (
        ("events", "stats"),
        ("events", "stats", "--json"),
        ("events", "replay", "--state", "dead", "--dry-run"),
        ("events", "erase", "--sender", "+33639981234", "--dry-run"),
        ("logs", "-n", "10000"),
        ("logs", "--type", "agents", "-n", "10000"),
        ("check-config", "--offline"),
    ):
        done = masked.run(*words, check=False)
        said[" ".join(words)] = done.stdout + done.stderr
    masked.reload()
    assert masked.stop() == 0
    said["stderr"] = json.dumps(masked.lines, ensure_ascii=False)
    for log in (masked.folder / "state" / "unified_logs").iterdir():
        said[log.name] = log.read_text()
    assert {what: found for what, text in said.items() if (found := leaks(text))} == {}


def test_full_names_whoever_wrote(full: Daemon) -> None:
    """What an operator chose to see is in the agents' log, word by word; metrics stay without."""
    write_to(full)
    metrics = full.request("GET", "/metrics").body.decode()
    assert full.stop() == 0
    agents = (full.folder / "state" / "unified_logs" / "agents.log").read_text()
    assert set(PEOPLE) - set(leaks(agents)) <= {"escaped", "file", "reply"}
    assert leaks(metrics) == []
