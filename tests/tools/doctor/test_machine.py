"""Disks that are full, clocks that are wrong, logs that cannot be written, settings that hurt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from berinia_webhookd.findings import Level
from berinia_webhookd.status.findings.folders import logs
from berinia_webhookd.tools.doctor.installation import find
from tests.end_to_end.daemon import Daemon

from .conftest import make
from .proxy import Proxy, Setup
from .reading import doctor

GIB = 1024**3


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = make(tmp_path_factory.mktemp("running")).start()
    yield daemon
    daemon.close()


def test_a_clock_that_differs_from_the_public_urls(running: Daemon) -> None:
    """The answer's date is far from ours."""
    with Proxy(Setup(running.port)) as proxy:
        proxy.setup.extra = {"Date": "Sat, 01 Jan 2050 00:00:00 GMT"}
        url = {"BERINIA_WEBHOOKD_SERVER__PUBLIC_URL": proxy.url}
        doctor(running, environment=url).one("clock", "wrong", "behind that of", "set-ntp")
        proxy.setup.extra = {"Date": "Sat, 01 Jan 2000 00:00:00 GMT"}
        doctor(running, environment=url).one("clock", "wrong", "ahead of that of")


class TestLogs:
    async def test_a_folder_that_is_gone(self, running: Daemon, tmp_path: Path) -> None:
        """The daemon receives on, but says nothing to anybody."""
        here = find(running.config, running.environment, running.folder).installation
        (finding,) = [f async for f in logs(replace(here, logs=tmp_path / "gone"))]
        assert finding.level is Level.WRONG
        assert finding.fix[0].startswith("`install -d -m 700")

    def test_a_folder_that_never_was(self, stopped: Daemon) -> None:
        """Before the first start that is no fault."""
        doctor(stopped).one("logs", "note", "does not exist yet")

    def test_other_programs_in_the_folder(self, running: Daemon) -> None:
        """Left alone, and said; one that writes into our files as well."""
        folder = running.folder / "state" / "unified_logs"
        (folder / "bot.log").write_text("hello\n")
        (folder / "sms.log").write_text("no line of ours\n")
        report = doctor(running)
        (folder / "bot.log").unlink()
        report.one("logs", "note", "bot.log")
        report.one("logs", "note", "sms.log")

    def test_a_log_that_nobody_rotates(self, running: Daemon) -> None:
        """Larger than a gigabyte (of holes)."""
        large = running.folder / "state" / "unified_logs" / "email.log"
        with large.open("ab") as file:
            file.truncate(2 * GIB)
        report = doctor(running)
        large.unlink()
        report.one("logs", "warning", "has grown to 2048 MiB", "logrotate")

    def test_logs_that_others_can_read(self, running: Daemon) -> None:
        """Only where the folder lets them in as well."""
        folder = running.folder / "state" / "unified_logs"
        (folder / "webhook.log").chmod(0o644)
        assert not doctor(running).of("logs", "warning")
        folder.chmod(0o755)
        report = doctor(running)
        folder.chmod(0o700)
        (folder / "webhook.log").chmod(0o600)
        report.one("logs", "warning", "can be read by other users", "chmod 700")

    async def test_a_folder_of_another_user(self, running: Daemon) -> None:
        """The service cannot write there."""
        here = find(running.config, running.environment, running.folder).installation
        of_another = replace(here, user=12_345)
        found = [f async for f in logs(of_another) if f.level is Level.WRONG]
        assert "cannot be written by the daemon's user" in found[0].what
        assert "belongs to another user" in found[1].what
        assert all(finding.fix[0].startswith("`chown 12345 ") for finding in found)


class TestSafety:
    @pytest.mark.parametrize(
        ("setting", "level", "words"),
        [
            ('server.trusted_proxies = ["0.0.0.0/0"]', "wrong", "server.trusted_proxies"),
            (
                'channels.whatsapp.allowed_ips = ["::/0"]',
                "wrong",
                "as the WhatsApp bot, without a secret",
            ),
            ('server.metrics_allowed_ips = ["0.0.0.0/0"]', "warning", "metrics"),
            ('logs.personal_data = "full"', "warning", "logs.personal_data"),
            ('server.host = "0.0.0.0"', "warning", "server.host"),
        ],
    )
    def test_a_setting_that_hurts(
        self, stopped: Daemon, setting: str, level: str, words: str
    ) -> None:
        """What it is, why it matters, and what to write instead."""
        stopped.config.write_text(f"{setting}\n{stopped.config.read_text()}")
        finding = doctor(stopped).one(setting.partition(".")[0], level, words)
        assert finding["why"]
        assert finding["fix"]

    def test_a_secret_guards_the_bots_path(self, stopped: Daemon) -> None:
        """Any address will do where a bearer token is required as well."""
        stopped.config.write_text(
            'channels.whatsapp.allowed_ips = ["0.0.0.0/0"]\n'
            f'channels.whatsapp.secret = "a-long-word"\n{stopped.config.read_text()}'
        )
        assert "channels" not in doctor(stopped).wrong

    def test_a_signing_key_that_looks_like_another_one(self, stopped: Daemon) -> None:
        """It is set, so no probe of ours finds that Mailgun signs with another."""
        finding = doctor(stopped).one("channels", "warning", "channels.email.signing_keys")
        assert "every e-mail is refused" in finding["why"]

    def test_no_password_for_the_logs(self, running: Daemon) -> None:
        """Not unsafe, only of no use."""
        doctor(running).one("logs", "note", "logs.password")

    def test_a_settings_file_that_others_can_read(self, stopped: Daemon) -> None:
        """It holds the tokens."""
        stopped.config.chmod(0o644)
        doctor(stopped).one(
            str(stopped.config).partition(".")[0], "warning", "others can read it", "chmod"
        )


def test_what_is_asked_of_the_document(running: Daemon) -> None:
    """One JSON document, with every finding of one shape."""
    done = running.run("doctor", "--json", check=False)
    document = json.loads(done.stdout)
    assert {"healthy", "version", "process", "address", "journal", "logs"} <= document.keys()
    for finding in document["findings"]:
        assert finding.keys() == {"subject", "level", "what", "why", "fix"}
        if finding["level"] in {"warning", "wrong"}:
            assert finding["why"], finding
            assert finding["fix"], finding
