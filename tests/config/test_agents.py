"""Tables of agents and groups."""

from __future__ import annotations

import pytest

from berinia_webhookd.config.secret import Secret
from berinia_webhookd.model import AgentName, OutcomeKind

from .place import Place, whatsapp

META = AgentName("MetaAgent")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_what_an_agent_does_not_say_comes_from_the_defaults(place: Place) -> None:
    """The table for all agents, then what is built in."""
    place.toml(
        """
        [agents.defaults]
        timeout_seconds = 20
        concurrency = 2
        [agents.MetaAgent]
        target = "python:agents.meta:MetaAgent"
        timeout_seconds = 90
        """
    )
    agent = place.load().settings.agents.of(META)
    assert agent.target == "python:agents.meta:MetaAgent"
    assert (agent.timeout_seconds, agent.concurrency) == (90, 2)
    assert agent.order_hold_seconds == 300


def test_an_agent_without_a_table_has_the_defaults(place: Place) -> None:
    """Those that only the registry knows."""
    place.toml("agents.defaults.timeout_seconds = 20")
    agents = place.load().settings.agents
    assert agents.of(AgentName("LoggerAgent")).timeout_seconds == 20
    assert not agents.by_name


def test_origins_of_agents_are_known(place: Place) -> None:
    """Also of what the defaults gave."""
    file = place.toml('agents.defaults.timeout_seconds = 20\nagents.MetaAgent.target = "log:"')
    origins = place.load().origins
    inherited = origins["agents.MetaAgent.timeout_seconds"]
    assert (inherited.value, inherited.source, inherited.where) == (20, "file", str(file))
    assert origins["agents.MetaAgent.concurrency"].source == "default"


def test_all_of_retry_on(place: Place) -> None:
    place.toml('agents.MetaAgent.retry_on = ["timeout", "crash"]')
    agent = place.load().settings.agents.of(META)
    assert agent.retry_on == {OutcomeKind.TIMEOUT, OutcomeKind.CRASH}


def test_what_is_never_retried_is_no_kind(place: Place) -> None:
    """`rejected` ends an entry whatever the settings say."""
    place.toml('agents.MetaAgent.retry_on = ["rejected"]')
    problem = place.problem()
    assert problem.subject == "agents.MetaAgent.retry_on"
    assert "timeout" in problem.fix[0]


def test_an_agents_name_starts_with_a_capital(place: Place) -> None:
    """So that it is never taken for a setting."""
    place.toml('[agents.metaAgent]\ntarget = "log:"')
    problem = place.problem()
    assert problem.subject == "agents.metaAgent"
    assert "capital" in problem.fix[0]


@pytest.mark.parametrize(
    "target",
    [
        "python:module:Name",
        "python:package.module:Outer.inner",
        "https://agents.example.com/meta",
        "http://127.0.0.1:9000/",
        "http://[::1]:9000/",
        "http://localhost/",
        "log:",
    ],
)
def test_targets(place: Place, target: str) -> None:
    place.toml(f'[agents.MetaAgent]\ntarget = "{target}"\nsigning_secret = "{SECRET}"')
    assert place.load().settings.agents.of(META).target == target


@pytest.mark.parametrize(
    "target",
    [
        "module:Name",
        "python:module",
        "python:mod ule:Name",
        "python::Name",
        "log:x",
        "ftp://x/",
        "",
    ],
)
def test_what_is_no_target(place: Place, target: str) -> None:
    place.toml(f'agents.MetaAgent.target = "{target}"')
    problem = place.problem()
    assert problem.subject == "agents.MetaAgent.target"
    assert "python:module:Name" in problem.fix[0]


@pytest.mark.parametrize("host", ["agents.example.com", "10.0.0.1", "127.0.0.1.example.com"])
def test_plain_http_beyond_this_machine_is_refused(place: Place, host: str) -> None:
    """Events are personal data."""
    place.toml(f'[agents.MetaAgent]\ntarget = "http://{host}/"\nsigning_secret = "{SECRET}"')
    problem = place.problem()
    assert problem.subject == "agents.MetaAgent.target"
    assert "https://" in problem.fix[0]


class TestSigningSecret:
    def test_is_required_beyond_this_machine(self, place: Place) -> None:
        """The agent must be able to tell us from others."""
        place.toml('agents.MetaAgent.target = "https://agents.example.com/"')
        problem = place.problem()
        assert problem.subject == "agents.MetaAgent.signing_secret"
        assert "whsec_" in problem.fix[0]

    @pytest.mark.parametrize("target", ["https://127.0.0.1/", "http://localhost:1/", "log:"])
    def test_is_not_required_here(self, place: Place, target: str) -> None:
        place.toml(f'agents.MetaAgent.target = "{target}"')
        assert place.load().settings.agents.of(META).signing_secret is None

    def test_may_come_from_the_defaults(self, place: Place) -> None:
        place.toml(
            f"""
            agents.defaults.signing_secret = "{SECRET}"
            agents.MetaAgent.target = "https://agents.example.com/"
            """
        )
        assert place.load().settings.agents.of(META).signing_secret == Secret(SECRET)


class TestGroups:
    def test_the_defaults(self, place: Place) -> None:
        assert whatsapp(place.load().settings).groups == {
            "Support IA / Chatbot": "AdminInterpreterAgent",
            "Discussion libre": "AdminInterpreterAgent",
        }

    def test_a_table_replaces_them(self, place: Place) -> None:
        """Names are kept as they are written, emoji and dots included."""
        place.toml(
            """
            [channels.whatsapp.groups]
            "🧠 Tactiques & Tests" = "PivotStrategyAgent"
            "v2.0" = "MetaAgent"
            """
        )
        assert whatsapp(place.load().settings).groups == {
            "🧠 Tactiques & Tests": "PivotStrategyAgent",
            "v2.0": "MetaAgent",
        }

    def test_not_in_a_variable(self, place: Place) -> None:
        """A table is written in the file; the variable's refusal says so."""
        place.environ["BERINIA_WEBHOOKD_CHANNELS__WHATSAPP__GROUPS"] = '{"a": "MetaAgent"}'
        assert "[channels.whatsapp.groups]" in place.problem().fix[0]
