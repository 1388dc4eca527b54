"""Secrets that are missing, wrong or not read yet, and requests that were refused lately."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from berinia_webhookd.findings import Level
from berinia_webhookd.tools.doctor import examine
from berinia_webhookd.tools.doctor.installation import find
from tests.end_to_end.daemon import TOKEN, Daemon, sample_sms, signed_sms

from .conftest import KEY, make
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
    assert [finding["level"] for finding in report.of("signatures")] == ["wrong", "ok", "ok"]


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


class TestRefusedLately:
    """What the log says of real requests."""

    def test_another_url_in_the_console(self, daemon: Daemon) -> None:
        """Twilio signs what stands in its console; the log's explanation is passed on."""
        signed = signed_sms(sample_sms(), url=f"{URL}/webhook/sms-response/")
        headers = {**signed[1], "Host": "app.example.com", "X-Forwarded-Proto": "https"}
        assert daemon.post_sms(signed[0], headers).status == 403
        daemon.wait_for("signature.invalid")
        finding = doctor(daemon).one("refused", "wrong", "sms: 1 request with a bad signature")
        assert f"{URL}/webhook/sms-response/" in finding["fix"][0]
        assert "Twilio's console" in finding["fix"][0]

        signed = signed_sms(sample_sms(), url=f"{URL}/webhook/sms-response")
        headers = {**signed[1], "Host": "app.example.com", "X-Forwarded-Proto": "https"}
        assert daemon.post_sms(signed[0], headers).status == 200
        daemon.wait_for("event.accepted")
        doctor(daemon).one("refused", "note", "later ones were verified")

    def test_forgers_are_no_fault(self, daemon: Daemon) -> None:
        """What no mistake explains comes from strangers."""
        body, headers = signed_sms(sample_sms(), token="1" * 32, url=f"{URL}/webhook/sms-response")
        sent = {**headers, "Host": "app.example.com", "X-Forwarded-Proto": "https"}
        daemon.post_sms(body, sent)
        daemon.wait_for("signature.invalid")
        report = doctor(daemon)
        report.one("refused", "note", "sms: 1 request with a bad signature")
        assert "refused" not in report.wrong

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
