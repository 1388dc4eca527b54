"""`check-config` as an operator calls it: what it lists, what it hides, and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from berinia_webhookd.cli import root
from berinia_webhookd.journal.store import SqlJournal

WORD = "hunter2"
PATIENCE_SECONDS = 180
STRANGER = 54_321

AGENTS = """
class Good:
    def run(self, input_data):
        return {}

class Demanding:
    def __init__(self):
        print("\\033[32mreading config.json\\033[0m")
        raise FileNotFoundError("agents/demanding/config.json")
"""

# As BerinIA's: it logs what happened, and returns None.
REGISTRY = """
import logging

import crew

logger = logging.getLogger("registry")

class Registry:
    def get_or_create(self, name):
        if name == "MetaAgent":
            return crew.Good()
        try:
            raise ModuleNotFoundError("No module named 'openai'")
        except ModuleNotFoundError as error:
            logger.error("Erreur lors de la création de l'agent %s: %s", name, error)
            return None

registry = Registry()
"""

ALL_GOOD = """
[rate_limit]
verified_requests = 6000
[agents.ResponseListenerAgent]
target = "python:crew:Good"
[agents.MetaAgent]
target = "log:"
[agents.AdminInterpreterAgent]
target = "http://127.0.0.1:9000/"
[channels.sms]
tokens = ["0123456789abcdef0123456789abcdef"]
[channels.email]
signing_keys = ["key-0123456789abcdef"]
"""


@dataclass
class Checked:
    status: int
    text: str
    errors: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)
        return found

    def of(self, *levels: str) -> list[dict[str, Any]]:
        return [one for one in self.document["findings"] if one["level"] in levels]

    def settings_of(self, level: str) -> list[str]:
        return [one["subject"] for one in self.of(level)]

    def wrong(self, setting: str) -> dict[str, Any]:
        """The only thing wrong with a setting."""
        [found] = [one for one in self.of("wrong") if one["subject"] == setting]
        return found

    def agent(self, name: str) -> dict[str, Any]:
        [found] = [one for one in self.document["agents"] if one["agent"] == name]
        return dict(found)


@dataclass
class Place:
    """A configuration file, agents, and a state folder that does not exist yet."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def config(self) -> Path:
        return self.folder / "berinia.toml"

    def write(self, text: str) -> None:
        self.config.write_text(text)
        self.config.chmod(0o600)

    def check(self, *options: str) -> Checked:
        """In this process, to save time; see `check_in_a_process` for the whole program."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(os, "environ", self._whole_environment())
            done = CliRunner().invoke(
                root, ["--config", str(self.config), "check-config", *options]
            )
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return Checked(done.exit_code, done.stdout, done.stderr)

    def check_in_a_process(
        self, *options: str, program: tuple[str, ...] = ("-m", "berinia_webhookd")
    ) -> Checked:
        done = subprocess.run(
            [sys.executable, *program, "--config", str(self.config), "check-config", *options],
            env=self._whole_environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Checked(done.returncode, done.stdout, done.stderr)

    def _whole_environment(self) -> dict[str, str]:
        inherited = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        return {**inherited, "STATE_DIRECTORY": str(self.state), **self.environment}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where everything is as it should be."""
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "crew.py").write_text(AGENTS)
    (agents / "berinia_registry.py").write_text(REGISTRY)
    place = Place(tmp_path, {"BERINIA_WEBHOOKD_AGENTS__PATH": str(agents)})
    place.write(ALL_GOOD)
    return place


def test_all_is_well(place: Place) -> None:
    """Exit 0, and the last line says so."""
    checked = place.check_in_a_process()
    assert checked.status == 0
    assert checked.text.splitlines()[-1].startswith("nothing is wrong")
    loaded = "ResponseListenerAgent (python:crew:Good) can be loaded"
    assert loaded in " ".join(checked.text.split())


def test_each_setting_has_its_value_and_origin(place: Place) -> None:
    """From every source that there is."""
    credentials = place.folder / "credentials"
    credentials.mkdir()
    (credentials / "logs.password").write_text(WORD)
    (place.folder / ".env").write_text("BERINIA_WEBHOOKD_SERVER__PORT=8002\n")
    (place.folder / ".env").chmod(0o600)
    place.environment["CREDENTIALS_DIRECTORY"] = str(credentials)
    place.environment["TWILIO_TOKEN"] = WORD
    settings = place.check("--json", "--offline").document["settings"]
    found = {name: (one["value"], one["source"]) for name, one in settings.items()}
    assert found["server.host"] == ("127.0.0.1", "default")
    assert found["rate_limit.verified_requests"] == (6000, "file")
    assert found["server.port"] == (8002, ".env")
    assert found["agents.path"] == (str(place.folder / "agents"), "environment")
    assert found["channels.sms.tokens"] == (["••••••"], "environment")
    assert found["logs.password"] == ("••••••", "credential")
    assert found["agents.MetaAgent.target"] == ("log:", "file")
    assert settings["channels.sms.tokens"]["where"] == "TWILIO_TOKEN"
    short = place.check("--offline").text.splitlines()
    assert not any(line.split()[:1] == ["server.host"] for line in short)
    said = " ".join(place.check("--offline", "--all").text.split())
    assert "server.host default 127.0.0.1 " in said
    assert "environment TWILIO_TOKEN " in said


def test_no_secret_is_shown(place: Place) -> None:
    """Neither to people nor to programs, wherever it hides."""
    place.write(
        f"""
        [journal]
        url = "postgresql://berinia:{WORD}@127.0.0.1:1/berinia?password={WORD}"
        [logs]
        password = "{WORD}"
        [alerts]
        url = "https://alerts.example.com/{WORD}"
        command = "curl --user berinia:{WORD} https://alerts.example.com"
        [channels.sms]
        tokens = ["{WORD}"]
        [channels.email]
        signing_keys = ["{WORD}"]
        [channels.whatsapp]
        secret = "{WORD}"
        late_reply_url = "http://127.0.0.1:3030/send?key={WORD}"
        [agents.MetaAgent]
        target = "https://user:{WORD}@agents.example.com/meta?key={WORD}"
        signing_secret = "{WORD}"
        """
    )
    place.environment["MAILGUN_API_KEY"] = WORD
    for options in ((), ("--json",), ("--offline",)):
        checked = place.check(*options)
        assert WORD not in checked.text + checked.errors
        assert "agents.example.com/meta" in checked.text


def test_all_that_is_wrong_is_listed_at_once(place: Place) -> None:
    """Settings, agents, journal, folders, and what works but will hurt, each with a hint."""
    (place.folder / "taken").write_text("a file")
    place.write(
        f"""
        server.prot = 8001
        server.port = 99999
        agents.MetaAgent.target = "python:absent:Agent"
        agents.ResponseListenerAgent.target = "python:crew:Good"
        journal.url = "sqlite:///{place.folder}/taken/journal.db"
        logs.dir = "{place.folder}/taken"
        """
    )
    checked = place.check("--json")
    assert checked.status == 1
    assert set(checked.settings_of("wrong")) == {
        "server.prot",
        "server.port",
        "agents.MetaAgent.target",
        "journal.url",
        "logs.dir",
    }
    assert {
        "channels.sms.tokens",
        "channels.email.signing_keys",
        "rate_limit.verified_requests",
        "agents.AdminInterpreterAgent.target",
    } <= set(checked.settings_of("warning"))
    assert checked.wrong("server.prot")["fix"][0] == "did you mean server.port?"
    listed = checked.of("wrong", "warning")
    assert all(one["what"] and one["fix"] for one in listed)
    port = checked.document["settings"]["server.port"]
    assert (port["valid"], port["value"], port["source"]) == (False, None, "file")


def test_berinias_registry_is_found(place: Place) -> None:
    """Where no agent has a target, and a folder near holds BerinIA's: its two settings."""
    registry = place.folder / "infra-ia" / "agents" / "registry.py"
    registry.parent.mkdir(parents=True)
    registry.touch()
    place.environment = {}
    place.write(f'agents.path = "{registry.parent}"\n')
    [missing] = [
        one
        for one in place.check("--json", "--offline").of("warning")
        if one["subject"] == "agents.MetaAgent.target"
    ]
    both = (
        f'agents.path = "{place.folder}/infra-ia"',
        'agents.registry = "agents.registry:registry"',
    )
    assert missing["fix"] == [
        f"`{both[0]}` and `{both[1]}`",
        'or `agents.MetaAgent.target = "python:module:Name"`',
    ]


def test_hosts_that_are_shared_have_their_price(place: Place) -> None:
    """Callers that may wait in vain; memories that are elsewhere, or stopped for want of room."""
    python = ALL_GOOD.replace('"log:"', '"python:crew:Good"')

    def said(more: str) -> dict[str, str]:
        place.write(f'{python}[agents.defaults]\nhost = "berinia"\n{more}')
        warnings = place.check("--json", "--offline").of("warning")
        return {one["subject"]: one["what"] for one in warnings}

    key = "agents.MetaAgent.host"
    assert key not in said("timeout_seconds = 30")
    assert said("timeout_seconds = 31")[key] == (
        "an attempt may take 31 s, and callers of whatsapp wait 30 s"
    )
    on_postgresql = 'timeout_seconds = 30\n[journal]\nurl = "postgresql://berinia@127.0.0.1/b"\n'
    assert said(on_postgresql)[key] == "each machine has a memory of its own"
    assert "agents.max_hosts" not in said("[agents]\nmax_hosts = 2\n")
    assert "agents.max_hosts" in said("[agents]\nmax_hosts = 1\n")


def test_budgets_have_their_price(place: Place) -> None:
    """A command that must not run twice may run at the wrong time; `log:` costs nothing."""
    more = {
        'target = "python:crew:Good"': 'per_sender = ["20/h"]',
        'target = "log:"': "daily_cost = 5",
        'target = "http://127.0.0.1:9000/"': 'per_sender = ["20/h"]',
    }
    text = ALL_GOOD
    for target, budget in more.items():
        text = text.replace(target, f"{target}\n{budget}")
    place.write(text)
    warned = place.check("--json", "--offline").of("warning")
    budgets = {
        one["subject"]: one["what"]
        for one in warned
        if one["subject"].endswith(("per_sender", "daily_cost"))
    }
    assert sorted(budgets) == [
        "agents.AdminInterpreterAgent.per_sender",
        "agents.MetaAgent.daily_cost",
    ]
    assert "whatsapp brings over it" in budgets["agents.AdminInterpreterAgent.per_sender"]
    assert "has no effect on `log:`" in budgets["agents.MetaAgent.daily_cost"]


def test_one_host_has_one_memory_limit(place: Place) -> None:
    """Two of its agents cannot have two."""
    place.write(
        """
        agents.MetaAgent.host = "berinia"
        agents.ResponseListenerAgent.host = "berinia"
        agents.ResponseListenerAgent.memory_limit_bytes = 1_000_000_000
        """
    )
    found = place.check("--json", "--offline").wrong("agents.MetaAgent.memory_limit_bytes")
    assert "ResponseListenerAgent" in found["what"]


def test_people_read_the_same(place: Place) -> None:
    """Each problem with its setting and its hint, and their number at the end."""
    place.write("server.prot = 8001\nserver.port = 99999\n")
    checked = place.check_in_a_process("--offline")
    assert checked.status == 1
    assert "server.prot  unknown setting" in checked.text
    assert "did you mean server.port?" in checked.text
    assert "give a whole number from 0 to 65535" in checked.text
    assert checked.text.splitlines()[-1].startswith("2 things wrong, ")


def test_an_empty_list_is_no_unset_one(place: Place) -> None:
    """People see `[]`, which means never again, no proxy."""
    place.write(ALL_GOOD + "\n[agents.defaults]\nretry_schedule_seconds = []\n")
    said = " ".join(place.check("--offline", "--all").text.split())  # a long line is broken
    assert "agents.defaults.retry_schedule_seconds file [] " in said
    assert "channels.sms.account_sids default (not set) " in said


def test_warnings_alone_are_no_failure(place: Place) -> None:
    """The daemon would start."""
    place.write("")
    checked = place.check("--json")
    assert checked.status == 0
    assert checked.of("wrong") == []
    assert "channels.sms.tokens" in checked.settings_of("warning")


def test_a_channel_that_is_not_known_can_be_the_only_setting(place: Place) -> None:
    """What it may be is said: most are a preset."""
    place.environment.clear()
    place.write("[channels.meta]\nagent = 'LeadAgent'\n")
    checked = place.check()
    assert checked.status == 1
    said = " ".join(checked.text.split())
    assert "channels.meta is a channel without a kind or a preset" in said
    assert "fix: did you mean" not in said
    assert 'give it preset = "…"' in said


def test_an_option_of_the_program_behind_the_command(place: Place) -> None:
    """Where it belongs is said."""
    command = [sys.executable, "-m", "berinia_webhookd", "check-config", "--config", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place.folder, check=False)
    assert done.returncode == 2
    assert "before the command: berinia-webhookd --config FILE" in " ".join(done.stderr.split())


@pytest.mark.parametrize("text", ["server.port = ", None], ids=["broken", "missing"])
def test_without_the_file_nothing_else_is_judged(place: Place, text: str | None) -> None:
    """Its settings are not known, so what depends on them would be said of the wrong ones."""
    if text is None:
        place.config.unlink()
    else:
        place.write(text)
    checked = place.check("--json")
    assert checked.status == 1
    assert checked.settings_of("wrong") == [str(place.config)]
    assert checked.document["agents"] == []
    [note] = checked.of("ok", "note", "warning")
    assert "not checked" in note["what"]


def test_what_depends_on_an_invalid_setting_is_not_judged(place: Place) -> None:
    """The default journal is not what the operator meant, nor the daemon's own interpreter."""
    place.environment["BERINIA_WEBHOOKD_JOURNAL__URL"] = "mysql://localhost/journal"
    place.environment["BERINIA_WEBHOOKD_AGENTS__PYTHON"] = "~nobody-of-this-name/python"
    checked = place.check("--json")
    assert checked.settings_of("wrong") == ["journal.url", "agents.python"]
    assert checked.document["agents"] == []
    assert "journal.url" not in [*checked.settings_of("ok"), *checked.settings_of("note")]
    assert "agents.python" in checked.of("note")[0]["what"]


class TestAgents:
    def test_an_import_that_fails_shows_its_exception(self, place: Place) -> None:
        """With the line it came from."""
        (place.folder / "agents" / "broken.py").write_text("import openai_of_tomorrow\n")
        place.environment["BERINIA_WEBHOOKD_AGENTS__REGISTRY"] = "berinia_registry:registry"
        place.write(ALL_GOOD.replace("python:crew:Good", "python:broken:Agent"))
        checked = place.check("--json")
        assert checked.status == 1
        agent = checked.agent("ResponseListenerAgent")
        assert agent["loads"] is False
        assert "No module named 'openai_of_tomorrow'" in agent["reason"]
        assert 'broken.py", line 1' in agent["reason"]
        problem = checked.wrong("agents.ResponseListenerAgent.target")
        assert "No module named 'openai_of_tomorrow'" in problem["what"]
        assert problem["fix"] == ["fix it, then `berinia-webhookd reload`"]  # it is all here

    def test_a_constructor_that_raises(self, place: Place) -> None:
        """What it printed before is shown, harmlessly."""
        place.write(ALL_GOOD.replace("python:crew:Good", "python:crew:Demanding"))
        checked = place.check()
        assert checked.status == 1
        assert "FileNotFoundError: agents/demanding/config.json" in checked.text
        assert "reading config.json" in checked.text
        assert "\033" not in checked.text

    def test_a_registry_that_logs_and_returns_none(self, place: Place) -> None:
        """What it logged is the reason, so it is shown; agents it does find load."""
        place.environment["BERINIA_WEBHOOKD_AGENTS__REGISTRY"] = "berinia_registry:registry"
        place.write("")
        checked = place.check("--json")
        assert checked.status == 1
        assert checked.agent("MetaAgent")["loads"] is True
        agent = checked.agent("AdminInterpreterAgent")
        assert agent["loads"] is False
        said = (
            "Erreur lors de la création de l'agent AdminInterpreterAgent: No module named 'openai'"
        )
        assert said in agent["output"]
        assert said in " ".join(place.check().text.split())
        registry = [
            one["what"] for one in checked.of("wrong") if one["subject"] == "agents.registry"
        ]
        assert any("AdminInterpreterAgent" in message for message in registry)

    def test_no_interpreter(self, place: Place) -> None:
        """One problem for the setting, and one for each agent that needs it."""
        place.environment["BERINIA_WEBHOOKD_AGENTS__PYTHON"] = str(place.folder / "venv/bin/python")
        checked = place.check("--json")
        assert checked.status == 1
        assert "agents.python" in checked.settings_of("wrong")
        assert "agents.python" not in checked.settings_of("warning")
        assert "No such file" in checked.agent("ResponseListenerAgent")["reason"]

    def test_offline_starts_none(self, place: Place) -> None:
        """Nothing of theirs is imported; what needs no host is checked all the same."""
        (place.folder / "agents" / "noisy.py").write_text(
            "import pathlib\npathlib.Path('imported').touch()\nraise SystemExit\n"
        )
        place.write(
            ALL_GOOD.replace("python:crew:Good", "python:noisy:Agent").replace(
                'target = "http://127.0.0.1:9000/"',
                'target = "https://agents.example.com/"\nsigning_secret = "whsec_not base64!"',
            )
        )
        checked = place.check("--json", "--offline")
        assert checked.agent("ResponseListenerAgent")["loads"] is None
        assert checked.agent("AdminInterpreterAgent")["loads"] is False
        assert checked.agent("MetaAgent")["loads"] is True
        assert not (place.folder / "agents" / "imported").exists()

    def test_an_agent_that_ends_the_process_costs_itself_alone(self, place: Place) -> None:
        """The others are still told."""
        (place.folder / "agents" / "deadly.py").write_text("import os\nos._exit(3)\n")
        place.write(ALL_GOOD.replace('target = "log:"', 'target = "python:deadly:Agent"'))
        checked = place.check("--json")
        assert checked.agent("MetaAgent")["loads"] is False
        assert "exit code 3" in checked.agent("MetaAgent")["reason"]
        assert checked.agent("ResponseListenerAgent")["loads"] is True


class TestJournal:
    def test_it_is_never_made(self, place: Place) -> None:
        """Only announced; nor is its folder."""
        checked = place.check("--json")
        [note] = [one for one in checked.of("note") if one["subject"] == "journal.url"]
        assert "`serve` makes it" in note["what"]
        assert not place.state.exists()

    def test_one_that_is_there(self, place: Place) -> None:
        """It is opened, and its schema named."""
        make_journal(place.state / "journal.db")
        checked = place.check("--json")
        assert checked.status == 0
        [usable] = [one for one in checked.of("ok") if one["subject"] == "journal.url"]
        assert "schema" in usable["what"]

    def test_one_of_a_newer_program(self, place: Place) -> None:
        """As `serve` would refuse it."""
        journal = place.state / "journal.db"
        make_journal(journal)
        with sqlite3.connect(journal) as connection:
            connection.execute("UPDATE schema SET oldest_program = '999.0'")
        connection.close()
        checked = place.check("--json")
        assert checked.status == 1
        assert "999.0" in checked.wrong("journal.url")["what"]

    def test_a_file_that_is_none(self, place: Place) -> None:
        """What it holds stays as it is."""
        journal = place.state / "journal.db"
        journal.parent.mkdir()
        journal.write_text("not a database " * 100)
        before = journal.read_bytes()
        checked = place.check("--json")
        assert checked.status == 1
        assert "not a database" in checked.wrong("journal.url")["what"]
        assert journal.read_bytes() == before

    def test_a_database_that_cannot_be_reached(self, place: Place) -> None:
        """The place is named, user and password are not; --offline does not try."""
        url = f"postgresql://berinia:{WORD}@127.0.0.1:1/berinia"
        place.environment["BERINIA_WEBHOOKD_JOURNAL__URL"] = url
        checked = place.check("--json")
        assert checked.status == 1
        assert checked.wrong("journal.url")["what"].startswith("postgresql://127.0.0.1:1/berinia: ")
        assert "journal.url" in place.check("--json", "--offline").settings_of("note")


def make_journal(file: Path) -> None:
    async def make() -> None:
        journal = SqlJournal(f"sqlite:///{file}", node="test", clock=lambda: datetime.now(UTC))
        await journal.open()
        await journal.close()

    asyncio.run(make())


class TestFolders:
    def test_each_is_named_with_what_it_is_needed_for(self, place: Place) -> None:
        found = place.check("--json", "--offline").of("ok")
        needs = {one["subject"]: one["what"].split()[-1] for one in found}
        assert {
            "STATE_DIRECTORY": "written",
            "logs.dir": "written",
            "agents.path": "read",
            "agents.python": "executed",
        }.items() <= needs.items()

    def test_agents_that_are_not_there(self, place: Place) -> None:
        place.environment["BERINIA_WEBHOOKD_AGENTS__PATH"] = str(place.folder / "elsewhere")
        checked = place.check("--json", "--offline")
        assert checked.status == 1
        assert "elsewhere" in checked.wrong("agents.path")["what"]

    def test_an_interpreter_that_is_a_folder(self, place: Place) -> None:
        place.environment["BERINIA_WEBHOOKD_AGENTS__PYTHON"] = str(place.folder)
        problem = place.check("--json", "--offline").wrong("agents.python")
        assert "is no program" in problem["what"]

    def test_other_writers_of_the_log_folder_are_reported(self, place: Place) -> None:
        """They are tolerated: a note, no warning; rotated logs are ours."""
        logs = place.state / "unified_logs"
        logs.mkdir(parents=True)
        for name in ("berinia.log", "webhook.log.1", "sms.log-20260301.gz", "system.log"):
            (logs / name).write_text("INFO something\n")
        (logs / "webhook.log").write_text('{"event":"server.started"}\n')
        (logs / "agents.log").write_text('{"event":"agent.output"}\nINFO not ours\n')
        checked = place.check("--json", "--offline")
        assert checked.status == 0
        notes = [note["what"] for note in checked.of("note") if "program" in note["what"]]
        assert len(notes) == 2
        assert notes[0].endswith(": berinia.log")
        assert notes[1].endswith(": agents.log")


AS_A_STRANGER = f"""
import os, sys
import berinia_webhookd.journal.sqlite
import berinia_webhookd.tools.check_config
from berinia_webhookd.cli import main
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({STRANGER})
    os.setuid({STRANGER})
main(sys.argv[1:])
"""


@pytest.fixture
def public_place() -> Iterator[Place]:
    """A place that any user can reach, with a configuration that any user can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        place = Place(folder)
        place.config.write_text("")
        yield place


def test_folders_are_tested_as_the_current_user(public_place: Place) -> None:
    """A user who may not write or look there is told so of each, with no traceback."""
    place = public_place
    shut, closed = place.folder / "shut", place.folder / "closed"
    for path, mode in ((shut, 0o555), (closed, 0o000)):
        path.mkdir()
        path.chmod(mode)
    place.config.write_text(f'logs.dir = "{shut}"\nagents.path = "{closed}"\n')
    place.environment["STATE_DIRECTORY"] = str(shut / "state")
    checked = place.check_in_a_process("--json", "--offline", program=("-c", AS_A_STRANGER))
    assert checked.status == 1
    assert "cannot be written" in checked.wrong("STATE_DIRECTORY")["what"]
    assert "cannot be written" in checked.wrong("logs.dir")["what"]
    assert "cannot be read" in checked.wrong("agents.path")["what"]
    assert "cannot be made" in checked.wrong("journal.url")["what"]
    assert "user" not in checked.settings_of("warning")


def test_a_working_folder_that_was_deleted(tmp_path: Path) -> None:
    """One line that says where to go, for every command that reads settings."""
    gone = tmp_path / "gone"
    for command in ("check-config", "doctor", "events stats", "serve --dev"):
        gone.mkdir()
        script = f'cd "{gone}" && rmdir "{gone}" && exec "{sys.executable}" "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", "-m", "berinia_webhookd", *command.split()],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 3, command
        assert "cd /" in done.stderr
        assert "Traceback" not in done.stderr


def test_running_as_root_is_a_warning(place: Place) -> None:
    """And only that: the old unit did."""
    checked = place.check("--json", "--offline")
    assert checked.status == 0
    assert ("user" in checked.settings_of("warning")) is (os.geteuid() == 0)


class TestTwilio:
    LINE = "https://app.example.com/webhook/sms-response#rc=5&rp=all"

    def test_equal_limits_are_a_warning_with_the_line_to_enter(self, place: Place) -> None:
        place.environment["BERINIA_WEBHOOKD_SERVER__PUBLIC_URL"] = "https://app.example.com"
        place.write(ALL_GOOD.replace("verified_requests = 6000", ""))
        checked = place.check("--json", "--offline")
        [hint] = [
            "\n".join(one["fix"])
            for one in checked.of("warning")
            if one["subject"] == "rate_limit.verified_requests"
        ]
        assert self.LINE in hint
        assert "6000" in hint

    def test_the_line_is_given_in_any_case(self, place: Place) -> None:
        """For each public URL, with the path that is configured."""
        place.environment["BERINIA_WEBHOOKD_SERVER__PUBLIC_URL"] = (
            "https://app.example.com,https://b.example.com"
        )
        checked = place.check("--json", "--offline")
        assert "rate_limit.verified_requests" not in checked.settings_of("warning")
        notes = "\n".join(note["what"] for note in checked.of("note"))
        assert self.LINE in notes
        assert "https://b.example.com/webhook/sms-response#rc=5&rp=all" in notes


def test_the_whole_configuration_of_berinia_is_accepted(place: Place) -> None:
    """As it stands in contrib, with its own handler, a registry, and secrets in `.env`."""
    contrib = Path(__file__).parents[2] / "contrib"
    agents = place.folder / "infra-ia"
    files = {
        "berinia_whatsapp.py": (contrib / "agents" / "berinia_whatsapp.py").read_text(),
        "crew.py": AGENTS,
        "webhook/whatsapp_webhook.py": "async def handle_whatsapp_webhook(data): ...",
        "agents/registry.py": REGISTRY.replace("MetaAgent", "ResponseListenerAgent"),
    }
    for name, text in files.items():
        file = agents / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    text = (contrib / "config" / "berinia.toml").read_text()
    text = text.replace("/srv/berinia/infra-ia/.venv/bin/python", sys.executable)
    place.write(text.replace("/srv/berinia/infra-ia", str(agents)))
    place.environment = {
        "TWILIO_TOKEN": "a token",
        "MAILGUN_SIGNING_KEY": "a key",
        "BERINIA_WEBHOOKD_CHANNELS__WHATSAPP__SECRET": "a word",
    }
    checked = place.check("--json")
    assert checked.of("wrong") == []
    assert {one["agent"] for one in checked.document["agents"]} == {
        "MetaAgent",
        "ResponseListenerAgent",
    }
    assert not [one for one in checked.settings_of("warning") if one.startswith("channels.")]
