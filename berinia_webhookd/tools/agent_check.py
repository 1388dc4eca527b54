"""Whether each agent can be loaded, tried in agent hosts as `serve` has them, and what the agents
or their registry said meanwhile. It hands them no event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from berinia_webhookd.app import Channels
from berinia_webhookd.config.settings import AgentsSettings, Settings
from berinia_webhookd.findings import Finding, wrong
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound.contract import AgentUnavailable
from berinia_webhookd.outbound.transports import Transports

LINES_KEPT: Final = 40  # of what an agent printed while it was loaded: the last ones explain most
HINT: Final = "mend what is shown under Agents; until then its messages wait"

Said = Mapping[str, deque[str]]


@dataclass(frozen=True, slots=True)
class AgentFinding:
    """One agent; `loads` is None where nobody tried."""

    name: AgentName
    target: str  # as shown: without what may be secret in a URL
    loads: bool | None
    reason: str | None = None  # why it does not load: a traceback where there is one
    output: tuple[str, ...] = ()  # what was printed meanwhile, where it does not load
    problem: Finding | None = None


async def check_agents(
    settings: Settings, *, offline: bool, left_out: Collection[AgentName] = ()
) -> tuple[AgentFinding, ...]:
    """Every agent that is configured or that a channel routes to, by name.

    `offline` starts no agent host.
    """
    names = {*Channels(settings).agents, *settings.agents.by_name}
    names.difference_update(left_out)
    transports = Transports(settings.agents, metrics=Metrics())
    with _listening() as said:
        try:
            findings = await asyncio.gather(
                *(
                    _check(name, settings.agents, transports, said, offline)
                    for name in sorted(names)
                )
            )
        finally:
            await transports.close()
    return tuple(findings)


async def _check(
    name: AgentName, agents: AgentsSettings, transports: Transports, said: Said, offline: bool
) -> AgentFinding:
    target = shown_target(agents, name)
    transport = transports.of(name)
    absent = agents.of(name).target is None and agents.registry is None
    if transport is transports.python and offline and not absent:
        return AgentFinding(name, target, None, "not tried (--offline)")
    try:
        await transport.load(name)
    except AgentUnavailable as error:
        reason = str(error)
        # Without a target anywhere its messages wait, as a warning says already.
        problem = None if absent else _problem(name, agents, reason, error.hint)
        return AgentFinding(name, target, False, reason, tuple(said[name]), problem)
    return AgentFinding(name, target, True)


def _problem(name: AgentName, agents: AgentsSettings, reason: str, hint: str | None) -> Finding:
    own = agents.of(name).target is not None
    setting = f"agents.{name}.target" if own else "agents.registry"
    last = reason.strip().splitlines()[-1]
    return wrong(setting, f"{name} cannot be loaded: {last}", hint or HINT)


def shown_target(agents: AgentsSettings, name: AgentName) -> str:
    """Where an agent is looked for, without user, password and query of a URL."""
    target = agents.of(name).target
    if target is None:
        return f"registry {agents.registry}" if agents.registry else "no target"
    return without_secrets(target)


def without_secrets(url: str) -> str:
    """A URL as it may be shown; what is none is shown as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextlib.contextmanager
def _listening() -> Iterator[Said]:
    """What agents print ends in our log; here it is kept for the report instead."""
    said: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LINES_KEPT))

    def keep(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if line.get("event") == "agent.output" and "output" in line:
            said[str(line.get("agent"))].append(str(line["output"]))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield said
    finally:
        structlog.configure(**before)
