"""Whether the agents are there: of a running daemon by what it knows itself, so that nothing is
loaded twice; otherwise by loading them as `serve` would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from berinia_webhookd.clock import now
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, note, ok, wrong
from berinia_webhookd.journal.contract import MissingAgent
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.model import AgentName
from berinia_webhookd.tools.agent_check import check_agents
from berinia_webhookd.tools.doctor.probe import fetch
from berinia_webhookd.tools.doctor.subject import Subject
from berinia_webhookd.tools.terminal import age

_SAY: Final = "agents"
METRIC: Final = "berinia_webhookd_agent_available"
_WHY: Final = "its messages are accepted, and wait in the journal until it can be loaded"
_TEST: Final = "berinia-webhookd check-config (loads each agent and shows what is wrong)"
_USER: Final = "try as the user of the service: files and folders of the agents must be open to it"


async def loadable(subject: Subject) -> AsyncIterator[Finding]:
    """Each agent that messages are routed to."""
    if subject.running is None:
        async for finding in _tried(subject):
            yield finding
        return
    known = await _known(subject)
    missing = await _missing(subject)
    absent = sorted({*(name for name, there in known.items() if not there), *missing})
    for name in absent:
        yield _absent(subject, name, missing.get(name))
    if not known:
        yield note(
            _SAY,
            "the daemon does not say which agents it has loaded: it does not dispatch, or "
            "server.metrics_allowed_ips leaves this machine out",
        )
    elif not absent:
        yield ok(_SAY, f"loaded: {', '.join(sorted(known))}")


async def _tried(subject: Subject) -> AsyncIterator[Finding]:
    if subject.examined.problems:
        yield note(_SAY, "not tried, since the settings are wrong")
        return
    for agent in await check_agents(subject.settings, offline=False):
        if agent.loads:
            yield ok(_SAY, f"{agent.name} can be loaded ({agent.target})")
        elif agent.problem is None:
            yield _absent(subject, agent.name, None)
        else:
            yield wrong(
                _SAY,
                f"{agent.name} ({agent.target}) cannot be loaded: {_last(agent.reason or '')}",
                *agent.problem.fix,
                _TEST,
                why=_WHY,
            )


async def _known(subject: Subject) -> dict[str, bool]:
    """What the daemon's metrics say of each agent; nothing where they are closed to us."""
    try:
        page = await fetch(subject.address, "/metrics")
    except WebhookdError:
        return {}  # the check of health says that it does not answer
    if page.status != 200:  # noqa: PLR2004 - HTTP
        return {}
    families = text_string_to_metric_families(page.text)
    return {
        sample.labels["agent"]: sample.value > 0
        for family in families
        if family.name == METRIC
        for sample in family.samples
    }


async def _missing(subject: Subject) -> dict[str, MissingAgent]:
    """Why they are not there: written into the journal by who tried to load them."""
    try:
        async with Operations(subject.journal_url) as journal:
            return {missing.agent: missing for missing in await journal.missing_agents()}
    except WebhookdError:
        return {}  # the check of the journal says why


def _absent(subject: Subject, name: str, missing: MissingAgent | None) -> Finding:
    settings = subject.settings.agents
    if settings.of(AgentName(name)).target is None and settings.registry is None:
        return wrong(
            _SAY,
            f"{name} has no target, and there is no registry",
            f'agents.{name}.target = "python:module:Name", or agents.registry = "module:object"',
            why=_WHY,
        )
    if missing is None:
        return wrong(_SAY, f"{name} cannot be loaded", _TEST, _USER, why=_WHY)
    since = age(missing.since, now())
    return wrong(
        _SAY,
        f"{name} cannot be loaded on {missing.node}, noted {since}: {_last(missing.reason)}",
        _TEST,
        _USER,
        why=_WHY,
    )


def _last(reason: str) -> str:
    """The last line of a traceback says it."""
    return (reason.strip().splitlines() or [""])[-1]
