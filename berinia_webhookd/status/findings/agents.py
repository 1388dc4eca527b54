"""Whether the agents can be loaded: by what a running daemon says, so that nothing is loaded twice;
otherwise by an attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.clock import now
from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.config.checks import where_it_may_be
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, note, ok, wrong
from berinia_webhookd.journal.contract import MissingAgent
from berinia_webhookd.model import AgentName
from berinia_webhookd.status.durations import age
from berinia_webhookd.status.findings.installation import AgentLoad, Installation
from berinia_webhookd.status.findings.probe import metric

AGENTS: Final = "agents"
METRIC: Final = "berinia_webhookd_agent_available"
LOADED_UNSEEN: Final = ("http://", "https://", "log:")  # of these nothing is loaded
_WHY: Final = "its messages are accepted, and wait in the journal until it can be loaded"
_FIXES: Final = (
    'the whole exception stands under "Agents that do not load" of `berinia-webhookd check-config`',
    "as the user of the service, who must be able to read the agents' files",
)


async def agents(installation: Installation) -> AsyncIterator[Finding]:
    """Each agent that messages are routed to."""
    settings = installation.settings.agents
    if installation.process is None and installation.problems:
        yield note(AGENTS, "not checked: the settings are wrong")
        return
    if installation.process is None:
        loads = await installation.load_agents()
    else:
        loads = await _loaded_by_daemon(installation)
    for load in loads:
        yield (
            _nowhere(settings, load.agent)
            if is_nowhere(settings, load.agent)
            else of_load(settings, load)
        )
    if not loads:
        yield note(
            AGENTS,
            "the daemon does not say which agents it has loaded: it does not dispatch, or "
            "server.metrics_allowed_ips leaves this machine out",
        )


def of_load(settings: AgentsSettings, load: AgentLoad) -> Finding:
    """Return the finding on an attempt to load an agent."""
    own = settings.of(load.agent).target is not None or settings.registry is None
    subject = f"agents.{load.agent}.target" if own else "agents.registry"
    if load.loads is None:
        return note(subject, f"{load.agent} ({load.target}): {load.reason}")
    if load.loads:
        unseen = load.target.startswith(LOADED_UNSEEN)
        how = "is set up; used when there is a message" if unseen else "can be loaded"
        return ok(subject, f"{load.agent} ({load.target}) {how}")
    # The last line of a traceback names the exception.
    exception = (load.reason or "").strip().rpartition("\n")[2]
    what = f"{load.agent} cannot be loaded{load.where}" + (f": {exception}" if exception else "")
    return wrong(subject, what, *((load.hint,) if load.hint else _FIXES), why=_WHY)


def is_nowhere(settings: AgentsSettings, agent: AgentName) -> bool:
    """Whether nothing says where an agent is found."""
    return settings.of(agent).target is None and settings.registry is None


def _nowhere(settings: AgentsSettings, agent: AgentName) -> Finding:
    return wrong(
        f"agents.{agent}.target",
        f"{agent} has no target, and there is no registry",
        *where_it_may_be(settings, agent),
        why=_WHY,
    )


async def _loaded_by_daemon(installation: Installation) -> list[AgentLoad]:
    """What the daemon says in its metrics, and who failed to load wrote into the journal."""
    settings = installation.settings.agents
    available = await metric(installation.address, METRIC, "agent")
    missing = await _noted_missing(installation)
    loads = []
    for name in sorted({*available, *missing}):
        noted = missing.get(name)
        where = f" on {noted.node}, tried {age(noted.since, now())}" if noted else ""
        loads.append(
            AgentLoad(
                agent=AgentName(name),
                target=shown_target(settings, AgentName(name)),
                loads=noted is None and available.get(name, 0) > 0,
                where=where,
                reason=noted.reason if noted else None,
            )
        )
    return loads


async def _noted_missing(installation: Installation) -> dict[str, MissingAgent]:
    """What the process that tried to load them wrote into the journal."""
    try:
        async with installation.journal.inspect() as journal:
            return {missing.agent: missing for missing in await journal.missing_agents()}
    except WebhookdError:
        return {}  # the check of the journal says why


def shown_target(agents: AgentsSettings, name: AgentName) -> str:
    """Return where an agent is looked for, without user, password and query of a URL."""
    target = agents.of(name).target
    if target is None:
        return f"registry {agents.registry}" if agents.registry else "no target"
    return without_secrets(target)


def without_secrets(url: str) -> str:
    """Return a URL as it may be shown; what is none stays as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
