"""The availability of agents: loads them at start, and retries while that fails. The entries of an
agent that cannot be loaded wait, with the reason written on them. After a reload an agent runs its
old code until the new code loads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from berinia_webhookd.clock import doubling_pauses, wait_for_event
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import GOES_ON, Outbox
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound.contract import AgentUnavailable, Transport

logger = structlog.get_logger()

FIRST_RETRY_SECONDS: Final = 5.0
LONGEST_RETRY_SECONDS: Final = 300.0
UNROUTED_AGENTS_SECONDS: Final = 60.0  # between checks for entries of agents without a channel


class TransportDirectory(Protocol):
    """Finds the transport of an agent."""

    def of(self, agent: AgentName) -> Transport:
        """Return the transport by the agent's target."""

    def goes_on(self, agent: AgentName) -> bool:
        """Return whether an agent still runs the code from before the last reload."""


class Availability:
    """Tracks for each agent whether it is loaded, and the reason if it is not."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        transports: TransportDirectory,
        routed: Iterable[AgentName],
        metrics: Metrics,
    ) -> None:
        self._outbox = outbox
        self._transports = transports
        self._routed = frozenset(routed)
        self._metrics = metrics
        self._loading: dict[AgentName, asyncio.Task[None]] = {}
        self.loaded: dict[AgentName, Transport] = {}  # the agents that a claim may name
        self._reasons: dict[AgentName, str] = {}
        self._reload = asyncio.Event()
        self._untried: set[AgentName] = set()  # since a reload

    @property
    def reasons(self) -> dict[AgentName, str]:
        """The reason, in one line, of each agent that is not loaded."""
        return {
            agent: last_line(reason)
            for agent, reason in self._reasons.items()
            if agent not in self.loaded
        }

    @property
    def outdated(self) -> dict[AgentName, str]:
        """The reason, by agent, why new code does not load while the old code still runs."""
        return {
            agent: last_line(reason)
            for agent, reason in self._reasons.items()
            if agent in self.loaded
        }

    def reconfigure(self, routed: Iterable[AgentName]) -> None:
        """Load every agent again at once, because its code or settings may have changed."""
        self._routed = frozenset(routed)
        for task in self._loading.values():
            task.cancel()
        self._untried = set(self._routed)
        for agent in list(self.loaded):
            if not self._transports.goes_on(agent):
                del self.loaded[agent]
        self._reload.set()

    async def run(self, changed: Callable[[], None]) -> None:
        """Keep every agent that is needed loaded; call `changed` when one becomes loaded."""
        async with asyncio.TaskGroup() as group:
            while True:
                for agent in await self._needed():
                    if agent not in self._loading:
                        self._loading[agent] = group.create_task(self._load(agent, changed))
                if await wait_for_event(self._reload, UNROUTED_AGENTS_SECONDS):
                    self._reload.clear()
                    await self._start_over()

    async def _needed(self) -> frozenset[AgentName]:
        """Return the agents that channels route to, and those that older entries wait for."""
        try:
            return self._routed | await self._outbox.agents_waiting()
        except JournalUnavailable:
            return self._routed

    async def _start_over(self) -> None:
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        self._loading.clear()

    async def _load(self, agent: AgentName, changed: Callable[[], None]) -> None:
        for pause in doubling_pauses(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS):
            try:
                await self._transports.of(agent).load(agent)
            except AgentUnavailable as error:
                await self._unavailable(agent, str(error), error.hint)
            else:
                await self._available(agent)
                self._tried(agent)
                changed()
                return
            self._tried(agent)
            await asyncio.sleep(pause)

    async def _unavailable(self, agent: AgentName, reason: str, hint: str | None) -> None:
        goes_on = self._transports.goes_on(agent)
        self._metrics.agent_available.labels(agent=agent).set(goes_on)
        if (self._reasons.get(agent), goes_on) != (reason, agent in self.loaded):
            self._say(agent, reason, hint, "agent.outdated" if goes_on else "agent.unavailable")
        self._reasons[agent] = reason
        if goes_on:
            self.loaded[agent] = self._transports.of(agent)
        else:
            self.loaded.pop(agent, None)
        await self._note(
            agent, f"{GOES_ON}\n{reason}" if goes_on else reason
        )  # also for a new reason

    def _say(self, agent: AgentName, reason: str, hint: str | None, event: str) -> None:
        said = {"agent": agent, "error": last_line(reason), "hint": hint}
        if "\n" in reason and reason not in self._reasons.values():
            said["exception"] = reason  # logged once for all agents with this reason
        logger.error(event, **said)

    def _tried(self, agent: AgentName) -> None:
        """Report the end of a reload, once all agents were tried."""
        if agent not in self._untried:
            return
        self._untried.remove(agent)
        if not self._untried:
            failed = {**self.outdated, **self.reasons}
            logger.info(
                "agents.reloaded",
                loaded=sorted(self._routed - failed.keys()),
                outdated=self.outdated,
                unavailable=self.reasons,
            )

    async def _available(self, agent: AgentName) -> None:
        self._metrics.agent_available.labels(agent=agent).set(1)
        self.loaded[agent] = self._transports.of(agent)
        if self._reasons.pop(agent, None) is not None:
            logger.info("agent.available", agent=agent)
        await self._note(agent, None)

    async def _note(self, agent: AgentName, reason: str | None) -> None:
        try:
            await self._outbox.note_unavailable(agent, reason)
        except JournalUnavailable as error:
            # Only the reason in `events show` is delayed; the log and the metric have it.
            logger.warning("journal.degraded", detail=str(error))


def last_line(text: str) -> str:
    """Return the last line of a traceback, which names the place and the error."""
    return (text.strip().splitlines() or [""])[-1]
