"""What was signed but makes no sense is kept although it is refused, and can be replayed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .daemon import SMS_PATH, Daemon, sample_sms, signed_sms
from .providers import (
    ALL_CHANNELS,
    EMAIL_PATH,
    WHATSAPP_PATH,
    posted_mail,
    posted_whatsapp,
    proof,
    sample_mail,
    sample_whatsapp,
)

OURS, OTHERS = "AC" + "0" * 32, "AC" + "1" * 32
Start = Callable[..., Daemon]
Request = tuple[bytes, dict[str, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon that takes one account's messages."""
    with ExitStack() as stack:

        def begin(settings: str = "") -> Daemon:
            accounts = f'channels.sms.account_sids = ["{OURS}"]'
            daemon = Daemon(tmp_path, f"{ALL_CHANNELS}\n{accounts}\n{settings}")
            stack.callback(daemon.close)
            return daemon.start()

        yield begin


def allow_the_other_account(daemon: Daemon) -> None:
    """The fix: the settings file as it should have been, read again."""
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(f'"{OURS}"', f'"{OURS}", "{OTHERS}"'))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("config.reloaded", changed=["channels.sms.account_sids"])


def events(daemon: Daemon, *words: str) -> Any:
    return json.loads(daemon.run("events", *words, "--json").stdout)


def rejected(daemon: Daemon) -> list[Any]:
    """Newest first."""
    found: list[Any] = events(daemon, "list", "--state", "rejected")
    return found


def refuse(daemon: Daemon, path: str, request: Request, status: int) -> None:
    assert daemon.request("POST", path, *request).status == status


def test_each_channel_keeps_what_it_refused(start: Start) -> None:
    """Listed by their state, each with the reason; not among the events, not with the agent."""
    daemon = start()
    refuse(daemon, SMS_PATH, signed_sms(sample_sms(AccountSid=OTHERS)), 403)
    refuse(daemon, EMAIL_PATH, posted_mail(sample_mail(recipient=None)), 400)
    refuse(daemon, WHATSAPP_PATH, posted_whatsapp(sample_whatsapp(author=7)), 400)
    daemon.wait_for("delivery.rejected", count=3)
    listed = rejected(daemon)
    assert [one["channel"] for one in listed] == ["whatsapp", "email", "sms"]
    assert {one["state"] for one in listed} == {"rejected"}
    reasons = [events(daemon, "show", one["id"])["rejection"] for one in listed]
    assert (reasons[0]["missing"], reasons[0]["invalid"]) == ([], ["author"])
    assert (reasons[1]["missing"], reasons[1]["invalid"]) == (["recipient"], [])
    assert reasons[2]["kind"] == "AccountRefused"
    readable = daemon.run("events", "show", listed[1]["id"][:20]).stdout
    assert "missing: recipient" in readable
    assert "{" not in readable
    assert events(daemon, "list") == []
    assert daemon.seen() == []
    metrics = daemon.request("GET", "/metrics").body.decode()
    for channel in ("sms", "email", "whatsapp"):
        assert f'berinia_webhookd_rejected_total{{channel="{channel}"}} 1.0' in metrics


def test_nothing_unproven_is_kept(start: Start) -> None:
    """A stranger cannot fill the journal."""
    daemon = start()
    refuse(daemon, SMS_PATH, signed_sms(sample_sms(AccountSid=OTHERS), token="f" * 32), 403)
    mail = {**sample_mail(recipient=None), **proof(key="another")}
    refuse(daemon, EMAIL_PATH, posted_mail(mail), 403)
    body, headers = posted_whatsapp(sample_whatsapp(author=7))
    refuse(daemon, WHATSAPP_PATH, (body, {**headers, "X-Forwarded-For": "192.0.2.1"}), 403)
    assert rejected(daemon) == []


def test_a_repeated_delivery_is_kept_once(start: Start) -> None:
    """Once per signature, or body where there is none; the provider's retries add nothing."""
    daemon = start()
    requests = (
        (SMS_PATH, signed_sms(sample_sms(AccountSid=OTHERS)), 403),
        (EMAIL_PATH, posted_mail(sample_mail(recipient=None)), 400),
        (WHATSAPP_PATH, posted_whatsapp(sample_whatsapp(author=7)), 400),
    )
    for _ in range(3):
        for path, request, status in requests:
            refuse(daemon, path, request, status)
    signed = proof()
    for subject in ("one", "two"):
        mail = {**sample_mail(recipient=None, subject=subject), **signed}
        refuse(daemon, EMAIL_PATH, posted_mail(mail), 400)
    assert len(rejected(daemon)) == len(requests) + 1


def test_only_so_many_are_kept(start: Start) -> None:
    """The oldest go."""
    daemon = start("journal.rejected_max = 3")
    for number in range(5):
        refuse(daemon, WHATSAPP_PATH, posted_whatsapp({"source": f"number {number}"}), 400)
    kept = rejected(daemon)
    sizes = [events(daemon, "show", one["id"])["body_bytes"] for one in kept]
    assert sizes == [len(b'{"source": "number 4"}')] * 3
    times = [one["received_at"] for one in kept]
    assert times == sorted(times, reverse=True)


def test_a_replay_before_the_fix_says_why(start: Start) -> None:
    """Exit code 1, the reason with its fields, and the delivery stays where it is."""
    daemon = start()
    refuse(daemon, EMAIL_PATH, posted_mail(sample_mail(recipient=None)), 400)
    (before,) = rejected(daemon)
    for flags, word in ((["--dry-run"], "would not be replayed"), ([], "not replayed")):
        done = daemon.run("events", "replay", before["id"], *flags, check=False)
        assert done.returncode == 1
        assert f"{word}: still refused: " in done.stdout
        assert "missing: recipient" in done.stdout
    assert rejected(daemon) == [before]


def test_after_a_fix_a_replay_reaches_the_agent(start: Start) -> None:
    """It re-enters at decoding with the body and time it came with, and is an event from then."""
    daemon = start()
    fields = sample_sms(AccountSid=OTHERS, Body="  Oui 🙂 ")
    refuse(daemon, SMS_PATH, signed_sms(fields), 403)
    (kept,) = rejected(daemon)
    allow_the_other_account(daemon)
    (dry,) = events(daemon, "replay", kept["id"], "--dry-run")
    assert (dry["was"], dry["refused"], dry["event_id"]) == ("rejected", None, None)
    assert rejected(daemon) == [kept]
    (replayed,) = events(daemon, "replay", kept["id"])
    daemon.wait_for("attempt.succeeded", event_id=replayed["event_id"])
    (payload,) = daemon.seen()
    assert payload["data"]["raw_data"] == fields
    assert payload["data"]["timestamp"] == kept["received_at"]
    (listed,) = events(daemon, "list")
    assert (listed["id"], listed["state"]) == (replayed["event_id"], "done")
    assert rejected(daemon) == []
    assert daemon.run("events", "replay", kept["id"], check=False).returncode == 1


def test_a_replayed_delivery_is_the_message_when_it_comes_again(start: Start) -> None:
    """Whichever way it came first, the agent gets it once."""
    daemon = start()
    request = signed_sms(sample_sms(AccountSid=OTHERS, Body="replayed first"))
    resent = signed_sms(sample_sms(AccountSid=OTHERS, Body="resent first"))
    refuse(daemon, SMS_PATH, request, 403)
    refuse(daemon, SMS_PATH, resent, 403)
    second, first = rejected(daemon)
    allow_the_other_account(daemon)
    events(daemon, "replay", first["id"])
    daemon.wait_for("attempt.succeeded")
    assert daemon.request("POST", SMS_PATH, *request).status == 200
    assert daemon.request("POST", SMS_PATH, *resent).status == 200
    daemon.wait_for("attempt.succeeded", count=2)
    done = daemon.run("events", "replay", second["id"], check=False)
    assert "Traceback" not in done.stderr
    assert daemon.sms(Body="after them").status == 200
    daemon.wait_for("attempt.succeeded", count=3)
    bodies = [payload["data"]["body"] for payload in daemon.seen()]
    assert bodies == ["replayed first", "resent first", "after them"]


def test_what_nobody_could_read_is_not_asked_for(start: Start) -> None:
    """A filter that would say nothing of rejected deliveries is refused by name: all of them would
    be listed, or replayed, as one person's.
    """
    daemon = start()
    asked = {"--sender": "+33639980001", "--agent": "X", "--kind": "message", "--group": "G"}
    for option, value in {**asked, "--message-id": "M", "--text": "T", "--recipient": "R"}.items():
        for command in ("list", "replay"):
            words = ("events", command, "--state", "rejected", option, value)
            done = daemon.run(*words, check=False)
            assert (done.returncode, done.stdout) == (2, "")
            assert f"{option} cannot be asked of them" in " ".join(done.stderr.split())


def test_all_of_a_channel_are_replayed_by_a_filter(start: Start) -> None:
    """In the order they came, after a restart too; those still refused stay."""
    daemon = start()
    for number in range(4):
        refuse(daemon, SMS_PATH, signed_sms(sample_sms(AccountSid=OTHERS, Body=str(number))), 403)
    broken = {k: v for k, v in sample_sms(AccountSid=OTHERS).items() if k != "Body"}
    refuse(daemon, SMS_PATH, signed_sms(broken), 400)
    allow_the_other_account(daemon)
    daemon.kill()
    daemon.start()
    done = daemon.run("events", "replay", "--state", "rejected", "--channel", "sms")
    assert "4 of 5 replayed" in done.stderr
    assert "missing: Body" in done.stdout
    daemon.wait_for("attempt.succeeded", count=4)
    assert [payload["data"]["body"] for payload in daemon.seen()] == ["0", "1", "2", "3"]
    assert len(rejected(daemon)) == 1
