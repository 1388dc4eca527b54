"""Whether the agents can be loaded: as a running daemon reports, else by trying."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
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
NOT_LOADED: Final = ("http://", "https://", "log:")  # there is nothing to load
_WHY: Final = "its messages are accepted, and wait in the journal until it can be loaded"
_WHY_OLD: Final = "what was changed has no effect; after a crash of the agent its messages wait"
_FIX: Final = "fix it, then `berinia-webhookd reload`"
_WHOLE: Final = "the whole exception, as the user of the service: `berinia-webhookd check-config`"


async def agents(installation: Installation) -> AsyncIterator[Finding]:
    """Check each agent that messages are routed to."""
    settings = installation.settings.agents
    if installation.process is None and installation.problems:
        yield note(AGENTS, "not checked: the settings are wrong")
        return
    if installation.process is None:
        loads = await installation.load_agents()
    else:
        loads = await _loaded_by_daemon(installation)
    for load in loads:
        if is_nowhere(settings, load.agent):
            yield _nowhere(settings, load.agent)
    for finding in of_loads(settings, loads):
        yield finding
    if not loads:
        yield note(
            AGENTS,
            "the daemon does not say which agents it has loaded: it does not dispatch, or "
            "server.metrics_allowed_ips leaves this machine out",
        )


def of_loads(
    settings: AgentsSettings, loads: Sequence[AgentLoad], *, whole: bool = False
) -> Iterator[Finding]:
    """Yield findings on loaded agents; a reason that several share is given once. `whole`: the
    exceptions are shown beside them.
    """
    fixes = (_FIX,) if whole else (_FIX, _WHOLE)
    somewhere = [load for load in loads if not is_nowhere(settings, load.agent)]
    failed: defaultdict[tuple[str, bool], list[AgentLoad]] = defaultdict(list)
    for load in somewhere:
        if load.loads is False:
            failed[last_line(load.reason), load.goes_on].append(load)
        else:
            yield _loaded(settings, load)
    for (reason, goes_on), alike in failed.items():
        first = alike[0]
        names = ", ".join(load.agent for load in alike)
        subjects = {_subject(settings, load.agent) for load in alike}
        tried = f"be loaded{first.where}" + (f": {reason}" if reason else "")
        what = f"{names} cannot {tried}"
        if goes_on:
            what = f"the code before goes on for {names}; the new code cannot {tried}"
        yield wrong(
            subjects.pop() if len(subjects) == 1 else AGENTS,
            what,
            *((first.hint,) if first.hint else fixes),
            why=_WHY_OLD if goes_on else _WHY,
        )


def _loaded(settings: AgentsSettings, load: AgentLoad) -> Finding:
    subject = _subject(settings, load.agent)
    if load.loads is None:
        return note(subject, f"{load.agent} ({load.target}): {load.reason}")
    not_loaded = load.target.startswith(NOT_LOADED)
    how = "is set up; used when there is a message" if not_loaded else "can be loaded"
    return ok(subject, f"{load.agent} ({load.target}) {how}")


def _subject(settings: AgentsSettings, agent: AgentName) -> str:
    own = settings.of(agent).target is not None or settings.registry is None
    return f"agents.{agent}.target" if own else "agents.registry"


def last_line(reason: str | None) -> str:
    """Return the last line of a traceback: the exception."""
    return (reason or "").strip().rpartition("\n")[2]


def is_nowhere(settings: AgentsSettings, agent: AgentName) -> bool:
    """Whether an agent has no target, and there is no registry."""
    return settings.of(agent).target is None and settings.registry is None


def _nowhere(settings: AgentsSettings, agent: AgentName) -> Finding:
    return wrong(
        f"agents.{agent}.target",
        f"{agent} has no target, and there is no registry",
        *where_it_may_be(settings, agent),
        why=_WHY,
    )


async def _loaded_by_daemon(installation: Installation) -> list[AgentLoad]:
    """Return what the daemon's metrics and the journal say about loading."""
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
                goes_on=noted is not None and noted.goes_on and available.get(name, 0) > 0,
            )
        )
    return loads


async def _noted_missing(installation: Installation) -> dict[str, MissingAgent]:
    """Return the agents that could not be loaded, from the journal."""
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
    """Return a URL without user, password and query; other text as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
