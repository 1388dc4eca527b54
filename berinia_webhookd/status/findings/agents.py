"""Whether the agents can be loaded: by what a running daemon says, so that nothing is loaded twice;
otherwise by an attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from berinia_webhookd.clock import now
from berinia_webhookd.config.settings import AgentsSettings
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, note, ok, wrong
from berinia_webhookd.journal.contract import MissingAgent
from berinia_webhookd.model import AgentName
from berinia_webhookd.status.durations import age
from berinia_webhookd.status.findings.installation import AgentLoad, Installation
from berinia_webhookd.status.findings.probe import Sender

AGENTS: Final = "agents"
METRIC: Final = "berinia_webhookd_agent_available"
LOADED_UNSEEN: Final = ("http://", "https://", "log:")  # of these nothing is loaded
_WHY: Final = "its messages are accepted, and wait in the journal until it can be loaded"
_FIXES: Final = (
    "read the whole exception: `berinia-webhookd check-config`",
    "as the user of the service, who must be able to read the agents' files",
)


async def agents(installation: Installation) -> AsyncIterator[Finding]:
    """Each agent that messages are routed to."""
    settings = installation.settings.agents
    if installation.process is None:
        if installation.problems:
            yield note(AGENTS, "not checked: the settings are wrong")
            return
        loads = await installation.load_agents()
        for finding in of_loads(settings, loads):
            yield finding
        for load in loads:
            if _is_nowhere(settings, load.agent):
                yield _missing(settings, load.agent, None)
        return
    available = await _available(installation)
    missing = await _noted_missing(installation)
    absent = sorted({*(name for name, there in available.items() if not there), *missing})
    for name in absent:
        yield _missing(settings, AgentName(name), missing.get(name))
    if not available:
        yield note(
            AGENTS,
            "the daemon does not say which agents it has loaded: it does not dispatch, or "
            "server.metrics_allowed_ips leaves this machine out",
        )
    elif not absent:
        yield ok(AGENTS, f"loaded: {', '.join(sorted(available))}")


def of_loads(settings: AgentsSettings, loads: Iterable[AgentLoad]) -> Iterator[Finding]:
    """Yield a finding for each attempt; an agent without a target is the settings' finding."""
    for load in loads:
        subject = _setting(settings, load.agent)
        if load.loads is None:
            yield note(subject, f"{load.agent} ({load.target}): {load.reason}")
        elif load.loads:
            unseen = load.target.startswith(LOADED_UNSEEN)
            what = "is set up; used when there is a message" if unseen else "can be loaded"
            yield ok(subject, f"{load.agent} ({load.target}) {what}")
        elif not _is_nowhere(settings, load.agent):
            hint = load.hint or "read the whole exception: `berinia-webhookd check-config`"
            what = f"{load.agent} cannot be loaded: {_last_line(load.reason or '')}"
            yield wrong(subject, what, hint, why=_WHY)


async def _available(installation: Installation) -> dict[str, bool]:
    """What the daemon's metrics say of each agent; nothing where they are closed to us."""
    try:
        status, text = await Sender.to_daemon(installation.address).get("/metrics")
    except WebhookdError:
        return {}  # the check of health says that it does not answer
    if status != 200:  # noqa: PLR2004 - HTTP
        return {}
    return {
        sample.labels["agent"]: sample.value > 0
        for family in text_string_to_metric_families(text)
        if family.name == METRIC
        for sample in family.samples
    }


async def _noted_missing(installation: Installation) -> dict[str, MissingAgent]:
    """What the process that tried to load them wrote into the journal."""
    try:
        async with installation.journal.inspect() as journal:
            return {missing.agent: missing for missing in await journal.missing_agents()}
    except WebhookdError:
        return {}  # the check of the journal says why


def _missing(settings: AgentsSettings, name: AgentName, missing: MissingAgent | None) -> Finding:
    subject = _setting(settings, name)
    if _is_nowhere(settings, name):
        return wrong(
            subject,
            f"{name} has no target, and there is no registry",
            f'`agents.{name}.target = "python:module:Name"`',
            'or `agents.registry = "module:object"`',
            why=_WHY,
        )
    if missing is None:
        return wrong(subject, f"{name} cannot be loaded", *_FIXES, why=_WHY)
    since = age(missing.since, now())
    what = f"{name} could not be loaded on {missing.node} {since}: {_last_line(missing.reason)}"
    return wrong(subject, what, *_FIXES, why=_WHY)


def _setting(settings: AgentsSettings, name: AgentName) -> str:
    own = settings.of(name).target is not None or settings.registry is None
    return f"agents.{name}.target" if own else "agents.registry"


def _is_nowhere(settings: AgentsSettings, name: AgentName) -> bool:
    return settings.of(name).target is None and settings.registry is None


def _last_line(reason: str) -> str:
    """The last line of a traceback names the exception."""
    return (reason.strip().splitlines() or [""])[-1]
