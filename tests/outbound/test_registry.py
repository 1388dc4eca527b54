"""BerinIA as it is: `agents.path`, `agents.python` and `agents.registry` suffice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from berinia_webhookd.model import AgentName, OutcomeKind
from berinia_webhookd.outbound.contract import AgentUnavailable
from berinia_webhookd.outbound.python_agent import PythonAgents

from .agent_world import HostWorld, attempt
from .berinia import write_berinia

LISTENER = AgentName("ResponseListenerAgent")
META = AgentName("MetaAgent")
BROKEN = AgentName("BrokenAgent")
UNKNOWN = AgentName("UnknownAgent")

# What the agents' environment pins, in versions that are not the daemon's.
PINNED = {"pydantic": "2.5.0", "sqlalchemy": "2.0.23", "orjson": "3.9.10"}


def open_berinia(hosts: HostWorld, folder: Path, more: str = "") -> PythonAgents:
    return hosts.open(
        {},
        f"""
        agents.path = "{folder}"
        agents.registry = "agents.registry:registry"
        {more}
        """,
    )


@pytest.fixture
def berinia(tmp_path: Path) -> Path:
    return write_berinia(tmp_path / "infra-ia")


async def test_the_registry_finds_agents_by_name(hosts: HostWorld, berinia: Path) -> None:
    """Without a target each; configuration is read and folders are made where BerinIA stands, and
    the agents keep their memory.
    """
    agents = open_berinia(hosts, berinia)
    await agents.load(LISTENER)
    replies = [(await attempt(agents, LISTENER, body)).reply for body in ("un", "deux", "trois")]
    assert replies == ["message 1", "message 2", "message 3"]
    assert (berinia / "logs/agents/heard.txt").read_text() == "un\ndeux\ntrois\n"


async def test_an_agents_error_is_an_error_with_its_text(hosts: HostWorld, berinia: Path) -> None:
    """`{"status": "error", "message": …}` fails the attempt and carries the reply."""
    agents = open_berinia(hosts, berinia)
    outcome = await attempt(agents, META, "Bonjour", channel="whatsapp", group="Support")
    assert outcome.kind is OutcomeKind.ERROR
    assert outcome.reply == "Je ne comprends pas : Bonjour"


async def test_coloured_logs_are_caught_and_hide_people(hosts: HostWorld, berinia: Path) -> None:
    """What BerinIA logs to stdout is in our log under the event it belongs to."""
    agents = open_berinia(hosts, berinia)
    with capture_logs() as lines:
        await attempt(agents, LISTENER, "une affaire privée")
    (said,) = [line for line in lines if line["event"] == "agent.output"]
    assert "BerinIA-ResponseListenerAgent" in said["output"]
    assert said["channel"] == "sms"
    assert "+33639980001" not in said["output"]
    assert "affaire" not in said["output"]


@pytest.mark.parametrize("name", [BROKEN, UNKNOWN])
async def test_a_registry_that_returns_none_makes_the_agent_unavailable(
    hosts: HostWorld, berinia: Path, name: AgentName
) -> None:
    """What the registry logged itself says why, and is in the log; the others are served."""
    agents = open_berinia(hosts, berinia)
    with capture_logs() as lines, pytest.raises(AgentUnavailable) as raised:
        await agents.load(name)
    assert f"agents.registry:registry has no agent {name}" in str(raised.value)
    said = [line["output"] for line in lines if line["event"] == "agent.output"]
    assert any(f"cannot create {name}" in line for line in said)
    assert (await attempt(agents, LISTENER)).reply == "message 1"


def test_the_exception_behind_a_missing_agent_is_shown(tmp_path: Path, berinia: Path) -> None:
    """`check-config` says what the registry said, and not only that it has no such agent."""
    file = tmp_path / "berinia.toml"
    file.write_text(
        f"""
        agents.path = "{berinia}"
        agents.registry = "agents.registry:registry"
        channels.sms.agent = "BrokenAgent"
        """
    )
    file.chmod(0o600)
    command = [sys.executable, "-m", "berinia_webhookd", "--config", str(file), "check-config"]
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state")}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    said = " ".join(done.stdout.split())  # it is as wide as a terminal
    assert "cannot create BrokenAgent: No module named 'a_module_that_nobody" in said


@pytest.mark.parametrize(
    ("registry", "reason"),
    [
        ("agents.nowhere:registry", "ModuleNotFoundError"),
        ("agents.registry:nothing", "has no attribute 'nothing'"),
        ("agents.registry:logger", "has no attribute 'get_or_create'"),
    ],
)
async def test_a_registry_that_is_none(
    hosts: HostWorld, berinia: Path, registry: str, reason: str
) -> None:
    """A wrong path says what is wrong with it."""
    more = f'agents.path = "{berinia}"\nagents.registry = "{registry}"'
    agents = hosts.open({}, more)
    with pytest.raises(AgentUnavailable, match=reason):
        await agents.load(LISTENER)


async def test_a_registry_may_be_a_class(hosts: HostWorld, berinia: Path) -> None:
    """An instance of it is made."""
    more = f'agents.path = "{berinia}"\nagents.registry = "agents.registry:AgentRegistry"'
    agents = hosts.open({}, more)
    assert (await attempt(agents, LISTENER)).reply == "message 1"


@pytest.fixture(scope="module")
def their_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment whose packages conflict with ours."""
    folder = tmp_path_factory.mktemp("their") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", find], text=True).strip())
    for name, version in PINNED.items():
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f'__version__ = "{version}"\n')
    return python


VERSIONS = """
import json, sys
import orjson, pydantic, sqlalchemy


def handle(event):
    versions = {module.__name__: module.__version__ for module in (orjson, pydantic, sqlalchemy)}
    return {"response": json.dumps([versions, sys.prefix, sorted(sys.modules)])}
"""


async def test_agents_keep_their_own_virtual_environment(
    hosts: HostWorld, tmp_path: Path, their_python: Path
) -> None:
    """Their versions of what the daemon uses in others, and nothing of the daemon's."""
    (tmp_path / "versions.py").write_text(VERSIONS)
    more = f'agents.path = "{tmp_path}"\nagents.python = "{their_python}"'
    agents = hosts.open({"Agent": "versions:handle"}, more)
    outcome = await attempt(agents, "Agent")
    versions, prefix, modules = json.loads(outcome.reply or "")
    assert versions == PINNED
    assert prefix == str(their_python.parents[1])
    assert prefix != sys.prefix
    assert not {"berinia_webhookd", "structlog", "aiohttp"} & set(modules)


async def test_berinia_runs_in_its_own_environment(
    hosts: HostWorld, berinia: Path, their_python: Path
) -> None:
    """All three settings together."""
    agents = open_berinia(hosts, berinia, f'agents.python = "{their_python}"')
    assert (await attempt(agents, LISTENER)).reply == "message 1"
