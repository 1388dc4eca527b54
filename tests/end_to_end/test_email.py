"""The way of an e-mail: from Mailgun's signed form to the agent, attachments and all."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from .daemon import Answer, Daemon
from .providers import (
    ALL_CHANNELS,
    EMAIL_PATH,
    FORM,
    File,
    posted_mail,
    proof,
    sample_mail,
)

# Reads each attachment while it may, and writes down what it saw.
READER = """
import hashlib, json, os, pathlib

SEEN = pathlib.Path(__file__).with_name("seen.jsonl")


def handle(event):
    for attachment in event["data"]["attachments"]:
        path = pathlib.Path(attachment["path"])
        attachment["read_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        attachment["mode"] = path.parent.stat().st_mode & 0o777
    with SEEN.open("a") as seen:
        seen.write(json.dumps(event) + "\\n")
    if event["data"]["subject"] == "fail" and event["data"]["attempt"] == 1:
        raise RuntimeError("later")
    if event["data"]["subject"] == "exit" and event["data"]["attempt"] == 1:
        os._exit(3)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A running daemon whose agents record what `run` gets."""
    with closing(Daemon(tmp_path, ALL_CHANNELS)) as daemon:
        yield daemon.start()


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Daemon]:
    """A running daemon whose agent reads attachments in `handle`."""
    with closing(Daemon(tmp_path, ALL_CHANNELS, agent=READER)) as daemon:
        text = daemon.config.read_text().replace("recorder:Recorder", "recorder:handle")
        daemon.config.write_text(text)
        yield daemon.start()


def send(
    daemon: Daemon, fields: Mapping[str, str] | None = None, files: Sequence[File] = ()
) -> Answer:
    return daemon.request("POST", EMAIL_PATH, *posted_mail(fields, files))


def send_pairs(daemon: Daemon, pairs: Sequence[tuple[str, str]]) -> Answer:
    return daemon.request("POST", EMAIL_PATH, urlencode(pairs).encode(), {"Content-Type": FORM})


def delivered(daemon: Daemon, answer: Answer) -> Any:
    """What the agent got of an accepted mail."""
    assert answer.status == 200, answer.body
    event_id = answer.json()["event_id"]
    daemon.wait_for("attempt.succeeded", event_id=event_id)
    return next(p for p in daemon.seen() if event_id in {p.get("event_id"), p.get("id")})


def test_a_mail_with_a_field_of_a_probe_is_a_mail(daemon: Daemon) -> None:
    """Every MIME header may become a form field: none makes a signed mail vanish behind a 2xx."""
    fields = {**sample_mail(), "BeriniaProbe": "1", "Berinia-Probe": "probe.1.2.3.4"}
    assert delivered(daemon, send(daemon, fields))["data"]["sender"] == fields["sender"]


def test_a_signed_mail_reaches_the_agent(daemon: Daemon) -> None:
    """Verified, committed, answered in JSON, dispatched with BerinIA's payload."""
    fields = sample_mail(stripped_text="  Oui, ça m’intéresse 🙂 ")
    answer = send(daemon, fields)
    assert answer.json() == {"status": "accepted", "event_id": answer.json()["event_id"]}
    payload = delivered(daemon, answer)
    assert payload["action"] == "process_email_response"
    assert payload["attempt"] == 1
    assert payload["data"] == {
        "sender": fields["sender"],
        "recipient": fields["recipient"],
        "subject": fields["subject"],
        "body": fields["stripped-text"],
        "timestamp": payload["data"]["timestamp"],
        "message_id": fields["Message-Id"],
        "raw_data": fields,
        "opt_out": None,
        "consent": None,
        "auto_submitted": None,
    }


def test_an_automatic_reply_reaches_nobody(daemon: Daemon) -> None:
    """It is kept and answered, the log says why, and an operator can hand it on all the same."""
    event_id = send(daemon, sample_mail(Auto_Submitted="auto-replied")).json()["event_id"]
    skipped = daemon.wait_for("event.skipped")
    assert (skipped["event_id"], skipped["reason"]) == (event_id, "auto_reply")
    (listed,) = json.loads(daemon.run("events", "list", "--state", "skipped", "--json").stdout)
    assert listed["id"] == event_id
    assert "skipped: auto_reply" in daemon.run("events", "show", event_id).stdout
    assert daemon.seen() == []
    daemon.run("events", "replay", event_id)
    (payload,) = daemon.wait_until_seen(1)
    assert payload["data"]["auto_submitted"] == "auto_reply"


ATTACHED = (
    File(b"%PDF-1.7\r\n" + bytes(range(256)) * 4096, "devis n° 7.pdf"),
    File(b"", "vide.txt", "text/plain", "attachment-2"),
    File(b"\r\n--xy\r\n\r\n", "../../../../tmp/evil", "image/png", "attachment-3"),
    File(b"x", "/etc/cron.d/evil", "application/octet-stream", "inline-1"),
)


def test_attachments_are_listed_and_readable_during_the_attempt(reading: Daemon) -> None:
    """Name, type, size and digest; a `path` of our choosing, for nobody else, gone afterwards."""
    event = delivered(reading, send(reading, files=ATTACHED))
    seen = event["data"]["attachments"]
    described = [
        {
            "file_name": file.name,
            "content_type": file.content_type,
            "size_bytes": len(file.content),
            "sha256": hashlib.sha256(file.content).hexdigest(),
        }
        for file in ATTACHED
    ]
    keys = described[0].keys()
    assert [{key: one[key] for key in keys} for one in seen] == described
    assert [one["read_sha256"] for one in seen] == [one["sha256"] for one in described]
    assert {one["mode"] for one in seen} == {0o700}
    paths = [Path(one["path"]) for one in seen]
    assert len(set(paths)) == len(paths)
    for path, file in zip(paths, ATTACHED, strict=True):
        assert path.is_relative_to(tempfile.gettempdir())
        assert ".." not in path.parts
        assert Path(file.name).name not in path.name
        assert not path.parent.exists()
    shown = json.loads(reading.run("events", "show", event["id"], "--json").stdout)
    assert [{key: one[key] for key in keys} for one in shown["data"]["attachments"]] == described


@pytest.mark.parametrize("way", ["fail", "exit"])
def test_each_attempt_has_attachments_of_its_own(reading: Daemon, way: str) -> None:
    """A second try reads the same content, however the first one ended, and leaves nothing."""
    answer = send(reading, sample_mail(subject=way), [File(b"the same")])
    reading.wait_for("attempt.succeeded", event_id=answer.json()["event_id"])
    first, second = (event["data"]["attachments"][0] for event in reading.seen())
    assert first["read_sha256"] == second["read_sha256"] == first["sha256"]
    assert first["path"] != second["path"]
    assert not Path(first["path"]).parent.exists()
    assert not Path(second["path"]).parent.exists()


def raw_message() -> str:
    message = EmailMessage()
    message["From"] = "Camille <lead@example.com>"
    message["Subject"] = "Réponse à votre proposition"
    message["Message-ID"] = "<raw@example.com>"
    message["Date"] = "Tue, 24 Nov 2026 10:29:58 +0100"
    message.set_content("Bonjour,\n\nça m’intéresse.\n")
    message.add_attachment(b"\x00\x01\x02", "application", "pdf", filename="devis.pdf")
    return message.as_string()


def test_a_raw_message_is_read(reading: Daemon) -> None:
    """Text, subject, id and attachments come out of `body-mime` when that is all there is."""
    fields = {
        "recipient": "contact@example.com",
        "sender": "lead@example.com",
        "body-mime": raw_message(),
        **proof(),
    }
    data = delivered(reading, send(reading, fields))["data"]
    assert data["body"].strip() == "Bonjour,\n\nça m’intéresse."
    assert data["subject"] == "Réponse à votre proposition"
    assert data["message_id"] == "<raw@example.com>"
    (attachment,) = data["attachments"]
    assert attachment["file_name"] == "devis.pdf"
    assert attachment["read_sha256"] == hashlib.sha256(b"\x00\x01\x02").hexdigest()


def test_the_body_is_the_first_that_is_not_blank(reading: Daemon) -> None:
    """`stripped-text`, else `body-plain`, else the text of `body-html`."""
    html = "<p>Oui,</p><script>no()</script><p>&eacute;crivez</p>"
    for changes, body in (
        ({"stripped_text": "one", "body_plain": "two"}, "one"),
        ({"stripped_text": "  \r\n", "body_plain": "two"}, "two"),
        ({"stripped_text": None, "body_plain": " ", "body_html": html}, "Oui,\nécrivez"),
        ({"stripped_text": "", "body_plain": None}, ""),
    ):
        data = delivered(reading, send(reading, sample_mail(**changes)))["data"]
        assert "\n".join(line for line in data["body"].splitlines() if line) == body


def test_message_ids_in_any_case_or_none(reading: Daemon) -> None:
    """The id's letter case is the sender's choice, and its absence no fault."""
    for name in ("message-id", "Message-Id", "MESSAGE-ID"):
        fields = {**sample_mail(Message_Id=None), name: f"<{name}@example.com>"}
        assert delivered(reading, send(reading, fields))["data"]["message_id"] == fields[name]
    without = sample_mail(Message_Id=None, subject="none")
    assert delivered(reading, send(reading, without))["data"]["message_id"] is None


def test_the_first_sender_and_the_last_signature_count(reading: Daemon) -> None:
    """A user variable of the same name changes neither who wrote nor what was signed."""
    fields = sample_mail()
    pairs = [
        ("timestamp", "1"),
        ("token", "mine"),
        ("signature", "mine"),
        *fields.items(),
        ("sender", "other@example.com"),
    ]
    data = delivered(reading, send_pairs(reading, pairs))["data"]
    assert data["sender"] == fields["sender"]
    assert data["raw"]["sender"] == "other@example.com"
    assert data["raw_multi"]["sender"] == [fields["sender"], "other@example.com"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({}, None, id="a person"),
        pytest.param({"sender": ""}, "bounce", id="a bounce"),
        pytest.param({"subject": "Out of office"}, "auto_reply", id="by the subject alone"),
        pytest.param({"Auto_Submitted": "no"}, None, id="a person whose program says so"),
        pytest.param({"message_headers": '[["Precedence", "list"]]'}, "list", id="in a list"),
    ],
)
def test_machines_are_told_from_people(
    reading: Daemon, changes: dict[str, str], said: str | None
) -> None:
    """Agents see `auto_submitted`, so that two of them never answer each other for ever."""
    event = delivered(reading, send(reading, sample_mail(**changes)))
    assert event["data"]["auto_submitted"] == said
    assert ("subject" in event) is bool(event["data"]["sender"])


def old(seconds: int) -> dict[str, str]:
    return proof(timestamp=str(int(time.time()) - seconds))


REFUSED: dict[str, Callable[[], Mapping[str, str]]] = {  # made when sent: they tell the time
    "another key": lambda: proof(key="key-of-somebody-else"),
    "no signature": lambda: {**proof(), "signature": ""},
    "not hexadecimal": lambda: {**proof(), "signature": "é" * 64},
    "too old": lambda: old(43_300),
    "from the future": lambda: old(-400),
    "a token too short": lambda: proof(token="a" * 49),
    "a negative time": lambda: proof(timestamp="-123456789"),
    "no number": lambda: proof(timestamp="now"),
}


def test_what_mailgun_did_not_sign_lately_is_refused(daemon: Daemon) -> None:
    """403, one line in the log each, and nothing for the agent."""
    for name, fields in REFUSED.items():
        answer = send(daemon, {**sample_mail(), **fields()})
        assert (answer.status, answer.json()["status"]) == (403, 403), name
    daemon.wait_for("signature.invalid", count=len(REFUSED), channel="email")
    assert daemon.seen() == []


def test_a_shifted_boundary_is_refused(daemon: Daemon) -> None:
    """Time stamp and token are signed without a separator: a shifted one is another signature."""
    stamp = str(int(time.time()))
    signed = proof(timestamp=stamp, token="7" * 50)
    for timestamp, token in ((stamp[:-1], stamp[-1] + "7" * 50), (stamp + "7", "7" * 49)):
        shifted = {**sample_mail(), **signed, "timestamp": timestamp, "token": token}
        assert send(daemon, shifted).status == 403


def test_a_signature_is_good_for_one_message(daemon: Daemon) -> None:
    """The same mail again is answered as before; the signature on another mail is refused."""
    fields = sample_mail(subject="one")
    first = send(daemon, fields)
    assert first.status == 200
    again = send(daemon, fields)
    assert (again.status, again.json()) == (200, first.json())
    assert send(daemon, {**fields, "stripped-text": "Non."}).status == 403
    daemon.stop()
    daemon.start()
    assert send(daemon, fields).json() == first.json()
    assert send(daemon, {**fields, "subject": "two"}).status == 403
    retried = send(daemon, {**fields, **proof()})
    assert retried.json() == first.json()
    listed = json.loads(daemon.run("events", "list", "--json").stdout)
    assert [event["id"] for event in listed] == [first.json()["event_id"]]


def test_incomplete_mails_name_what_is_missing(daemon: Daemon) -> None:
    """400 with the fields' names: the sender may be empty, the recipient may not, and something
    must say that it is a mail.
    """
    answer = send(
        daemon, sample_mail(sender=None, stripped_text=None, body_plain=None, subject=None)
    )
    assert answer.status == 400
    assert "sender" in answer.json()["missing"]
    assert "stripped-text" in str(answer.json()["missing"])
    answer = send(daemon, sample_mail(recipient=" "))
    assert (answer.status, answer.json()["invalid"]) == (400, ["recipient"])
    assert send(daemon, sample_mail(sender="")).status == 200


def test_large_mails_and_short_messages_get_along(reading: Daemon) -> None:
    """Several of the largest mails at once, and short messages all the while: all are accepted,
    and whole.
    """
    content = bytes(range(256)) * 70_000
    mails = 3
    with ThreadPoolExecutor(mails) as pool:
        sending = [pool.submit(send, reading, sample_mail(), [File(content)]) for _ in range(mails)]
        texts = [f"short {number}" for number in range(20)]
        assert [reading.sms(Body=text).status for text in texts] == [200] * len(texts)
        assert [future.result().status for future in sending] == [200] * mails
    reading.wait_for("attempt.succeeded", count=mails + len(texts))
    data = [event["data"] for event in reading.seen()]
    assert [one["body"] for one in data if one["channel"] == "sms"] == texts
    digests = [one["read_sha256"] for each in data for one in each["attachments"]]
    assert digests == [hashlib.sha256(content).hexdigest()] * mails
