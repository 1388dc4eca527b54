"""Which source wins, and which names it may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from berinia_webhookd.config import files
from berinia_webhookd.config.secret import Secret

from .place import KEYS, Place, sms

PORT = "server.port"
PORT_VARIABLE = "BERINIA_WEBHOOKD_SERVER__PORT"
TOKENS = "channels.sms.tokens"
SIGNING_KEYS = "channels.email.signing_keys"


def test_without_any_source_the_default_holds(place: Place) -> None:
    """Nothing is required."""
    origin = place.origin(PORT)
    assert (origin.value, origin.source) == (8001, "default")


def test_each_source_beats_those_below_it(place: Place) -> None:
    """From the lowest to the highest: file, credential, .env, environment, flag."""
    file = place.toml("server.port = 1001")
    origin = place.origin(PORT)
    assert (origin.value, origin.source, origin.where) == (1001, "file", str(file))

    credential = place.credential(PORT, "1002\n")
    origin = place.origin(PORT)
    assert (origin.value, origin.source, origin.where) == (1002, "credential", str(credential))

    place.dotenv(f"{PORT_VARIABLE}=1003\n")
    origin = place.origin(PORT)
    assert (origin.value, origin.source, origin.where) == (1003, ".env", PORT_VARIABLE)

    place.environ[PORT_VARIABLE] = "1004"
    origin = place.origin(PORT)
    assert (origin.value, origin.source, origin.where) == (1004, "environment", PORT_VARIABLE)

    origin = place.origin(PORT, {PORT: 1005})
    assert (origin.value, origin.source, origin.where) == (1005, "flag", "--port")


def test_an_empty_variable_is_unset(place: Place) -> None:
    """`KEY=` in a copied example hides nothing."""
    place.toml("server.port = 1001")
    place.dotenv(f"{PORT_VARIABLE}=\n")
    place.environ[PORT_VARIABLE] = ""
    assert place.origin(PORT).value == 1001


ANYWHERE = [key for key, one in KEYS.items() if not one.flag_only and not one.file_only]
FILE_ONLY = [key for key, one in KEYS.items() if one.file_only]


def variable(key: str) -> str:
    return "BERINIA_WEBHOOKD_" + key.upper().replace(".", "__")


@pytest.mark.parametrize("key", ANYWHERE)
def test_every_key_can_be_a_variable_or_a_credential(place: Place, key: str) -> None:
    """A value that is always wrong shows that it was read: the problem names the key."""
    place.environ[variable(key)] = "\0"
    assert place.problem().subject == key
    del place.environ[variable(key)]
    place.credential(key, "\0")
    assert place.problem().subject == key


@pytest.mark.parametrize("key", FILE_ONLY)
def test_tables_are_neither(place: Place, key: str) -> None:
    """Those of agents and groups: the refusal says where they belong."""
    place.environ[variable(key)] = "x"
    problem = place.problem()
    assert (problem.subject, problem.what) == (variable(key), "cannot be set in the environment")
    assert "TOML file" in problem.fix[0]
    del place.environ[variable(key)]
    place.credential(key, "x")
    assert (place.problem().subject, "TOML file" in place.problem().fix[0]) == (key, True)


class TestWhichFile:
    def test_the_option_wins(self, place: Place) -> None:
        """`--config` names the file, wherever it lies."""
        place.toml("server.port = 1001")
        place.environ["BERINIA_WEBHOOKD_CONFIG"] = str(named(place, "variable.toml", 1002))
        place.config_file = named(place, "option.toml", 1003)
        assert place.origin(PORT).value == 1003
        assert place.load().config_file == place.config_file

    def test_then_the_variable(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before the system's file and that of the working folder."""
        monkeypatch.setattr(files, "SYSTEM_FILE", named(place, "system.toml", 1004))
        place.toml("server.port = 1001")
        place.environ["BERINIA_WEBHOOKD_CONFIG"] = str(named(place, "variable.toml", 1002))
        assert place.origin(PORT).value == 1002

    def test_then_the_system_file(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before that of the working folder."""
        monkeypatch.setattr(files, "SYSTEM_FILE", named(place, "system.toml", 1004))
        place.toml("server.port = 1001")
        assert place.origin(PORT).value == 1004

    @pytest.mark.parametrize("how", ["option", "variable"])
    def test_a_named_file_must_exist(self, place: Place, how: str) -> None:
        """Whoever names a file means it: no other one is used instead."""
        place.toml("server.port = 1001")
        missing = place.folder / "missing.toml"
        if how == "option":
            place.config_file = missing
        else:
            place.environ["BERINIA_WEBHOOKD_CONFIG"] = str(missing)
        problem = place.problem()
        assert problem.subject == str(missing)
        assert "No such file" in problem.what


def named(place: Place, name: str, port: int) -> Path:
    path = place.folder / name
    path.write_text(f"server.port = {port}")
    return path


class TestNamesOfTheOlderInstallation:
    def test_twilio_token_holds_several_tokens(self, place: Place) -> None:
        """With commas between them all are accepted, for rotation; blanks are a slip."""
        place.environ["TWILIO_TOKEN"] = "one, two,three "
        assert sms(place.load().settings).tokens == (
            Secret("one"),
            Secret("two"),
            Secret("three"),
        )
        assert place.origin(TOKENS).where == "TWILIO_TOKEN"

    def test_the_new_name_wins_over_twilio_token(self, place: Place) -> None:
        """Within one source."""
        place.environ["TWILIO_TOKEN"] = "old"
        place.environ["BERINIA_WEBHOOKD_CHANNELS__SMS__TOKENS"] = "new"
        assert place.origin(TOKENS).value == (Secret("new"),)

    def test_mailgun_api_key_is_read(self, place: Place) -> None:
        """Several, as for Twilio."""
        place.dotenv("MAILGUN_API_KEY=key-1,key-2\n")
        assert place.origin(SIGNING_KEYS).value == (Secret("key-1"), Secret("key-2"))

    @pytest.mark.parametrize("api_key_in", ["environment", ".env"])
    @pytest.mark.parametrize("signing_key_in", ["environment", ".env"])
    def test_mailgun_signing_key_wins_wherever_it_stands(
        self, place: Place, api_key_in: str, signing_key_in: str
    ) -> None:
        """Also from a lower source: the API key is another thing at Mailgun."""
        lines = {"environment": "", ".env": ""}
        for source, name in (
            (api_key_in, "MAILGUN_API_KEY"),
            (signing_key_in, "MAILGUN_SIGNING_KEY"),
        ):
            if source == "environment":
                place.environ[name] = name.lower()
            else:
                lines[".env"] += f"{name}={name.lower()}\n"
        place.dotenv(lines[".env"])
        origin = place.origin(SIGNING_KEYS)
        assert origin.value == (Secret("mailgun_signing_key"),)
        assert origin.where == "MAILGUN_SIGNING_KEY"

    @pytest.mark.parametrize(("text", "debug"), [("1", True), ("0", False), ("", False)])
    def test_debug(self, place: Place, text: str, debug: bool) -> None:
        """DEBUG=1 is as --debug."""
        place.environ["DEBUG"] = text
        assert place.load().settings.debug is debug


class TestUnknownKeys:
    def test_in_the_file(self, place: Place) -> None:
        """The nearest known key is named."""
        place.toml("server.prot = 1")
        problem = place.problem()
        assert problem.subject == "server.prot"
        assert problem.fix[0] == "did you mean server.port?"

    def test_in_the_environment(self, place: Place) -> None:
        place.environ["BERINIA_WEBHOOKD_SERVER__PROT"] = "1"
        problem = place.problem()
        assert problem.subject == "BERINIA_WEBHOOKD_SERVER__PROT"
        assert problem.fix[0] == f"did you mean {PORT_VARIABLE}?"

    def test_in_dotenv(self, place: Place) -> None:
        place.dotenv("BERINIA_WEBHOOKD_SERVER__PROT=1\n")
        assert place.problem().fix[0] == f"did you mean {PORT_VARIABLE}?"

    def test_of_an_agent(self, place: Place) -> None:
        place.toml("[agents.MetaAgent]\ntimeout = 5\n")
        problem = place.problem()
        assert problem.subject == "agents.MetaAgent.timeout"
        assert problem.fix[0] == "did you mean agents.MetaAgent.timeout_seconds?"

    @pytest.mark.parametrize(
        ("line", "hint"),
        [
            ("dev = true", "only as a flag: --dev"),
            ('server.uds = "/run/x"', "only as a flag: --uds"),
            ("debug = true", "only as a flag: --debug, or DEBUG=1 in the environment or .env"),
        ],
    )
    def test_what_only_a_flag_can_set(self, place: Place, line: str, hint: str) -> None:
        """Throw-away secrets never come from a file; said is where such a setting belongs."""
        place.toml(line)
        problem = place.problem()
        assert problem.subject == line.partition(" ")[0]
        assert problem.what.startswith("cannot be set in ")
        assert problem.fix[0] == hint

    def test_what_only_a_flag_can_set_is_refused_of_the_environment(self, place: Place) -> None:
        place.environ["BERINIA_WEBHOOKD_SERVER__UDS"] = "/run/x"
        problem = place.problem()
        assert problem.subject == "BERINIA_WEBHOOKD_SERVER__UDS"
        assert problem.fix[0] == "only as a flag: --uds"

    def test_no_flag_is_suggested_for_a_file(self, place: Place) -> None:
        place.toml("debugs = true")
        assert place.problem().fix[0] != "did you mean debug?"

    def test_other_programs_variables_are_none(self, place: Place) -> None:
        """The environment and .env are shared with the agents."""
        place.environ["OPENAI_API_KEY"] = "x"
        place.dotenv("DATABASE_URL=postgresql://localhost/berinia\n")
        assert place.load().settings.server.port == 8001


def test_all_problems_are_said_at_once(place: Place) -> None:
    """From every source, in one run; the error's one line names the first and counts the rest."""
    place.toml(
        """
        server.prot = 1
        rate_limit.requests = 0
        agents.MetaAgent.target = "nowhere"
        """
    )
    place.dotenv("BERINIA_WEBHOOKD_LOGS__LEVEL=loud\n")
    place.environ[PORT_VARIABLE] = "high"
    assert {problem.subject for problem in place.problems()} == {
        "server.prot",
        "server.port",
        "rate_limit.requests",
        "logs.level",
        "agents.MetaAgent.target",
    }
