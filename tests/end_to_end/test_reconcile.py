"""`reconcile sms` beside a real daemon and a server that answers as Twilio's API does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from berinia_webhookd.channels.settings import TwilioSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStartNow
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.reconcile import Reconciliation
from berinia_webhookd.model import ChannelName
from berinia_webhookd.tools.reconcile import twilio
from berinia_webhookd.tools.reconcile.asking import AskAgain, patiently
from berinia_webhookd.tools.reconcile.comparing import Comparison, Tally, Wanted
from berinia_webhookd.tools.reconcile.twilio import TwilioMessages, _Http

from .daemon import PATIENCE_SECONDS, TOKEN, Daemon, sample_sms
from .provider_api import answers, fine, served
from .providers import ALL_CHANNELS, posted_whatsapp, sample_whatsapp
from .reconciling import ago, counts_of
from .twilio_api import ACCOUNT, TwilioApi

SMS = ChannelName("sms")
OURS = "+33639980002"


@pytest.fixture
def api() -> Iterator[TwilioApi]:
    with served(TwilioApi(TOKEN, page=50)) as api:
        yield api


def settings(api: TwilioApi, more: str = "") -> str:
    return f"""
    channels.sms.account_sids = ["{ACCOUNT}"]
    reconcile.twilio.api_url = "{api.url}"
    {more}
    """


NUMBERS = f'reconcile.twilio.numbers = ["{OURS}"]'


@pytest.fixture
def daemon(tmp_path: Path, api: TwilioApi) -> Iterator[Daemon]:
    """A running daemon that knows its number."""
    with closing(Daemon(tmp_path, settings(api, NUMBERS))) as daemon:
        yield daemon.start()


@pytest.fixture
def on_either(tmp_path: Path, api: TwilioApi, journal: str) -> Iterator[Daemon]:
    """The same on both engines."""
    with closing(Daemon(tmp_path, settings(api, f"{NUMBERS}\n{journal}"))) as daemon:
        yield daemon.start()


@pytest.fixture
def stopped(tmp_path: Path, api: TwilioApi) -> Iterator[Daemon]:
    with closing(Daemon(tmp_path, settings(api, NUMBERS))) as daemon:
        yield daemon


def test_what_never_arrived_is_taken_in_in_its_order(on_either: Daemon, api: TwilioApi) -> None:
    """The dry run counts it and changes nothing; the run hands it over, oldest first, as what it
    is; a second run finds everything.
    """
    daemon = on_either
    arrived = sample_sms()
    daemon.sms(arrived)
    api.holds(arrived, ago(minutes=40))
    missing = [sample_sms(Body=f"missed {number}") for number in range(120)]
    for number, fields in enumerate(missing):
        api.holds(fields, ago(minutes=200 - number))
    api.holds(sample_sms(Body="ours", From=OURS, To="+33639980001"), ago(minutes=5))
    api.holds(sample_sms(Body="out", From="+33639980001"), ago(minutes=5), direction="outbound-api")
    young = sample_sms(Body="young")
    api.holds(young, ago(minutes=2))

    dry = daemon.run("reconcile", "sms", "--since", "6h", "--dry-run", check=False)
    assert dry.returncode == 1
    assert counts_of(dry.stdout) == {
        "listed": 122,
        "here": 1,
        "pending": 1,
        "missing": 120,
        "too old": 0,
    }
    named = set(re.findall(r"missing: (SM\w+),", dry.stderr))
    assert len(named) == 20
    assert named <= {fields["MessageSid"] for fields in missing}
    assert "… and 100 more" in dry.stderr
    assert len(daemon.wait_until_seen(1)) == 1

    done = daemon.run("reconcile", "sms", "--since", "6h")
    assert counts_of(done.stdout)["taken in"] == 121
    seen = daemon.wait_until_seen(122)[1:]
    bodies = [one["data"]["body"] for one in seen]
    assert bodies == [one["Body"] for one in [*missing, young]]
    assert all(one["data"]["reconciled"] is True for one in seen)
    assert "reconciled" not in daemon.seen()[0]["data"]
    told = datetime.fromisoformat(seen[0]["data"]["timestamp"])
    assert told == api.messages[1]["_at"]  # its own time
    again = daemon.run("reconcile", "sms", "--since", "6h")
    assert counts_of(again.stdout) | {"listed": 122, "here": 122, "taken in": 0} == counts_of(
        again.stdout
    )


def test_a_callback_after_it_is_a_repetition(daemon: Daemon, api: TwilioApi) -> None:
    """What was taken in and comes late is here already."""
    fields = sample_sms()
    api.holds(fields, ago(hours=1))
    daemon.run("reconcile", "sms", "--since", "6h")
    assert daemon.sms(fields).status == 200
    daemon.wait_for("event.duplicate")
    assert len(daemon.wait_until_seen(1)) == 1


async def taken_in(loaded: Settings, api: TwilioApi) -> Tally:
    """What the command does, in this process: a race needs many of them."""
    of_sms = loaded.channels[SMS]
    assert isinstance(of_sms, TwilioSettings)
    at, tally = datetime.now(UTC), Tally()
    wanted = Wanted(of_sms.name, at - timedelta(hours=3), at, at, dry_run=False, late_ok=False)
    async with Reconciliation(loaded.journal.url.reveal()) as journal, HttpClient() as http:
        source = TwilioMessages(
            TwilioChannel(of_sms), of_sms, [OURS], api.url, http=http, tally=tally, pauses=[]
        )
        await Comparison(journal, source, wanted, tally, moved=lambda: None, tell=list).run()
    return tally


def test_one_that_is_killed_goes_on(tmp_path: Path, api: TwilioApi) -> None:
    """`kill -9` while it asks about the second number: the same line takes in the rest."""
    other = "+33639980003"
    numbers = f'reconcile.twilio.numbers = ["{OURS}", "{other}"]'
    with closing(Daemon(tmp_path, settings(api, numbers))) as daemon:
        daemon.start()
        for number in range(60):
            api.holds(sample_sms(Body=f"{number}", To=(OURS, other)[number % 2]), ago(minutes=30))
        words = daemon.command("reconcile", "sms", "--since", "40m")

        def kill(_api: TwilioApi, target: str) -> None:
            if quote(other) in target:
                killed.kill()

        api.faults = [kill] * 10
        killed = subprocess.Popen(words, env=daemon.environment, cwd=tmp_path)
        assert killed.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        api.faults = []
        done = daemon.run("reconcile", "sms", "--since", "50m")
        assert counts_of(done.stdout)["here"] == 30
        assert counts_of(done.stdout)["taken in"] == 30
        seen = [one["data"]["body"] for one in daemon.wait_until_seen(60)]
        assert sorted(seen, key=int) == [f"{number}" for number in range(60)]


def test_files_come_with_their_message(daemon: Daemon, api: TwilioApi) -> None:
    """Their URLs and types are what the callback would have said."""
    api.holds(sample_sms(Body=""), ago(hours=1), files=["image/jpeg", "audio/ogg"])
    daemon.run("reconcile", "sms", "--since", "6h")
    raw = daemon.wait_until_seen(1)[0]["data"]["raw_data"]
    assert raw["NumMedia"] == "2"
    assert raw["MediaContentType1"] == "audio/ogg"
    sid = api.messages[0]["sid"]
    path = f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{sid}/Media/ME{0:032x}"
    assert raw["MediaUrl0"] == f"https://api.twilio.com{path}"


def test_older_than_a_day_needs_a_word(daemon: Daemon, api: TwilioApi) -> None:
    """An answer to what was asked yesterday may do harm."""
    api.holds(sample_sms(), ago(hours=30))
    first = daemon.run("reconcile", "sms", "--since", "3d", check=False)
    assert first.returncode == 1
    assert counts_of(first.stdout)["too old"] == 1
    assert "--late-ok" in first.stderr
    second = daemon.run("reconcile", "sms", "--since", "3d", "--late-ok")
    assert counts_of(second.stdout)["taken in"] == 1


def test_what_is_not_in_the_time_is_cut_off(daemon: Daemon, api: TwilioApi) -> None:
    """The API knows days alone."""
    for hours in (1, 5, 9):
        api.holds(sample_sms(), ago(hours=hours))
    words = ("--since", "8h", "--until", "3h", "--dry-run")
    done = daemon.run("reconcile", "sms", *words, check=False)
    assert counts_of(done.stdout)["listed"] == 1


def test_an_opt_out_takes_effect_and_an_older_one_does_not(
    on_either: Daemon, api: TwilioApi
) -> None:
    """STOP is written down with its own time; one from before a START changes nothing, nor does a
    START from before a STOP, which was an answer then.
    """
    daemon, out, back, gone = on_either, "+33639980011", "+33639980012", "+33639980013"
    api.holds(sample_sms(Body="STOP", From=out), ago(hours=1))
    api.holds(sample_sms(Body="STOP", From=back), ago(hours=1))
    api.holds(sample_sms(Body="START", From=gone), ago(hours=1))
    daemon.sms(sample_sms(Body="START", From=back))  # which means nothing as yet
    daemon.sms(sample_sms(Body="STOP", From=gone))
    daemon.run("reconcile", "sms", "--since", "6h")
    assert daemon.run("consents", "check", out, check=False).returncode == 1
    assert daemon.run("consents", "check", back).returncode == 0
    assert daemon.run("consents", "check", gone, check=False).returncode == 1
    said = [one["data"] for one in daemon.wait_until_seen(5) if one["data"]["sender"] == gone]
    assert sorted(str(one["opt_out"]) for one in said) == ["None", "STOP"]


def test_without_numbers_those_that_the_journal_has_seen(tmp_path: Path, api: TwilioApi) -> None:
    """Numbers of people and receipts are not among them; WhatsApp's spelling is."""
    with closing(Daemon(tmp_path, settings(api))) as daemon:
        daemon.start()
        none = daemon.run("reconcile", "sms", "--since", "1h", "--dry-run", check=False)
        assert none.returncode == 1
        assert "reconcile.twilio.numbers" in none.stderr
        assert not none.stdout
        daemon.sms()
        receipt = {**sample_sms(), "MessageStatus": "delivered"}
        del receipt["Body"]
        daemon.sms(receipt)
        api.holds(sample_sms(From="whatsapp:+33639980001", To=f"whatsapp:{OURS}"), ago(hours=1))
        done = daemon.run("reconcile", "sms", "--since", "6h", "--dry-run", check=False)
        assert counts_of(done.stdout)["missing"] == 1
        assert not [target for target in api.asked if "sm0" in target]


def test_faults_that_pass_are_waited_for(daemon: Daemon, api: TwilioApi) -> None:
    """Too many requests, its own trouble, an answer cut off: asked again, and nothing is lost."""
    for _ in range(120):
        api.holds(sample_sms(), ago(hours=1))
    api.faults = [
        fine,
        answers(429, Retry_After="0"),
        answers(503, Retry_After="0"),
        fine,
        answers(200, b'{"messages": [{"sid"'),
        answers(500),
    ]
    done = daemon.run("reconcile", "sms", "--since", "6h")
    assert counts_of(done.stdout)["taken in"] == 120
    assert not api.faults
    assert "Twilio: it answers 429; asked again in 0 s" in done.stderr
    assert "Twilio: it answers 500; asked again in" in done.stderr
    log = (daemon.folder / "state" / "unified_logs" / "webhook.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    waits = [line for line in lines if line["event"] == "reconcile.waiting"]
    assert [line["reason"] for line in waits] == [
        *("it answers 429", "it answers 503", "its answer cannot be read", "it answers 500")
    ]
    assert {line["channel"] for line in waits} == {"sms"}


@pytest.mark.parametrize(
    ("token", "code", "says"),
    [(TOKEN, 4, "same page"), ("another", 3, "channels.sms.tokens")],
)
def test_faults_that_stay_are_told(
    daemon: Daemon, api: TwilioApi, token: str, code: int, says: str
) -> None:
    """A list without end ends, and credentials that are refused are named; neither says that
    nothing is missing.
    """
    api.token = token
    api.repeats = True
    done = daemon.run("reconcile", "sms", "--since", "1h", check=False)
    assert done.returncode == code
    assert says in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "spelling",
    [
        "http://{host}/steal",
        "HTTP://{host}/steal",
        "hTTps://{host}/steal",
        "//{host}/steal",
        "http://api.twilio.com@{host}/steal",
        "http://{host}\\\\@api.twilio.com/steal",
        "http://api.twilio.com.{host}/steal",
        "http://{host}#https://api.twilio.com/",
        " http://{host}/steal",
        "ht\ttp://{host}/steal",
    ],
)
async def test_the_credentials_are_for_one_host(api: TwilioApi, spelling: str) -> None:
    """A page that leads elsewhere is not followed, however it is spelt."""
    with served(TwilioApi(TOKEN)) as other:
        url = spelling.format(host=other.url.removeprefix("http://"))
        async with HttpClient() as http:
            with pytest.raises(CannotStartNow, match="another host"):
                await _Http(http, api.url).request("GET", url, auth=(ACCOUNT, TOKEN), headers={})
        assert not other.asked
    assert not api.asked


RECORDS: dict[str, Any] = {
    "nothing": None,
    "a text": "SM1",
    "a list": [[]],
    "a number for a SID": {"sid": 7},
    "a count that is a number": {"num_media": 3},
    "a count that is endless": {"num_media": "9" * 5000},
    "a day that there is not": {"date_sent": "Sat, 31 Feb 2026 12:00:00 +0000"},
    "a time that is a number": {"date_sent": 1},
    "somebody else's": {"account_sid": "AC" + "1" * 32},
    "to another number": {"to": "+33639989999"},
    "a name that forges a line": {"sid": "SM1\nsms: listed 0", "to": "+33639989999"},
}


@pytest.mark.parametrize("what", RECORDS)
def test_one_that_cannot_be_read_keeps_no_other_back(
    daemon: Daemon, api: TwilioApi, what: str
) -> None:
    """It is named and counted, and is not taken in."""
    api.holds(sample_sms(), ago(hours=1))
    record = RECORDS[what]
    plain = {name: value for name, value in api.messages[0].items() if name != "_at"}
    api.extra = [
        {**plain, "sid": "SM" + "f" * 32, **record} if isinstance(record, dict) else record
    ]
    done = daemon.run("reconcile", "sms", "--since", "6h", check=False)
    assert done.returncode == 1
    assert counts_of(done.stdout)["taken in"] == 1
    assert "not taken in 1" in done.stdout
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if "listed 0" in line]) <= 1
    assert len(daemon.wait_until_seen(1)) == 1


def test_half_a_character_is_taken_in(daemon: Daemon, api: TwilioApi) -> None:
    """As it may be where a text was cut."""
    api.holds({**sample_sms(), "Body": "hi \ud83d"}, ago(hours=1))
    assert counts_of(daemon.run("reconcile", "sms", "--since", "6h").stdout)["taken in"] == 1
    assert daemon.wait_until_seen(1)[0]["data"]["body"].startswith("hi ")


def test_a_file_elsewhere_is_no_file_of_twilio_s(daemon: Daemon, api: TwilioApi) -> None:
    """Whoever fetches it does so with the credentials."""
    fields = sample_sms()
    api.holds(fields, ago(hours=1), files=["image/jpeg"])
    api.files[fields["MessageSid"]][0]["uri"] = ".evil.example/x.json"
    done = daemon.run("reconcile", "sms", "--since", "6h", check=False)
    assert (done.returncode, counts_of(done.stdout)["taken in"]) == (1, 0)


PAGES = {
    "no list": b'{"messages": null}',
    "two lists": b'{"a": [], "b": []}',
    "no object": b"[]",
    "nested": b"[" * 300_000,
    "a number without end": b'{"messages": [], "page": ' + b"9" * 5000 + b"}",
    "no text": b"\xff\xfe",
}


@pytest.mark.parametrize("what", PAGES)
async def test_a_page_that_cannot_be_read_ends_it_with_a_sentence(
    daemon: Daemon, api: TwilioApi, what: str
) -> None:
    api.faults = [fine, answers(200, PAGES[what])]
    with pytest.raises(CannotStartNow, match="cannot be read"):
        await taken_in(daemon.settings, api)


async def test_an_answer_has_a_size_and_a_list_an_end(
    daemon: Daemon, api: TwilioApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither fills the memory, nor lasts for ever with pages that are never the same."""
    loaded = daemon.settings
    api.faults = [fine, answers(200, b" " * (16 * 1024 * 1024 + 1))]
    with pytest.raises(CannotStartNow, match="longer"):
        await taken_in(loaded, api)
    monkeypatch.setattr(twilio, "MOST_PAGES", 5)
    api.endless = True
    with pytest.raises(CannotStartNow, match="more than 5 pages"):
        await taken_in(loaded, api)


def test_a_token_that_is_revoked_meanwhile_is_told(daemon: Daemon, api: TwilioApi) -> None:
    """The first answer was fine; a later one refuses the credentials."""
    api.faults = [fine, answers(401)]
    done = daemon.run("reconcile", "sms", "--since", "1h", check=False)
    assert done.returncode == 3
    assert "refuses the credentials" in done.stderr


def test_without_an_account_nothing_is_compared(tmp_path: Path, api: TwilioApi) -> None:
    """The list is one of an account."""
    more = f'reconcile.twilio.api_url = "{api.url}"\n{NUMBERS}'
    with closing(Daemon(tmp_path, more)) as daemon:
        daemon.start()
        done = daemon.run("reconcile", "sms", "--since", "1h", "--dry-run", check=False)
        assert done.returncode == 3
        assert "channels.sms.account_sids" in done.stderr


async def test_one_that_never_answers_is_given_up() -> None:
    """After its pauses, with what to do; each is told."""
    asked, told = 0, list[tuple[str, str, float]]()

    async def ask() -> None:
        nonlocal asked
        asked += 1
        raise AskAgain("there is no answer")

    def waits(provider: str, why: str, seconds: float) -> None:
        told.append((provider, why, seconds))

    with pytest.raises(CannotStartNow, match="no answer") as caught:
        await patiently(ask, "Twilio", [0.0, 0.0], waits=waits)
    assert asked == 3
    assert told == [("Twilio", "there is no answer", 0.0)] * 2
    assert caught.value.hint is not None
    await asyncio.sleep(0)


def test_the_morning_after_an_outage(stopped: Daemon, api: TwilioApi) -> None:
    """While the daemon is stopped they are taken in as well; it hands them over when it starts. Who
    did it is written down, without an address.
    """
    stopped.start()
    stopped.stop()
    logs = stopped.folder / "state" / "unified_logs"
    (logs / "agents.log").unlink(missing_ok=True)  # as where it was stopped before a host began
    for number in range(3):
        api.holds(sample_sms(Body=f"{number}"), ago(minutes=60 - number))
    dry = stopped.run("reconcile", "sms", "--since", "6h", "--dry-run", check=False)
    assert counts_of(dry.stdout)["missing"] == 3
    stopped.run("reconcile", "sms", "--since", "6h")
    stopped.start()
    assert [one["data"]["body"] for one in stopped.wait_until_seen(3)] == ["0", "1", "2"]
    lines = [json.loads(line) for line in (logs / "webhook.log").read_text().splitlines()]
    (missed,) = [line for line in lines if line["event"] == "events.missed"]
    assert missed["missing"] == 3
    assert OURS not in json.dumps(missed)
    assert len([line for line in lines if line.get("reconciled")]) == 3
    (complete,) = [line for line in lines if line["event"] == "events.complete"]
    assert complete["since"] < missed["since"] < missed["until"] < complete["until"]
    assert "never came" not in stopped.run("doctor", check=False).stdout


def test_what_is_missing_is_alerted(tmp_path: Path, api: TwilioApi) -> None:
    """A dry run that nobody looks at tells what is set for alerts."""
    told = tmp_path / "told.json"
    with closing(
        Daemon(tmp_path, settings(api, f"{NUMBERS}\nalerts.command = 'tee {told}'"))
    ) as it:
        it.start()
        api.holds(sample_sms(), ago(hours=1))
        it.run("reconcile", "sms", "--since", "6h", "--dry-run", check=False)
        alert = json.loads(told.read_text())
        assert alert["kind"] == "events_missed"
        assert alert["channel"] == "sms"
        assert OURS not in told.read_text()


def test_what_the_bot_wrote_down_is_taken_in(tmp_path: Path) -> None:
    """Lines as the bot posts them: what arrived is here, what did not is taken in once, in its
    order; a pause is no message, and a line that cannot be read is counted and named.
    """
    with closing(Daemon(tmp_path, ALL_CHANNELS)) as daemon:
        daemon.start()
        messages = [
            sample_whatsapp(content=f"{number}", timestamp=ago(minutes=90 - number).isoformat())
            for number in range(4)
        ]
        path = "/webhook/whatsapp"
        assert daemon.request("POST", path, *posted_whatsapp(messages[0])).status == 200
        daemon.wait_until_seen(1)
        file = tmp_path / "outbox.jsonl"
        lines = [json.dumps(one) for one in [*messages, messages[3]]]
        pause = {"source": "whatsapp", "type": "pause", "author": "33639980001@c.us"}
        lines += [json.dumps({**pause, "timestamp": ago(hours=1).isoformat()}), json.dumps(pause)]
        lines += [json.dumps(sample_whatsapp(timestamp=ago(hours=30).isoformat())), '{"source":']
        file.write_text("\n".join(lines) + "\n")
        dry = daemon.run("reconcile", "whatsapp", str(file), "--dry-run", check=False)
        assert dry.returncode == 1
        assert "listed 6, here 1, pending 0, missing 3, too old 1, not taken in 1" in dry.stdout
        assert "line 9" in dry.stderr
        daemon.run("reconcile", "whatsapp", str(file), check=False)
        seen = daemon.wait_until_seen(4)
        assert [one["content"] for one in seen] == ["0", "1", "2", "3"]
        again = daemon.run("reconcile", "whatsapp", str(file), check=False)
        assert "here 5" in again.stdout
        assert "taken in 0" in again.stdout


def test_a_line_of_the_bot_has_a_size_and_a_time(tmp_path: Path) -> None:
    """One that is longer than a message may be, or whose time is none, keeps no other back; what is
    no file is not waited for.
    """
    with closing(Daemon(tmp_path, ALL_CHANNELS)) as daemon:
        daemon.start()
        file = tmp_path / "outbox.jsonl"
        good = json.dumps(sample_whatsapp(timestamp=ago(hours=1).isoformat()))
        long = json.dumps(sample_whatsapp(content="x" * 3_000_000))
        times = ("9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "yesterday")
        late = [json.dumps(sample_whatsapp(timestamp=one)) for one in times]
        file.write_text("\n".join([long, *late, good, long]))  # the last line has no end
        done = daemon.run("reconcile", "whatsapp", str(file), check=False)
        assert (done.returncode, counts_of(done.stdout)["taken in"]) == (1, 1)
        assert "not taken in 5" in done.stdout
        assert "line 1: It is longer" in done.stderr
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        for odd in (pipe, Path("/dev/zero")):
            done = daemon.run("reconcile", "whatsapp", str(odd), check=False)
            assert done.returncode == 1
            assert "no ordinary file" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("email",),
        ("email", "{file}"),
        ("sms",),
        ("sms", "{file}"),
        ("whatsapp", "--since", "6h"),
        ("whatsapp", "{file}", "--since", "6h"),
    ],
)
def test_what_makes_no_sense_is_refused(stopped: Daemon, words: tuple[str, ...]) -> None:
    """A file is for the bot, a time for who is asked."""
    file = stopped.folder / "file"
    file.write_text("")
    done = stopped.run("reconcile", *(word.format(file=file) for word in words), check=False)
    assert done.returncode == 2
