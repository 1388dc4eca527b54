"""Channels that stand in the file alone, in the real daemon: Meta, and a secret in a URL."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPException
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from .daemon import Answer, Daemon

PROVIDERS = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
SECRET, TOKEN, KEY = "0123456789abcdef0123456789abcdef", "verify-me", "a-secret-of-the-url"
BATCH, SENDERS, ANSWERED = 20, 6, 60  # messages of one, at once, before the end
CHANNELS = f"""
[channels.meta]
preset = "meta-whatsapp"
agent = "ResponseListenerAgent"
secrets = ["{SECRET}"]
handshake_secrets = ["{TOKEN}"]

[channels.octo]
preset = "octopush"
agent = "ResponseListenerAgent"
secrets = ["{KEY}"]

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


def message(id_: str, text: str, sender: str = "33639980001") -> dict[str, Any]:
    return {"from": sender, "id": id_, "timestamp": "1", "type": "text", "text": {"body": text}}


def status(id_: str, word: str) -> dict[str, Any]:
    return {"id": id_, "status": word, "timestamp": "1", "recipient_id": "33639980001"}


def batch(*messages: object, statuses: object = ()) -> bytes:
    """A delivery of Meta's."""
    value = {
        "metadata": {"phone_number_id": "2000"},
        "messages": messages,
        "statuses": statuses,
    }
    return json.dumps({"entry": [{"changes": [{"value": value}]}]}).encode()


def post(daemon: Daemon, body: bytes, secret: str = SECRET) -> Answer:
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={mac}"}
    return daemon.request("POST", "/webhook/meta", body, headers)


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with two declared channels."""
    with closing(Daemon(tmp_path_factory.mktemp("declared"), CHANNELS)) as daemon:
        daemon.start()
        yield daemon


def listed(daemon: Daemon, *words: str) -> Any:
    return json.loads(daemon.run("events", "list", *words, "--json").stdout)


def test_a_batch_with_a_bad_item_over_a_kill(running: Daemon) -> None:
    """Its good items proceed once, the bad one is kept, and the batch again makes nothing new."""
    assert running.stop() == 0
    running.start("--no-dispatch")  # what an agent was about when it was killed comes again
    query = "hub.mode=subscribe&hub.challenge=115820&hub.verify_token="
    assert running.request("GET", f"/webhook/meta?{query}{TOKEN}").body == b"115820"
    assert running.request("GET", f"/webhook/meta?{query}wrong").status == 403
    body = batch(
        message("a", "un"), {"text": {}}, message("b", "deux"), statuses=[status("o", "read")]
    )
    assert post(running, body, secret="another").status == 403
    answer = post(running, body)
    assert (answer.status, answer.body) == (200, b"")
    running.kill()
    running.start()
    assert post(running, body).status == 200
    assert post(running, batch(statuses=[status("o", "sent")])).status == 200
    seen = running.wait_until_seen(3)
    assert sorted(one["data"]["body"] for one in seen) == ["deux", "read", "un"]
    assert len(listed(running, "--channel", "meta")) == 4
    (rejected,) = listed(running, "--state", "rejected")
    shown = json.loads(running.run("events", "show", rejected["id"], "--json").stdout)
    assert shown["rejection"]["items"][0]["path"] == "entry.0.changes.0.value.messages.1"
    (behind,) = listed(running, "--state", "skipped")
    assert behind["channel"] == "meta"


def test_batches_are_there_as_a_whole_or_not_at_all(running: Daemon) -> None:
    """A daemon that is killed while it commits them keeps all that it answered, and no part of
    what it did not.
    """
    answered: Queue[str] = Queue()

    def send(sender: int) -> None:
        for number in count():
            name = f"{sender}-{number}"
            messages = [message(f"{name}.{part}", f"{name}.{part}") for part in range(BATCH)]
            try:
                answer = post(running, batch(*messages))
            except (ConnectionError, HTTPException):
                return  # it was killed
            assert answer.status == 200
            answered.put(name)

    with ThreadPoolExecutor(SENDERS) as senders:
        sending = [senders.submit(send, sender) for sender in range(SENDERS)]
        kept = {answered.get(timeout=60) for _ in range(ANSWERED)}
        running.kill()
    for one in sending:
        one.result()
    kept |= {answered.get_nowait() for _ in range(answered.qsize())}
    running.start()
    events = listed(running, "--channel", "meta", "--limit", "100000")
    found = Counter(event["text"].partition(".")[0] for event in events)
    assert set(found.values()) == {BATCH}
    assert kept <= set(found)


def test_a_secret_of_the_url_stands_nowhere(running: Daemon) -> None:
    """Neither in the journal nor in any log."""
    body = json.dumps({"number": "+33639980001", "text": "Oui", "message_id": "1"}).encode()
    headers = {"Content-Type": "application/json"}
    assert running.request("POST", "/webhook/octo?k=wrong", body, headers).status == 403
    assert running.request("POST", f"/webhook/octo?k={KEY}&x=1", body, headers).status == 200
    assert running.wait_until_seen(1)[0]["data"]["body"] == "Oui"
    assert running.stop() == 0
    for file in running.folder.rglob("*"):
        if file.is_file() and file.suffix != ".toml":
            assert KEY.encode() not in file.read_bytes(), file


def test_a_secret_in_a_get_is_masked_however_it_is_spelt(running: Daemon) -> None:
    """In the journal, in what the agent gets, and in every log; a HEAD is nothing."""
    path = "/webhook/asked?from=%2B33639980001&text="
    escaped = "".join(f"%{ord(one):02x}" for one in KEY)
    spelt = [f"k={KEY}", f"%6b={KEY}", f"k={KEY}&%6B={KEY}", f"k={escaped}"]
    for number, secret in enumerate(spelt):
        answer = running.request("GET", f"{path}n{number}&id={number}&{secret}", b'{"text":"no"}')
        assert answer.status == 200
    assert running.request("GET", f"{path}odd%FF&id=9&k={KEY}").status == 200
    assert running.request("HEAD", f"{path}no&id=8&k={KEY}").status == 405
    assert running.request("GET", f"{path}no&id=8&k=no&k={KEY}").status == 403
    for unread in ("1", "2"):
        assert running.request("GET", f"/webhook/asked?unread={unread}&k={KEY}").status == 200
    seen = running.wait_until_seen(5)
    assert sorted(one["data"]["body"] for one in seen) == ["n0", "n1", "n2", "n3", "odd\ufffd"]
    assert len(listed(running, "--state", "rejected")) == 2
    assert running.stop() == 0
    for file in running.folder.rglob("*"):
        if file.is_file() and file.suffix != ".toml":
            assert KEY.encode() not in file.read_bytes(), file
            assert escaped.encode() not in file.read_bytes(), file


def test_the_readmes_example(tmp_path: Path) -> None:
    """As it stands there: checked, asked by Meta, sent to by `send`, and logged by its agent."""
    page = PROVIDERS.partition("## Meta's WhatsApp Cloud API")[2]
    settings = page.partition("```toml\n")[2].partition("```")[0]
    with closing(Daemon(tmp_path, settings)) as daemon:
        checked = json.loads(daemon.run("check-config", "--json", check=False).stdout)
        about = ("channels.meta", "agents.LeadAgent")
        found = [one for one in checked["findings"] if one["subject"].startswith(about)]
        assert {one["level"] for one in found} == {"ok"}
        daemon.start()
        asked = "hub.mode=subscribe&hub.verify_token=a%20text%20of%20your%20own&hub.challenge=1158"
        answer = daemon.request("GET", f"/webhook/meta?{asked}")
        assert (answer.status, answer.body) == (200, b"1158")
        daemon.wait_for("handshake.answered", channel="meta")
        assert "meta-whatsapp" in daemon.run("channels", "show", "meta").stdout
        assert "200" in daemon.run("send", "meta").stdout
        daemon.wait_for("attempt.succeeded", agent="LeadAgent")
        (event,) = json.loads(daemon.run("events", "list", "--channel", "meta", "--json").stdout)
        assert (event["state"], event["agent"]) == ("done", "LeadAgent")
