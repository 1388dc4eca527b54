"""The states of a daemon that are worth an alert, each as a function of what the stages know."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import StrEnum
from typing import Final

from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName

# What holds now: one plain sentence by the name of what it is about; empty when all is well.
Condition = Callable[[], Awaitable[Mapping[str, str]]]

BURST: Final = 10  # refused signatures …
BURST_SECONDS: Final = 300.0  # … within this time


class AlertKind(StrEnum):
    """What is worth waking somebody for."""

    ENTRY_DEAD = "entry_dead"
    SIGNATURES_REFUSED = "signatures_refused"
    AGENT_UNAVAILABLE = "agent_unavailable"
    JOURNAL_DEGRADED = "journal_degraded"
    DISK_LOW = "disk_low"


def daemon_conditions(
    *,
    metrics: Metrics,
    journal_up: Callable[[], bool],
    unavailable: Callable[[], Collection[AgentName]],
    disk: Callable[[], Awaitable[str | None]],
) -> Mapping[AlertKind, Condition]:
    """All conditions of one daemon; `disk` says what is nearly full, or None."""
    return {
        AlertKind.SIGNATURES_REFUSED: RefusedSignatures(metrics, time.monotonic),
        AlertKind.AGENT_UNAVAILABLE: UnavailableAgents(unavailable),
        AlertKind.JOURNAL_DEGRADED: JournalDown(journal_up),
        AlertKind.DISK_LOW: Complaint(disk),
    }


class RefusedSignatures:
    """Holds for a channel while it refused `BURST` signatures within `BURST_SECONDS`: a provider
    whose secret was changed, or somebody who tries his luck.
    """

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that never go back."""
        self._counter = metrics.signature_failures_total
        self._clock = clock
        # When we looked, and how many there had been by then, by channel.
        self._looks: deque[tuple[float, Mapping[str, float]]] = deque([(clock(), {})])

    async def __call__(self) -> Mapping[str, str]:
        """A sentence for each such channel."""
        now, totals = self._clock(), self._totals()
        self._looks.append((now, totals))
        while self._looks[0][0] < now - BURST_SECONDS:
            self._looks.popleft()
        before = self._looks[0][1]
        lately = {channel: total - before.get(channel, 0) for channel, total in totals.items()}
        return {
            channel: f"{count:.0f} requests to {channel} with an invalid signature were refused "
            f"within {BURST_SECONDS / 60:.0f} minutes"
            for channel, count in lately.items()
            if count >= BURST
        }

    def _totals(self) -> Mapping[str, float]:
        return {
            sample.labels["channel"]: sample.value
            for metric in self._counter.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }


class UnavailableAgents:
    """Holds for each agent that cannot be loaded. Why is in the log: it may quote a secret."""

    def __init__(self, unavailable: Callable[[], Collection[AgentName]]) -> None:
        self._unavailable = unavailable

    async def __call__(self) -> Mapping[str, str]:
        """A sentence for each such agent."""
        return {
            agent: f"{agent} cannot be loaded, so its messages wait"
            for agent in self._unavailable()
        }


class Complaint:
    """Holds while a check says what is wrong."""

    def __init__(self, check: Callable[[], Awaitable[str | None]]) -> None:
        self._check = check

    async def __call__(self) -> Mapping[str, str]:
        """What the check says."""
        said = await self._check()
        return {} if said is None else {"": said}


class JournalDown:
    """Holds while nothing can be committed, so that providers are answered 503."""

    def __init__(self, is_up: Callable[[], bool]) -> None:
        self._is_up = is_up

    async def __call__(self) -> Mapping[str, str]:
        """A sentence while the journal is down."""
        if self._is_up():
            return {}
        return {"": "the journal cannot be written, so providers are answered 503"}
