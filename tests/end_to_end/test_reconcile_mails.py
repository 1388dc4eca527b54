"""`reconcile email` beside a real daemon and a server that answers as Mailgun's API does."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.mailgun_listed import listed
from berinia_webhookd.channels.settings import MailgunSettings
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.model import ChannelName
from berinia_webhookd.tools.reconcile.comparing import Tally
from berinia_webhookd.tools.reconcile.mailgun import TRIES, MailgunMails

from .daemon import PATIENCE_SECONDS, Daemon
from .mailgun_api import DOMAIN, MailgunApi
from .provider_api import answers, fine, served
from .providers import ALL_CHANNELS, EMAIL_PATH, File, posted_mail, proof, sample_mail
from .reconciling import age_deliveries, ago, counts_of
from .twilio_api import TwilioApi

KEY = "f0e1d2c3b4a5968778695a4b3c2d1e0f-00000000-00000001"
WORDS = 'channels.email.opt_out_words = { stop = ["stop"] }'
LINE = ("reconcile", "email", "--since", "20h")
PDF = File(b"%PDF-1.7\r\n\0--xyz", name="devis \u00e9t\u00e9.pdf")


@pytest.fixture
def api() -> Iterator[MailgunApi]:
    with served(MailgunApi(KEY, page=20)) as api:
        yield api


def settings(api: MailgunApi, more: str = "") -> str:
    return f"""
    {ALL_CHANNELS}
    reconcile.mailgun.api_key = "{KEY}"
    reconcile.mailgun.domain = "{DOMAIN}"
    reconcile.mailgun.api_url = "{api.url}"
    {more}
    """


@pytest.fixture
def daemon(tmp_path: Path, api: MailgunApi) -> Iterator[Daemon]:
    """A running daemon that has had a mail, two days ago by Mailgun's account."""
    with closing(Daemon(tmp_path, settings(api))) as daemon:
        yield first_mail(daemon.start(), api)


@pytest.fixture
def on_either(tmp_path: Path, api: MailgunApi, journal: str) -> Iterator[Daemon]:
    """The same on both engines."""
    with closing(Daemon(tmp_path, settings(api, journal))) as daemon:
        yield first_mail(daemon.start(), api)


def first_mail(daemon: Daemon, api: MailgunApi) -> Daemon:
    """Have a mail arrive, and let the journal have had it two days ago: what came before the first
    one may have been here.
    """
    api.holds(post(daemon), ago(hours=48))
    daemon.wait_until_seen(1)
    age_deliveries(daemon, hours=48)
    return daemon


def post(daemon: Daemon, fields: dict[str, str] | None = None, *files: File) -> dict[str, str]:
    """Have it arrive, signed anew."""
    fields = {**(fields or sample_mail()), **proof()}
    assert daemon.request("POST", EMAIL_PATH, *posted_mail(fields, files)).status == 200
    return fields


def seen_after_the_first(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    return [one["data"] for one in daemon.wait_until_seen(count + 1)[1:]]


def test_what_never_arrived_is_taken_in_in_its_order(on_either: Daemon, api: MailgunApi) -> None:
    """With its files, for each of its recipients; the dry run changes nothing, young mails are left
    to Mailgun for nine hours, and a second run finds everything.
    """
    daemon = on_either
    api.holds(post(daemon), ago(hours=10))
    missing = [
        sample_mail(body_plain=f"{number}", stripped_text=f"{number}") for number in range(50)
    ]
    for number, fields in enumerate(missing):
        api.holds(fields, ago(minutes=800 - number))
    with_files = sample_mail(stripped_text="avec fichiers")
    api.holds(
        with_files, ago(minutes=700), files=[PDF, File(b"", name="", content_type="text/csv")]
    )
    both = ["contact@example.com", "ventes@example.com"]
    api.holds(sample_mail(stripped_text="aux deux"), ago(minutes=690), recipients=both)
    young = sample_mail(stripped_text="jeune")
    api.holds(young, ago(hours=1))
    api.holds(sample_mail(), ago(hours=10), flags={"is-authenticated": True})
    api.holds(sample_mail(), ago(hours=10), targets=["camille@example.org"])

    dry = daemon.run(*LINE, "--dry-run", check=False)
    assert dry.returncode == 1
    expected = {"listed": 55, "here": 1, "pending": 1, "missing": 53, "too old": 0}
    assert counts_of(dry.stdout) == expected
    assert missing[0]["Message-Id"] in dry.stderr
    done = daemon.run(*LINE)
    assert counts_of(done.stdout)["taken in"] == 53
    seen = seen_after_the_first(daemon, 54)[1:]
    assert all(one["reconciled"] is True for one in seen)
    contact, sales = ([one for one in seen if one["recipient"] == address] for address in both)
    assert [one["body"] for one in sales] == ["aux deux"]
    assert [one["body"] for one in contact] == [
        *(f"{number}" for number in range(50)),
        *("avec fichiers", "aux deux"),
    ]
    assert datetime.fromisoformat(contact[0]["timestamp"]) == ago_of(api, missing[0])
    (pdf, csv) = attachments(daemon)
    assert pdf["file_name"] == PDF.name
    assert pdf["sha256"] == hashlib.sha256(PDF.content).hexdigest()
    assert csv["size_bytes"] == 0

    again = daemon.run(*LINE, check=False)
    assert counts_of(again.stdout)["here"] == 54
    assert counts_of(again.stdout)["taken in"] == 0
    at_once = daemon.run(*LINE, "--now")
    assert counts_of(at_once.stdout)["taken in"] == 1
    assert seen_after_the_first(daemon, 55)[-1]["body"] == "jeune"


def ago_of(api: MailgunApi, fields: dict[str, str]) -> datetime:
    """When Mailgun says that it accepted it."""
    id_ = fields["Message-Id"].strip("<>")
    (item,) = (one for one in api.items if one["message"]["headers"].get("message-id") == id_)
    return datetime.fromisoformat(item["@timestamp"])


def events(daemon: Daemon) -> list[dict[str, Any]]:
    """Those of the journal, the newest first."""
    words = ("events", "list", "--channel", "email", "--limit", "100", "--json")
    found: list[dict[str, Any]] = json.loads(daemon.run(*words).stdout)
    return found


def attachments(daemon: Daemon) -> list[dict[str, Any]]:
    """The files of the one mail that has some."""
    shown = [daemon.run("events", "show", one["id"], "--json").stdout for one in events(daemon)[:3]]
    (found,) = filter(None, (json.loads(one)["data"]["attachments"] for one in shown))
    return list(found)


def test_a_callback_after_it_is_a_repetition(on_either: Daemon, api: MailgunApi) -> None:
    """Though Mailgun reads the mail in another way now, or brings a file with it."""
    daemon = on_either
    fields = sample_mail(stripped_text="Oui.")
    api.holds({**fields, "stripped-text": "Oui"}, ago(hours=10))
    assert counts_of(daemon.run(*LINE).stdout)["taken in"] == 1
    post(daemon, fields)
    post(daemon, {**fields, "stripped-text": "Oui.."}, PDF)
    daemon.wait_for("event.duplicate", count=2)
    assert len(daemon.wait_until_seen(2)) == 2
    assert counts_of(daemon.run(*LINE).stdout)["here"] == 1


def test_an_opt_out_takes_effect(tmp_path: Path, api: MailgunApi) -> None:
    """As one that arrives."""
    with closing(Daemon(tmp_path, settings(api, WORDS))) as daemon:
        first_mail(daemon.start(), api)
        api.holds(sample_mail(stripped_text="Stop", sender="out@example.com"), ago(hours=10))
        daemon.run(*LINE)
        assert daemon.run("consents", "check", "out@example.com", check=False).returncode == 1


def test_one_message_id_may_be_two_mails(daemon: Daemon, api: MailgunApi) -> None:
    """Told apart by their Date, which the stored message says; one that goes to two targets, or was
    sent twice, is one.
    """
    first = sample_mail(stripped_text="premier")
    other = {**first, "Date": "Tue, 24 Nov 2026 10:31:00 +0100", "stripped-text": "second"}
    api.holds(first, ago(hours=12), targets=["https://a.example.com/x", "https://b.example.com/y"])
    api.holds(other, ago(hours=11))
    api.holds(other, ago(hours=10))
    post(daemon, first)
    daemon.run(*LINE, check=False)
    assert [one["body"] for one in seen_after_the_first(daemon, 2)] == ["premier", "second"]
    assert counts_of(daemon.run(*LINE, check=False).stdout)["missing"] == 0


def test_what_was_deleted_is_said(daemon: Daemon, api: MailgunApi) -> None:
    """The mail itself, or one of its files: counted, and the rest is taken in."""
    gone, broken, kept = (sample_mail(stripped_text=text) for text in ("gone", "broken", "kept"))
    del api.stored[api.holds(gone, ago(hours=12))]
    del api.files[api.holds(broken, ago(hours=11), files=[PDF]) + "/attachments/0"]
    api.holds(kept, ago(hours=10))
    done = daemon.run(*LINE, check=False)
    assert done.returncode == 1
    assert "not taken in 2" in done.stdout
    assert f"{gone['Message-Id']} to contact@example.com: Mailgun has deleted" in done.stderr
    assert [one["body"] for one in seen_after_the_first(daemon, 1)] == ["kept"]


def test_what_cannot_be_read_keeps_no_other_back(daemon: Daemon, api: MailgunApi) -> None:
    """Times beyond all calendars, and headers deeper than any: named, counted and left out. Half a
    character, or bytes that are none, are what the writer of a mail may bring into its subject.
    """
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    api.stored[api.holds(sample_mail(), ago(hours=12))]["message-headers"] = deep
    half = sample_mail(stripped_text="half a character", subject="hi \ud83d")
    path = api.holds(half, ago(hours=11))
    api.items[-1]["message"]["headers"]["subject"] = "hi \ud83d"
    assert b"\\ud83d" in json.dumps(api.stored[path]).encode()
    for time in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-13-45"):
        with pytest.raises(MalformedDelivery):
            listed(ChannelName("email"), {**api.items[0], "@timestamp": time})
    done = daemon.run(*LINE, check=False)
    assert done.returncode == 1
    assert "taken in 1, not taken in 1" in done.stdout
    assert "Its headers cannot be read" in done.stderr
    (seen,) = seen_after_the_first(daemon, 1)
    assert (seen["body"], seen["subject"]) == ("half a character", "hi ?")


@pytest.mark.parametrize("garbage", [b"<html>", b"[]", b'{"sender": "a', b"[" * 100_000])
def test_a_stored_message_that_is_garbage_keeps_no_other_back(
    daemon: Daemon, api: MailgunApi, garbage: bytes
) -> None:
    """Asked for again, as the next answer may be a whole one; then named, counted and left out."""
    broken, kept = sample_mail(stripped_text="broken"), sample_mail(stripped_text="kept")
    place = api.holds(broken, ago(hours=12))
    api.garbage[place] = garbage
    api.holds(kept, ago(hours=10))
    done = daemon.run(*LINE, check=False)
    assert done.returncode == 1
    assert "taken in 1, not taken in 1" in done.stdout
    assert f"{broken['Message-Id']} to contact@example.com: The stored message" in done.stderr
    assert len([one for one in api.asked if one == place]) == TRIES
    assert [one["body"] for one in seen_after_the_first(daemon, 1)] == ["kept"]


def test_what_cannot_be_known_is_listed_and_not_taken_in(tmp_path: Path, api: MailgunApi) -> None:
    """A mail without a Message-Id, and what is older than the first mail that is here."""
    with closing(Daemon(tmp_path, settings(api))) as daemon:
        daemon.start()
        api.holds(sample_mail(), ago(hours=10))
        none = daemon.run(*LINE, check=False)
        assert "not taken in 1" in none.stdout
        first_mail(daemon, api)
        api.holds(sample_mail(Message_Id=None), ago(hours=10))
        api.holds(sample_mail(), ago(hours=50))
        done = daemon.run("reconcile", "email", "--since", "3d", "--late-ok", check=False)
        assert done.returncode == 1
        assert "no Message-Id" in done.stderr
        assert "older than the first mail" in done.stderr
        assert "here 1, pending 0, missing 1, too old 0; taken in 1, not taken in 2" in done.stdout


def test_one_that_is_killed_goes_on(on_either: Daemon, api: MailgunApi, tmp_path: Path) -> None:
    """`kill -9` of it and of the daemon while it reads the second day: the same line takes in the
    rest, once each.
    """
    daemon = on_either
    for number in range(30):
        api.holds(sample_mail(stripped_text=f"{number}"), ago(hours=(36, 12)[number % 2]))
    line = ("reconcile", "email", "--since", "40h", "--late-ok")

    def kill(_api: MailgunApi, target: str) -> None:
        if "messages" in target and len([one for one in _api.asked if "messages" in one]) > 25:
            killed.kill()

    api.faults = [kill] * 200
    killed = subprocess.Popen(daemon.command(*line), env=daemon.environment, cwd=tmp_path)
    assert killed.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    daemon.kill()
    api.faults = []
    done = daemon.run(*line)
    assert counts_of(done.stdout)["here"] in range(15, 30)
    assert counts_of(done.stdout)["here"] + counts_of(done.stdout)["taken in"] == 30
    assert counts_of(daemon.run(*line).stdout)["here"] == 30
    daemon.start()
    count = 31
    while len({one["data"]["body"] for one in daemon.wait_until_seen(count)}) < 31:
        count += 1  # what ran when the daemon was killed is seen again
    assert len(events(daemon)) == 31


def test_faults_that_pass_are_waited_for(daemon: Daemon, api: MailgunApi) -> None:
    """Too many requests, its own trouble, an answer cut off: asked again, and nothing is lost."""
    for _ in range(30):
        api.holds(sample_mail(), ago(hours=10))
    api.faults = [
        answers(429, Retry_After="0"),
        *(fine, answers(200, b'{"items": [{"id"'), answers(503, Retry_After="0")),
        *(fine, answers(200, b'{"items": 7}'), answers(502)),
    ]
    done = daemon.run(*LINE)
    assert counts_of(done.stdout)["taken in"] == 30
    assert not api.faults


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        ("reconcile.mailgun.api_key = 'another'", 3, "refuses reconcile.mailgun.api_key"),
        ("reconcile.mailgun.domain = 'example.org'", 3, "has no domain example.org"),
        ("", 4, "same page"),
    ],
)
def test_faults_that_stay_are_told(
    tmp_path: Path, api: MailgunApi, more: str, code: int, says: str
) -> None:
    """A list without end ends; credentials that are refused and a domain that is not of this region
    are named. None says that nothing is missing.
    """
    api.repeats = True
    with closing(Daemon(tmp_path, settings(api))) as daemon:
        first_mail(daemon.start(), api)
        api.holds(sample_mail(), ago(hours=10))
        if more:
            key = more.partition(" ")[0]
            lines = daemon.config.read_text().splitlines()
            lines = [line for line in lines if not line.strip().startswith(key)]
            daemon.config.write_text("\n".join([*lines, more]))
        done = daemon.run(*LINE, check=False)
        assert done.returncode == code
        assert says in done.stderr
        assert not done.stdout


@pytest.mark.parametrize("missing", ["api_key", "domain"])
def test_without_credentials_nothing_is_compared(tmp_path: Path, missing: str) -> None:
    """With what to set."""
    there = {"api_key": KEY, "domain": DOMAIN}
    del there[missing]
    given = "\n".join(f'reconcile.mailgun.{name} = "{value}"' for name, value in there.items())
    with closing(Daemon(tmp_path, ALL_CHANNELS + given)) as daemon:
        daemon.start()
        done = daemon.run(*LINE, "--dry-run", check=False)
        assert done.returncode == 3
        assert f"set reconcile.mailgun.{missing}" in done.stderr


@pytest.mark.parametrize(
    "place",
    [
        "http://{host}/v3/steal",
        "https://{host}/v3/steal",
        "https://api.mailgun.net@{host}/v3/steal",
        "https://api.mailgun.net.{host}/v3/steal",
        "https://mailgun.net.example.com/v3/steal",
        "https://evilmailgun.net/v3/steal",
        "http://storage.eu.mailgun.net/v3/plain",
        "//{host}/v3/steal",
        "https://{host}\\@api.mailgun.net/v3/steal",
        "https://[/v3/steal",
    ],
)
async def test_the_credentials_are_for_mailguns_hosts(tmp_path: Path, place: str) -> None:
    """A stored message elsewhere is not asked for, however its address is spelt."""
    email = ChannelName("email")
    with served(MailgunApi(KEY)) as other:
        other.holds(sample_mail(), ago(hours=1))
        url = place.format(host=other.url.removeprefix("http://"))
        mail = listed(email, {**other.items[0], "storage": {"url": [url], "key": "BAABAg=="}})
        assert mail is not None
        loaded = Daemon(tmp_path, settings(other)).settings
        of_email = loaded.channels[email]
        assert isinstance(of_email, MailgunSettings)
        asked = replace(loaded.reconcile_mailgun, api_url=None)
        async with HttpClient() as http:
            mails = MailgunMails(MailgunChannel(of_email), asked, http=http, tally=Tally())
            with pytest.raises(MalformedDelivery, match="another host"):
                await mails.rebuilt(mail, ago(hours=0))
        assert not other.asked


def test_all_that_can_be_asked_are_asked(tmp_path: Path, api: MailgunApi) -> None:
    """Without a channel, one after the other while the daemon is stopped; one that refuses keeps
    the others from nothing, and where none can be asked that is said.
    """
    of_twilio = """
    channels.sms.account_sids = ["AC00000000000000000000000000000000"]
    reconcile.twilio.numbers = ["+33639980002"]
    """
    with served(TwilioApi("another token")) as twilio:
        more = f'{of_twilio}reconcile.twilio.api_url = "{twilio.url}"'
        with closing(Daemon(tmp_path, settings(api, more))) as daemon:
            first_mail(daemon.start(), api)
            daemon.stop()
            api.holds(sample_mail(), ago(hours=10))
            done = daemon.run("reconcile", "--since", "20h", "--dry-run", check=False)
            assert done.returncode == 3
            assert "sms: Twilio refuses every token" in done.stderr
            assert counts_of(done.stdout)["missing"] == 1
            daemon.config.write_text("")
            none = daemon.run("reconcile", "--since", "20h", check=False)
            assert none.returncode == 3
            assert "no channel's provider can be asked" in none.stderr
            assert "set channels.sms.account_sids or reconcile.mailgun.api_key" in none.stderr
