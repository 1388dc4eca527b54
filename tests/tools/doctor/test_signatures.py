"""Secrets that are missing, wrong or not read yet, and requests that were refused lately."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest

from berinia_webhookd.findings import Level
from berinia_webhookd.tools.doctor import examine
from berinia_webhookd.tools.doctor.installation import find
from tests.end_to_end.daemon import TOKEN, Daemon, sample_sms, signed_sms

from .conftest import KEY, make, set_public_url
from .proxy import Proxy, Setup
from .reading import doctor

OTHER_TOKEN = "ffffffffffffffffffffffffffffffff"
URL = "https://app.example.com"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = make(tmp_path_factory.mktemp("running")).start()
    yield daemon
    daemon.close()


def write(daemon: Daemon, old: str, new: str) -> None:
    text = daemon.config.read_text()
    assert old in text
    daemon.config.write_text(text.replace(old, new))


def test_every_channel_verifies(running: Daemon) -> None:
    """A signed probe of each provider is verified, and the console's URLs are said."""
    report = doctor(running)
    assert [finding["level"] for finding in report.of("signatures")] == ["ok"] * 3
    assert report.of("refused")[0]["level"] == "ok"


def test_the_urls_to_paste(running: Daemon) -> None:
    """Exactly as they belong into the consoles; Twilio's with its retries."""
    # The public URL is asked of nobody: nothing listens on port 9 of this machine.
    url = "https://127.0.0.1:9"
    report = doctor(running, environment={"BERINIA_WEBHOOKD_SERVER__PUBLIC_URL": url})
    report.one("console", "note", f"{url}/webhook/sms-response#rc=5&rp=all")
    report.one("console", "note", f"{url}/webhook/email-response")
    report.one("console", "note", f"http://127.0.0.1:{running.port}/webhook/whatsapp")


@pytest.mark.parametrize("is_running", [True, False])
def test_tokens_are_missing(stopped: Daemon, *, is_running: bool) -> None:
    """Said for each channel with the variable to set, whether the daemon runs or not."""
    write(stopped, f'channels.sms.tokens = ["{TOKEN}"]', "")
    write(stopped, f'channels.email.signing_keys = ["{KEY}"]', "")
    if is_running:
        stopped.start()
    report = doctor(stopped)
    assert report.status == 1
    report.one("signatures", "wrong", "channels.sms.tokens is not set", "TWILIO_TOKEN=")
    report.one("signatures", "wrong", "channels.email.signing_keys", "MAILGUN_SIGNING_KEY=")


def test_settings_that_the_daemon_has_not_read(running: Daemon) -> None:
    """A token was changed and nobody reloaded: the daemon refuses what the new one signs."""
    write(running, TOKEN, OTHER_TOKEN)
    try:
        report = doctor(running)
    finally:
        write(running, OTHER_TOKEN, TOKEN)
    assert running.process is not None
    finding = report.one("signatures", "wrong", "sms: the daemon refuses")
    assert f"kill -HUP {running.process.pid}" in finding["fix"][-1]
    assert [finding["level"] for finding in report.of("signatures")] == ["ok", "ok", "wrong"]


def test_no_secret_is_shown(running: Daemon) -> None:
    """Neither in JSON nor for people."""
    for words in (("doctor",), ("doctor", "--json")):
        shown = running.run(*words, check=False)
        assert TOKEN not in shown.stdout + shown.stderr
        assert KEY not in shown.stdout + shown.stderr


def test_the_bot_may_not_call_from_here(stopped: Daemon) -> None:
    """A bot on another machine cannot be played by this one: said, and nothing wrong."""
    text = stopped.config.read_text()
    stopped.config.write_text(f'channels.whatsapp.allowed_ips = ["192.0.2.7"]\n{text}')
    stopped.start()
    report = doctor(stopped)
    report.one("signatures", "note", "whatsapp: cannot be checked from here", "192.0.2.7")


def test_a_user_who_may_not_see_the_daemons_settings(running: Daemon) -> None:
    """Without the credentials of the service nothing is called missing that may well be there."""
    config = running.folder / "without.toml"
    config.write_text(running.config.read_text().replace(f'["{TOKEN}"]', "[]"))
    found = find(running.config, running.environment, Path("/"))
    other = find(config, running.environment, Path("/")).installation
    installation = replace(
        found.installation, channels_for=other.channels_for, knows_environment=False
    )
    findings = asyncio.run(examine(replace(found, installation=installation)))
    (finding,) = [f for f in findings if f.subject == "signatures" and f.what.startswith("sms")]
    assert finding.level is Level.NOTE
    assert "sudo" in finding.fix[0]
    assert any(f.subject == "settings" and f.level is Level.NOTE for f in findings)


def problems(daemon: Daemon) -> str:
    """What `doctor --problems` says on a terminal of 80 columns, in one line; it fits the screen,
    and nothing else is called wrong.
    """
    done = daemon.run("doctor", "--problems", check=False, environment={"COLUMNS": "80"})
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) <= 24, done.stdout
    assert max(map(len, lines)) <= 80, done.stdout
    assert lines[-1].startswith("1 thing wrong"), done.stdout
    return " ".join(done.stdout.split())


class TestRefusedLately:
    """What the log says of real requests."""

    def test_another_url_in_the_console(self, daemon: Daemon) -> None:
        """Twilio signs what stands in its console; the log's explanation is passed on."""
        signed = signed_sms(sample_sms(), url=f"{URL}/webhook/sms-response/")
        headers = {**signed[1], "Host": "app.example.com", "X-Forwarded-Proto": "https"}
        assert daemon.post_sms(signed[0], headers).status == 403
        daemon.wait_for("signature.invalid")
        finding = doctor(daemon).one("refused", "wrong", "sms: 1 request of Twilio refused")
        assert f"{URL}/webhook/sms-response/" in finding["fix"][0]
        assert "Twilio's console" in finding["fix"][0]
        assert finding["why"].startswith("Twilio signs the URL that it calls")

        signed = signed_sms(sample_sms(), url=f"{URL}/webhook/sms-response")
        headers = {**signed[1], "Host": "app.example.com", "X-Forwarded-Proto": "https"}
        assert daemon.post_sms(signed[0], headers).status == 200
        daemon.wait_for("event.accepted")
        report = doctor(daemon)
        report.one("refused", "note", "sms: 1 request of strangers")
        assert "refused" not in report.wrong

        # What was mended is not blamed for what fails next, whatever that is.
        body, headers = signed_sms(sample_sms(), token="1" * 32, url=f"{URL}/webhook/sms-response")
        sent = {**headers, "Host": "app.example.com", "X-Forwarded-Proto": "https"}
        assert daemon.post_sms(body, sent).status == 403
        daemon.wait_for("signature.invalid", count=2)
        finding = doctor(daemon).one("refused", "wrong", "sms: 1 request of Twilio refused")
        assert f"{URL}/webhook/sms-response/" not in str(finding)
        assert "TWILIO_TOKEN=" in finding["fix"][0]

    def test_another_token_at_the_provider(self, stopped: Daemon) -> None:
        """Every SMS is refused while our own probe is verified: wrong, in words of 80 columns, also
        after a restart and a log that was rotated, until one is accepted.
        """
        with Proxy() as proxy:
            set_public_url(stopped, proxy.url)
            proxy.setup = Setup(stopped.start().port)
            self._another_token(stopped, proxy)

    def _another_token(self, stopped: Daemon, proxy: Proxy) -> None:
        url = f"{proxy.url}/webhook/sms-response"
        body, headers = signed_sms(sample_sms(), token="1" * 32, url=url)
        for _ in range(40):
            assert stopped.post_sms(body, headers).status == 403
        stopped.wait_for("signature.invalid", count=40)
        said = problems(stopped)
        assert "sms: 40 requests of Twilio refused for the signature, none accepted since" in said
        assert "fix: if its secret was changed: TWILIO_TOKEN=…" in said
        assert f"A message comes in (HTTP POST): {url}#rc=5&rp=all" in said
        (log,) = stopped.folder.rglob("webhook.log")
        kept = log.read_text()
        log.write_text("")
        assert "sms: 40 requests of Twilio refused" in problems(stopped)
        log.write_text(kept)
        assert stopped.stop() == 0
        proxy.setup = Setup(stopped.start().port)
        assert "sms: 40 requests of Twilio refused" in problems(stopped)
        assert stopped.post_sms(*signed_sms(sample_sms(), url=url)).status == 200
        stopped.wait_for("event.accepted")
        report = doctor(stopped)
        report.one("refused", "note", "sms: 40 requests of strangers")
        assert "refused" not in report.wrong

    def test_a_hundred_forgers_are_no_fault(self, daemon: Daemon) -> None:
        """Without a signature of Twilio's shape, or without an account; nor are our own samples,
        which end nothing either.
        """
        body, headers = signed_sms(sample_sms(), url=f"{URL}/webhook/sms-response")
        without = signed_sms(sample_sms(AccountSid="x"), token="1" * 32)
        for _ in range(50):
            daemon.post_sms(body, {**headers, "X-Twilio-Signature": "forged"})
            daemon.post_sms(*without)
        daemon.run("send", "sms", "--bad-signature")
        daemon.wait_for("signature.invalid", count=101)
        report = doctor(daemon)
        report.one("refused", "note", "sms: 100 requests of strangers refused")
        assert "refused" not in report.wrong

        other = signed_sms(sample_sms(), token="1" * 32)
        daemon.post_sms(*other)
        daemon.run("send", "sms")
        daemon.wait_for("event.accepted", sample=True)
        doctor(daemon).one("refused", "wrong", "sms: 1 request of Twilio")

    def test_another_key_at_mailgun(self, daemon: Daemon) -> None:
        """Mailgun signs no URL, and no sentence says so."""
        fields = {"timestamp": str(int(time.time())), "token": "a" * 50, "signature": "b" * 64}
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode({"sender": "a@example.com", "recipient": "b@example.com", **fields})
        answer = daemon.request("POST", "/webhook/email-response", body.encode(), form)
        assert answer.status == 403
        daemon.wait_for("signature.invalid")
        finding = doctor(daemon).one("refused", "wrong", "email: 1 request of Mailgun refused")
        assert finding["why"].startswith("Mailgun signs the time; Mailgun tries again")
        assert "MAILGUN_SIGNING_KEY=" in finding["fix"][0]
        assert "URL" not in str(finding)

    def test_a_bot_that_is_not_listed(self, stopped: Daemon) -> None:
        """The address it called from, and the line that lets it in."""
        text = stopped.config.read_text()
        stopped.config.write_text(f'channels.whatsapp.allowed_ips = ["192.0.2.7"]\n{text}')
        stopped.start()
        headers = {"Content-Type": "application/json"}
        assert stopped.request("POST", "/webhook/whatsapp", b"{}", headers).status == 403
        stopped.wait_for("address.refused")
        finding = doctor(stopped).one("refused", "warning", "from 127.0.0.1")
        assert "channels.whatsapp.allowed_ips" in finding["fix"][0]

    def test_a_proxy_that_does_not_say_for_whom(self, stopped: Daemon) -> None:
        """Nobody can be listed then: the proxy has to name whom it forwards."""
        stopped.start()
        headers = {"Content-Type": "application/json", "X-Forwarded-For": "unknown"}
        assert stopped.request("POST", "/webhook/whatsapp", b"{}", headers).status == 403
        assert stopped.wait_for("address.refused")["client"] is None
        finding = doctor(stopped).one("refused", "warning", "does not say for whom")
        assert "X-Forwarded-For" in finding["fix"][0]
        assert "allowed_ips" not in str(finding)
