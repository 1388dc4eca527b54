"""How values are read: what is taken, what is refused, and that the refusal says what is right."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from berinia_webhookd.config.secret import Secret

from .place import Place, sms, whatsapp

PROXIES = "server.trusted_proxies"
PROXIES_VARIABLE = "BERINIA_WEBHOOKD_SERVER__TRUSTED_PROXIES"
TWO_NETWORKS = (ip_network("10.0.0.0/8"), ip_network("::1"))


class TestLists:
    @pytest.mark.parametrize(
        "text",
        ['["10.0.0.0/8", "::1"]', "10.0.0.0/8,::1", " 10.0.0.0/8 , ::1 , "],
        ids=["JSON", "commas", "blanks"],
    )
    def test_in_a_variable(self, place: Place, text: str) -> None:
        """As JSON, or with commas."""
        place.environ[PROXIES_VARIABLE] = text
        assert place.origin(PROXIES).value == TWO_NETWORKS

    def test_in_the_file(self, place: Place) -> None:
        """As TOML has them."""
        place.toml('server.trusted_proxies = ["10.0.0.0/8", "::1"]')
        assert place.origin(PROXIES).value == TWO_NETWORKS

    def test_a_single_value_is_a_list_of_one(self, place: Place) -> None:
        place.toml('server.public_url = "https://app.example.com"')
        assert place.load().settings.server.public_url == ("https://app.example.com",)

    def test_an_empty_list_is_empty(self, place: Place) -> None:
        """No proxy is trusted then: the default does not come back."""
        place.toml("server.trusted_proxies = []")
        assert place.load().settings.server.trusted_proxies == ()

    @pytest.mark.parametrize("text", ['["10.0.0.0/8"', "[" * 100_000, '["10.0.0.0/8", 5]'])
    def test_broken_json_is_a_problem(self, place: Place, text: str) -> None:
        place.environ[PROXIES_VARIABLE] = text
        assert place.problem().subject == PROXIES

    def test_a_schedule_in_a_variable(self, place: Place) -> None:
        place.environ["BERINIA_WEBHOOKD_CHANNELS__SMS__RETRY_SCHEDULE_SECONDS"] = "1, 2.5"
        assert sms(place.load().settings).retry_schedule_seconds == (1.0, 2.5)

    def test_an_endless_list_is_refused(self, place: Place) -> None:
        place.environ[PROXIES_VARIABLE] = "10.0.0.1," * 1001
        assert "at most 1000" in place.problem().fix[0]


WRONG = [
    ("alerts.command", "mail -s 'unfinished", "close every quote"),
    ("alerts.command", "", "command with its arguments"),
    ("channels.whatsapp.listen", "127.0.0.1", "127.0.0.1:8003"),
    ("channels.whatsapp.listen", "0.0.0.0:8003", "127.0.0.1:8003"),
    ("channels.whatsapp.listen", "203.0.113.9:8003", "127.0.0.1:8003"),
    ("channels.whatsapp.listen", "127.0.0.1:0", "127.0.0.1:8003"),
    ("channels.whatsapp.listen", "bot.example.com:8003", "127.0.0.1:8003"),
    ("channels.whatsapp.listen", "bot.sock", "127.0.0.1:8003"),
    ("console.listen", "0.0.0.0:8002", "127.0.0.1:8003"),
    ("console.listen", "8002", "127.0.0.1:8003"),
    ("console.url", "console.example.com", "https://app.example.com"),
    ("console.url", "https://console.example.com/path", "https://app.example.com"),
    ("server.host", 5, "not empty"),
    ("server.host", "  ", "not empty"),
    ("server.port", "eight", "from 0 to 65535"),
    ("server.port", 65_536, "from 0 to 65535"),
    ("server.port", True, "whole number"),
    ("server.port", 80.5, "whole number"),
    ("server.port", [80], "whole number"),
    ("server.ack_timeout_seconds", "soon", "number"),
    ("server.ack_timeout_seconds", True, "number"),
    ("server.ack_timeout_seconds", 0, "from 0.001"),
    ("server.ack_timeout_seconds", float("nan"), "number"),
    ("server.trusted_proxies", ["10.0.0.1/8"], "did you mean 10.0.0.0/8?"),
    ("server.trusted_proxies", ["proxy"], "10.0.0.0/8"),
    ("server.trusted_proxies", True, "list"),
    ("server.public_url", "app.example.com", "https://app.example.com"),
    ("server.public_url", "https://app.example.com/webhook", "scheme and host alone"),
    ("server.public_url", "https://user@app.example.com", "scheme and host alone"),
    ("server.public_url", "https://app.example.com:port", "scheme and host alone"),
    ("rate_limit.requests", 0, "from 1"),
    ("journal.url", "mysql://localhost/x", "sqlite:///"),
    ("journal.url", "sqlite:///", "sqlite:///"),
    ("journal.url", "postgresql://user@host:port/x", "postgresql://"),
    ("journal.url", "postgresql://user:pass/word@host/x", "postgresql://"),
    ("journal.url", "postgresql://[/x", "postgresql://"),
    ("logs.level", "loud", "debug, info, warning, error"),
    ("logs.personal_data", "hide", "mask, full"),
    ("agents.registry", "registry", "module:object"),
    ("agents.path", "~nobody-of-this-name/agents", "user who does not exist"),
    ("agents.max_hosts", 0, "from 1"),
    ("channels.sms.enabled", "maybe", "true or false"),
    ("channels.sms.path", "webhook", "/webhook/sms-response"),
    ("channels.sms.path", "/with blank", "/webhook/sms-response"),
    ("channels.sms.agent", "listener", "a capital"),
    ("channels.sms.retry_schedule_seconds", [-1], "number from 0"),
    ("channels.whatsapp.late_reply_url", "file:///etc/passwd", "https://example.com/path"),
    ("tracing.url", "http://127.0.0.1:4318?key=x", "without ? or #"),
    ("channels.whatsapp.groups", "Support", "table"),
    ("channels.sms.opt_out_words", ["STOP"], "table"),
    ("channels.sms.opt_out_words", {"halt": ["STOP"]}, "table"),
    ("channels.sms.opt_out_words", {"stop": [""]}, "not empty"),
    ("channels.sms.skip", ["spam"], "one of empty, broadcast"),
    ("channels.whatsapp.groups", {"Support": "nobody"}, "a capital"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_a_wrong_value_is_a_problem_with_a_hint(
    place: Place, key: str, value: Any, expected: str
) -> None:
    """The problem names the key, and the hint says what would be right."""
    place.toml(f"{key} = {_toml(value)}")
    problem = place.problem()
    assert problem.subject == key
    assert "not valid" in problem.what
    assert expected in problem.fix[0]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        inside = ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items())
        return "{ " + inside + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("true", True), ("Yes", True), ("on", True), ("0", False), ("off", False)],
)
def test_words_for_true_and_false(place: Place, text: str, expected: bool) -> None:
    place.environ["BERINIA_WEBHOOKD_CHANNELS__SMS__ENABLED"] = text
    assert sms(place.load().settings).enabled is expected


def test_blanks_around_a_secret_are_a_slip(place: Place) -> None:
    """As copied, or as an editor ends the file of a credential."""
    place.credential("logs.password", "  long password\n")
    assert place.load().settings.logs.password == Secret("long password")


def test_dotenv_values_are_taken_as_they_are(place: Place) -> None:
    """A dollar sign in a password is one."""
    place.environ["HOME_OF"] = "replaced"
    place.dotenv("BERINIA_WEBHOOKD_LOGS__PASSWORD='a${HOME_OF}$b'\n")
    assert place.load().settings.logs.password == Secret("a${HOME_OF}$b")


class TestWhatDefaultsDependOn:
    def test_state_directory(self, place: Place) -> None:
        """Journal and logs are where systemd says; with several folders in the first."""
        place.environ["STATE_DIRECTORY"] = "/var/lib/one:/var/lib/two"
        settings = place.load().settings
        assert settings.journal.url == Secret("sqlite:////var/lib/one/journal.db")
        assert settings.logs.dir == Path("/var/lib/one/unified_logs")

    def test_logs_directory(self, place: Place) -> None:
        place.environ["LOGS_DIRECTORY"] = "/var/log/here"
        assert place.load().settings.logs.dir == Path("/var/log/here")

    def test_home(self, place: Place) -> None:
        state = place.folder / ".local/state/berinia-webhookd"
        settings = place.load().settings
        assert settings.journal.url == Secret(f"sqlite:///{state}/journal.db")
        assert settings.logs.dir == state / "unified_logs"

    def test_verified_requests(self, place: Place) -> None:
        """As many as may fail, unless set."""
        place.toml("rate_limit.requests = 7")
        assert place.load().settings.rate_limit.verified_requests == 7
        place.toml("rate_limit.requests = 7\nrate_limit.verified_requests = 9")
        assert place.load().settings.rate_limit.verified_requests == 9


class TestValuesThatDoNotGoTogether:
    def test_two_channels_at_one_path(self, place: Place) -> None:
        place.toml('channels.sms.path = "/in"\nchannels.email.path = "/in"')
        problem = place.problem()
        assert problem.subject == "channels.email.path"
        assert "channels.sms.path" in problem.what

    @pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/webhook/logs"])
    def test_a_path_of_the_daemon(self, place: Place, path: str) -> None:
        place.toml(f'channels.sms.path = "{path}"')
        assert place.problem().subject == "channels.sms.path"


def warned(place: Place) -> set[str]:
    return {warning.subject for warning in place.load().warnings}


class TestWarnings:
    def test_a_channel_without_its_secret(self, place: Place) -> None:
        """It answers 503, unless it is switched off."""
        assert {"channels.sms.tokens", "channels.email.signing_keys"} <= warned(place)
        place.toml("channels.sms.enabled = false\nchannels.email.enabled = false")
        assert not {"channels.sms.tokens", "channels.email.signing_keys"} & warned(place)

    @pytest.mark.parametrize(
        ("source", "value", "likely"),
        [
            ("MAILGUN_API_KEY", "0123456789abcdef", True),
            ("MAILGUN_SIGNING_KEY", "0123456789abcdef", False),
            ("MAILGUN_SIGNING_KEY", "key-0123456789abcdef", True),
        ],
    )
    def test_a_key_that_is_likely_another_one(
        self, place: Place, source: str, value: str, likely: bool
    ) -> None:
        """Mailgun's sending key signs nothing; its value is not shown."""
        place.environ[source] = value
        warnings = place.load().warnings
        subjects = {warning.subject for warning in warnings}
        assert ("channels.email.signing_keys" in subjects) is likely
        assert value not in "".join(map(str, warnings))

    def test_equal_limits(self, place: Place) -> None:
        """Twilio does not retry after 429 by default."""
        assert "rate_limit.verified_requests" in warned(place)
        place.toml("rate_limit.verified_requests = 6000")
        assert "rate_limit.verified_requests" not in warned(place)

    def test_answers_in_chats_that_reach_nobody(self, place: Place) -> None:
        """Later ones have nowhere to go, and those to direct messages never have."""
        late, direct = "channels.whatsapp.late_reply_url", "channels.whatsapp.reply_wait_seconds"
        assert {late, direct} <= warned(place)
        place.toml(f'{late} = "http://127.0.0.1:3000/send"')
        assert late not in warned(place)
        assert direct in warned(place)
        place.toml(f"{direct} = 300")
        assert direct not in warned(place)

    def test_the_line_for_twilios_console(self, place: Place) -> None:
        place.toml('server.public_url = "https://app.example.com"')
        hints = [fix for warning in place.load().warnings for fix in warning.fix]
        line = "https://app.example.com/webhook/sms-response#rc=5&rp=all"
        assert any(line in hint for hint in hints)

    def test_an_agent_that_nobody_can_find(self, place: Place) -> None:
        """Every agent that a message can go to, those of the groups as well."""
        agents = {"ResponseListenerAgent", "MetaAgent", "AdminInterpreterAgent"}
        assert {f"agents.{name}.target" for name in agents} <= warned(place)

    def test_an_agent_that_one_of_two_channels_uses(self, place: Place) -> None:
        """SMS and e-mail share an agent: switching e-mail off leaves SMS without one."""
        place.toml("channels.email.enabled = false")
        assert "agents.ResponseListenerAgent.target" in warned(place)

    def test_a_registry_may_find_them(self, place: Place) -> None:
        place.toml('agents.registry = "agents.registry:registry"')
        assert not {name for name in warned(place) if name.startswith("agents.")}

    @pytest.mark.parametrize(
        "setting",
        ["server.trusted_proxies", "server.metrics_allowed_ips", "channels.whatsapp.allowed_ips"],
    )
    @pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "128.0.0.0/1", "2000::/3"])
    def test_addresses_that_nearly_everybody_has(
        self, place: Place, setting: str, network: str
    ) -> None:
        """A list of one's own machines is never that wide."""
        place.toml(f'{setting} = ["10.0.0.0/8", "2001:db8::/32"]')
        assert setting not in warned(place)
        place.toml(f'{setting} = ["10.0.0.0/8", "{network}"]')
        assert setting in warned(place)

    def test_a_secret_guards_the_bot_as_well(self, place: Place) -> None:
        place.toml('channels.whatsapp = { allowed_ips = "0.0.0.0/0", secret = "a-long-word" }')
        assert "channels.whatsapp.allowed_ips" not in warned(place)

    @pytest.mark.parametrize("target", ["http://127.0.0.1:5000/", "log:"])
    def test_a_host_of_an_agent_that_runs_in_none(self, place: Place, target: str) -> None:
        """Nobody would notice that its memory is not kept there."""
        agent = f'[agents.MetaAgent]\ntarget = "{target}"'
        place.toml(f'{agent}\n[agents.defaults]\nhost = "berinia"')
        assert "agents.MetaAgent.host" not in warned(place)
        place.toml(f'{agent}\nhost = "berinia"')
        assert "agents.MetaAgent.host" in warned(place)
        there = '[agents.MetaAgent]\ntarget = "python:meta:Agent"\nhost = "berinia"'
        place.toml(f"channels.whatsapp.enabled = false\n{there}")
        assert "agents.MetaAgent.host" not in warned(place)

    def test_a_burst_that_outlasts_its_callers(self, place: Place) -> None:
        """They would always get 202."""
        key = "agents.MetaAgent.gather_max_seconds"
        gather = "[agents.MetaAgent]\ngather_seconds = 5\n"
        place.toml(f'{gather}[channels.whatsapp]\nagent = "MetaAgent"')
        assert key in warned(place)
        place.toml(f'{gather}[channels.whatsapp]\nagent = "MetaAgent"\nreply_wait_seconds = 60')
        assert key not in warned(place)
        place.toml('[channels.whatsapp]\nagent = "MetaAgent"')
        assert key not in warned(place)

    def test_listening_to_the_world(self, place: Place) -> None:
        assert "server.host" not in warned(place)
        place.toml('server.host = "0.0.0.0"')
        assert "server.host" in warned(place)

    def test_an_alert_command_that_is_not_there(self, place: Place) -> None:
        """Better heard of now than never."""
        place.toml("alerts.command = \"sh -c 'mail root'\"")
        assert "alerts.command" not in warned(place)
        place.toml('alerts.command = "/nowhere/mail root"')
        assert "alerts.command" in warned(place)

    def test_secrets_that_others_can_read(self, place: Place) -> None:
        file = place.toml('channels.sms.tokens = ["x"]')
        assert str(file) not in warned(place)
        file.chmod(0o644)
        assert str(file) in warned(place)

    def test_secrets_that_the_daemons_group_can_read(self, place: Place) -> None:
        """Root's file must be open to the group of the daemon's user; one's own need not be."""
        file = place.config_file = place.toml('channels.sms.tokens = ["x"]')
        file.chmod(0o640)
        if os.getuid() == 0:
            assert str(file) not in warned(place)
            os.chown(file, 54_321, -1)
        assert str(file) in warned(place)

    def test_the_hint_does_not_lock_the_daemon_out(self, place: Place) -> None:
        """`chmod 600` would, where the file is root's and the daemon has a user of its own."""
        file = place.toml('channels.sms.tokens = ["x"]')
        file.chmod(0o644)
        [hint] = [one.fix[0] for one in place.load().warnings if one.subject == str(file)]
        assert ("chmod 640" if os.getuid() == 0 else "chmod 600") in hint

    def test_a_file_without_secrets_may_be_read(self, place: Place) -> None:
        """They are in the environment, as they should be."""
        place.environ["TWILIO_TOKEN"] = "x"
        file = place.toml("server.port = 1001")
        file.chmod(0o644)
        assert str(file) not in warned(place)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://berinia:p%2Fw@db.example.com:5432/berinia",
        "postgresql:///berinia?host=/run/postgresql",
        "postgresql://berinia@[::1]/berinia",
    ],
)
def test_urls_of_postgresql(place: Place, url: str) -> None:
    """Kept as they are given."""
    place.toml(f'journal.url = "{url}"')
    assert place.load().settings.journal.url == Secret(url)


@pytest.mark.parametrize(
    ("said", "listen"),
    [
        ("127.0.0.1:8003", "127.0.0.1:8003"),
        ("[::1]:8003", "[::1]:8003"),
        ("/run/bot.sock", "unix:/run/bot.sock"),
        ("unix:/run/bot.sock", "unix:/run/bot.sock"),
    ],
)
def test_a_listener_of_the_bots_own(place: Place, said: str, listen: str) -> None:
    """Written as a socket's name is."""
    place.toml(f'channels.whatsapp.listen = "{said}"')
    assert whatsapp(place.load().settings).listen == listen


def test_a_listener_of_the_bots_own_that_is_everybodys(place: Place) -> None:
    """The daemon's own address."""
    place.toml('channels.whatsapp.listen = "127.0.0.1:8001"')
    assert place.problem().subject == "channels.whatsapp.listen"


def test_an_address_alone_is_warned_of_beside_a_public_url(place: Place) -> None:
    """A secret or a listener of its own is more than an address."""
    key = "channels.whatsapp.secret"
    url = 'server.public_url = "https://app.example.com"\n'
    for more, warns in (("", True), (f'{key} = "x"', False), ("", True)):
        place.toml(url + more)
        assert (key in {one.subject for one in place.load().warnings}) is warns
    place.toml(url + 'channels.whatsapp.listen = "/run/bot.sock"')
    assert key not in {one.subject for one in place.load().warnings}
    place.toml("")
    assert key not in {one.subject for one in place.load().warnings}
