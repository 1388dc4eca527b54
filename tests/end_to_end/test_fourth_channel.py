"""A fourth kind of channel, added as docs/adding-a-channel.md says, and every command with it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berinia_webhookd.channels import catalogue
from tests.channels import meta
from tests.channels.test_meta import BODY
from tests.tools.doctor.proxy import Proxy, Setup
from tests.tools.doctor.reading import doctor, run_doctor

from .daemon import Answer, Daemon

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"
PATH = "/webhook/leads"
TOKEN = "verify-me"
CHANNEL = f"""
[channels.leads]
kind = "meta-cloud"
agent = "ResponseListenerAgent"
app_secrets = ["{SECRET}"]
verify_token = "{TOKEN}"
"""


class DaemonWithMeta(Daemon):
    """The program of tests/end_to_end/with_meta.py; its folder is not where the tests lie."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": str(ROOT)}

    def command(self, *words: str) -> list[str]:
        python, flag, _, *rest = super().command(*words)
        return [python, flag, "tests.end_to_end.with_meta", *rest]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonWithMeta]:
    """A daemon that receives on the fourth channel."""
    folder = tmp_path_factory.mktemp("fourth")
    with closing(DaemonWithMeta(folder, CHANNEL)) as daemon:
        daemon.start()
        yield daemon


def report_of(daemon: Daemon, command: str) -> Any:
    return json.loads(daemon.run(*command.split(), "--json", check=False).stdout)


class TestMessages:
    def test_send_and_what_becomes_of_it(self, running: DaemonWithMeta) -> None:
        """`send`, `events list --channel`, `events show`, `logs --type`, and what `run` agents get:
        the neutral shape, not the bot's.
        """
        sent = report_of(running, "send leads --set body=Bonjour")
        assert sent["summary"]["statuses"] == {"200": 1}
        got = running.wait_until_seen(1)[0]
        assert got["action"] == "process_event"
        assert (got["data"]["channel"], got["data"]["body"]) == ("leads", "Bonjour")
        assert "message_type" not in got
        (event,) = report_of(running, "events list --channel leads")
        assert event["channel"] == "leads"
        shown = report_of(running, f"events show {event['id']}")
        assert shown["data"]["body"] == "Bonjour"
        assert report_of(running, "events list --channel sms") == []
        log = running.run("logs", "--type", "leads").stdout
        assert event["id"] in log
        assert (running.folder / "state" / "unified_logs" / "leads.log").exists()

    def test_a_bad_signature_is_refused(self, running: DaemonWithMeta) -> None:
        """403, and the log says so under the channel's name."""
        done = running.run("send", "leads", "--bad-signature")
        assert "1 × 403" in done.stdout
        running.wait_for("signature.invalid", channel="leads")

    def test_a_name_that_is_no_channel_is_named(self, running: DaemonWithMeta) -> None:
        """Exit 2, with those that there are."""
        for words in (("send", "lead"), ("events", "list", "--channel", "lead")):
            done = running.run(*words, check=False)
            assert done.returncode == 2
            assert "sms, email, whatsapp, leads" in done.stderr
        done = running.run("logs", "--type", "lead", check=False)
        assert done.returncode == 2
        assert "leads" in done.stderr


class TestManyEvents:
    def test_each_message_and_status_of_a_request_is_an_event(self, tmp_path: Path) -> None:
        """Each goes its way; the same request again is answered alike and dispatched no more."""
        with closing(DaemonWithMeta(tmp_path, CHANNEL).start()) as daemon:
            for _ in range(2):
                assert posted(daemon, BODY).status == 200
            seen = daemon.wait_until_seen(4)
            assert sorted(one["data"]["message_id"] for one in seen) == [
                *("wamid.AAA1", "wamid.AAA2", "wamid.OUT9", "wamid.OUT9")
            ]
            daemon.wait_for("event.duplicate", count=4, channel="leads")
            assert len(report_of(daemon, "events list --channel leads")) == 4
            assert daemon.stop() == 0
            assert len(daemon.seen()) == 4

    def test_a_bad_item_keeps_none_of_the_others_back(self, tmp_path: Path) -> None:
        """It is kept, and can be read again when the channel has been changed."""
        document = json.loads(BODY)
        del document["entry"][0]["changes"][0]["value"]["messages"][0]["from"]
        with closing(DaemonWithMeta(tmp_path, CHANNEL).start()) as daemon:
            assert posted(daemon, json.dumps(document).encode()).status == 200
            seen = daemon.wait_until_seen(3)
            assert "wamid.AAA1" not in [one["data"]["message_id"] for one in seen]
            shown = daemon.run("events", "list", "--state", "rejected", "--json").stdout
            assert "leads" in shown

    def test_a_request_without_any_is_kept_as_rejected(self, tmp_path: Path) -> None:
        """400, and nothing is dispatched."""
        with closing(DaemonWithMeta(tmp_path, CHANNEL).start()) as daemon:
            assert posted(daemon, b'{"entry": []}').status == 400
            (kept,) = report_of(daemon, "events list --state rejected")
            assert kept["channel"] == "leads"


def posted(daemon: Daemon, body: bytes) -> Answer:
    """A request as Meta signs it."""
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", meta.SIGNATURE_HEADER: f"sha256={signature}"}
    return daemon.request("POST", PATH, body, headers)


class TestHandshake:
    def test_the_challenge_comes_back(self, running: DaemonWithMeta) -> None:
        """As plain text that no browser takes for a page."""
        answer = running.request("GET", asked(TOKEN))
        assert (answer.status, answer.body) == (200, b"1158201444")
        assert answer.headers["Content-Type"] == "text/plain"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        running.wait_for("handshake.answered", channel="leads")

    def test_without_our_token_nothing_comes_back(self, running: DaemonWithMeta) -> None:
        """403 for a wrong token, and for a GET that asks nothing."""
        for target in (asked("guessed"), asked(""), PATH):
            answer = running.request("GET", target)
            assert answer.status == 403
            assert b"1158201444" not in answer.body

    def test_other_methods_are_refused(self, running: DaemonWithMeta) -> None:
        """405 with `Allow`; of a channel without a handshake a GET, too."""
        answer = running.request("HEAD", PATH)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST")
        answer = running.request("GET", "/webhook/sms-response")
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def asked(token: str) -> str:
    return f"{PATH}?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={token}"


FAILING_ONCE = """
import pathlib

SEEN = pathlib.Path(__file__).with_name("tries")


class Recorder:
    def run(self, input_data):
        with SEEN.open("a") as seen:
            seen.write(f"{input_data['attempt']}\\n")
        if input_data["attempt"] == 1:
            raise RuntimeError("not yet")
"""


def test_a_retry_by_the_channels_own_schedule(tmp_path: Path) -> None:
    """`channels.leads.retry_schedule_seconds` wins over the agent's, which would wait an hour."""
    settings = f"{CHANNEL}retry_schedule_seconds = [0.01]\n"
    with closing(DaemonWithMeta(tmp_path, settings, agent=FAILING_ONCE)) as daemon:
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("[0.05, 0.05, 0.05]", "[3600]"))
        daemon.start()
        daemon.run("send", "leads")
        daemon.wait_for("attempt.succeeded", attempt=2)
        assert (daemon.agents / "tries").read_text() == "1\n2\n"


def test_a_reload_adds_it_and_takes_it_away(tmp_path: Path) -> None:
    """Without a restart; what it received goes on, in the neutral shape."""
    with closing(DaemonWithMeta(tmp_path)) as daemon:
        daemon.start()
        assert daemon.request("POST", PATH).status == 404
        without = daemon.config.read_text()
        daemon.config.write_text(without + CHANNEL)
        daemon.reload()
        (daemon.agents / "hold").touch()
        assert "2 × 200" in daemon.run("send", "leads", "--count", "2").stdout
        daemon.wait_until_seen(1)
        daemon.config.write_text(without)
        daemon.reload(count=2)
        (daemon.agents / "hold").unlink()
        assert [one["action"] for one in daemon.wait_until_seen(2)] == ["process_event"] * 2
        assert daemon.request("POST", PATH).status == 404
        assert len(report_of(daemon, "events list")) == 2
        assert "event.accepted" in (tmp_path / "state/unified_logs/leads.log").read_text()


class TestCheckConfig:
    def test_it_is_listed(self, running: DaemonWithMeta) -> None:
        """With its settings, and without its secrets."""
        done = running.run("check-config", "--json")
        settings = json.loads(done.stdout)["settings"]
        assert settings["channels.leads.path"]["value"] == PATH
        assert settings["channels.leads.kind"]["value"] == "meta-cloud"
        assert SECRET not in done.stdout
        assert TOKEN not in done.stdout

    def test_it_asks_for_the_secret(self, tmp_path: Path) -> None:
        """Every message would be answered 503."""
        daemon = DaemonWithMeta(tmp_path, CHANNEL.replace(f'app_secrets = ["{SECRET}"]', ""))
        warnings = {one["subject"]: one for one in report_of(daemon, "check-config")["findings"]}
        assert "503" in warnings["channels.leads.app_secrets"]["what"]

    def test_a_second_channel_on_its_path_is_refused(self, tmp_path: Path) -> None:
        """One of the two would vanish."""
        second = CHANNEL.replace("channels.leads", "channels.more") + f'path = "{PATH}"\n'
        daemon = DaemonWithMeta(tmp_path, CHANNEL + second)
        done = daemon.run("serve", check=False)
        assert done.returncode == 3
        assert "channels.more.path: is the same as channels.leads.path" in done.stderr


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind in this process, which looks as `doctor` does."""
    monkeypatch.setitem(catalogue.KINDS, meta.MetaChannel.kind, meta.KIND)


class TestDoctor:
    def test_all_is_well(self, running: DaemonWithMeta) -> None:
        """The command itself: the probe is verified, and the console's line is there."""
        report = run_doctor(running)
        report.one("signatures", "ok", "leads: a request signed with the secret", "Meta")
        report.one("console", "note", "Meta's app dashboard", f"https://app.example.com{PATH}")

    @pytest.mark.usefixtures("registered")
    def test_nothing_runs_and_nothing_is_set(self, tmp_path: Path) -> None:
        """No daemon, no secret."""
        daemon = DaemonWithMeta(tmp_path, CHANNEL.replace(f'app_secrets = ["{SECRET}"]', ""))
        report = doctor(daemon)
        report.one("signatures", "wrong", "channels.leads.app_secrets", "Meta")
        assert meta.META.retries in report.one("service", "wrong")["why"]

    @pytest.mark.usefixtures("registered")
    def test_it_runs_without_the_secret(self, tmp_path: Path) -> None:
        """What is answered 503 is named by its setting."""
        settings = CHANNEL.replace(f'app_secrets = ["{SECRET}"]', "")
        with closing(DaemonWithMeta(tmp_path, settings)) as daemon:
            daemon.start()
            report = doctor(daemon)
            report.one("signatures", "wrong", "channels.leads.app_secrets")
            assert daemon.request("POST", PATH).status == 503

    @pytest.mark.usefixtures("registered")
    def test_a_proxy_that_does_everything_wrong(self, running: DaemonWithMeta) -> None:
        """Each mistake is a finding about this channel, in words that are true of its provider."""
        with Proxy(Setup(running.port)) as proxy:
            look_through = {"BERINIA_WEBHOOKD_SERVER__PUBLIC_URL": proxy.url}
            doctor(running, environment=look_through).one("nginx", "ok", PATH)
            for change, fact in MISTAKES:
                proxy.setup = replace(Setup(running.port), **change)  # type: ignore[arg-type]
                report = doctor(running, environment=look_through)
                found = [one for one in report.of("nginx") if PATH in one["what"]]
                assert found, change
                assert all(one["level"] != "ok" for one in found), change
                assert any(fact in one["why"] for one in found), (change, report)
        report = doctor(running, environment=look_through)
        assert meta.META.retries in report.one("nginx", "wrong", proxy.url)["why"]

    @pytest.mark.usefixtures("registered")
    def test_refusals_in_the_log(self, running: DaemonWithMeta) -> None:
        """Our own samples count for nothing; what has the shape of Meta's is Meta's."""
        running.run("send", "leads", "--bad-signature")
        running.wait_for("signature.invalid", channel="leads", sample=True)
        signature = {"X-Hub-Signature-256": "sha256=" + "0" * 64}
        running.request("POST", PATH, b"{}", {"Content-Type": "application/json", **signature})
        running.wait_for("signature.invalid", channel="leads", count=2)
        finding = doctor(running).one("refused", "wrong", "leads: 1 request of Meta refused")
        assert "channels.leads.app_secrets" in finding["fix"][0]
        assert finding["why"].startswith("Meta signs what it sends; Meta tries again")


MISTAKES: list[tuple[Mapping[str, object], str]] = [
    ({"answer": (301, {"Location": "https://www.example.com/"})}, meta.META.if_redirected),
    ({"answer": (404, {})}, meta.META.retries),
    ({"answer": (502, {})}, meta.META.retries),
    ({"answer": (413, {})}, ""),
    ({"answer": (401, {})}, meta.META.retries),
    ({"answer": (200, {})}, meta.META.retries),
    ({"path": lambda path: path + "/"}, meta.META.retries),
    ({"body": lambda body: body.replace(b"%", b"")}, meta.META.if_altered),
    ({"body": lambda body: body + b" "}, f"what Meta sends is answered 403; {meta.META.retries}"),
    ({"host": "backend", "scheme": "https"}, meta.META.if_url_differs),
    ({"forwarded_for": "drop"}, "Meta"),
    ({"forwarded_for": "pass"}, ""),
]
