"""Loads each agent in an agent host, as `serve` does, and keeps what it printed meanwhile. No agent
gets an event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import Any, Final

import structlog

from berinia_webhookd.channels.catalogue import Channels
from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound.contract import AgentUnavailable
from berinia_webhookd.outbound.transports import Transports
from berinia_webhookd.status.findings.agents import is_nowhere, shown_target
from berinia_webhookd.status.findings.installation import AgentLoad

LINES_KEPT: Final = 40  # the last ones that an agent printed while it was loaded

Said = Mapping[str, deque[str]]


async def load_agents(
    settings: Settings, *, offline: bool, left_out: Collection[AgentName] = ()
) -> tuple[AgentLoad, ...]:
    """Load every agent that is configured or that a channel routes to; `offline` starts no host."""
    names = {*Channels(settings).agents, *settings.agents.by_name}
    names.difference_update(left_out)
    transports = Transports(settings.agents, metrics=Metrics())
    with _output_kept() as said:
        try:
            loads = await asyncio.gather(
                *(
                    _load(name, settings.agents, transports, said, offline=offline)
                    for name in sorted(names)
                )
            )
        finally:
            await transports.close()
    return tuple(loads)


async def _load(
    name: AgentName, agents: AgentsSettings, transports: Transports, said: Said, *, offline: bool
) -> AgentLoad:
    target = shown_target(agents, name)
    transport = transports.of(name)
    if transport is transports.python and offline and not is_nowhere(agents, name):
        return AgentLoad(name, target, loads=None, reason="not tried (--offline)")
    try:
        await transport.load(name)
    except AgentUnavailable as error:
        return AgentLoad(
            name,
            target,
            loads=False,
            reason=str(error),
            hint=error.hint,
            output=tuple(said[name]),
        )
    return AgentLoad(name, target, loads=True)


@contextlib.contextmanager
def _output_kept() -> Iterator[Said]:
    """Keep what agents print, which would go to the log otherwise."""
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
