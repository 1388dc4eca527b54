"""Alerts: tell an operator what needs fixing, by `alerts.command` and `alerts.url`.

An alert is one small JSON document, without secrets and without any text of a message. At most one
of a kind is sent in five minutes; further occurrences are counted into the next one. An alert that
cannot be delivered is logged, and delays nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from prometheus_client import Counter, Gauge

from berinia_webhookd import json_text
from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.config.settings import AlertSettings
from berinia_webhookd.journal.contract import MOST_FAILURES, Hold, LostForGood, Settlement
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound.alert_delivery import deliver
from berinia_webhookd.outbound.alert_kinds import ADVICE, AlertKind

PAUSE_SECONDS: Final = 300.0
CHECK_SECONDS: Final = 5.0
SERVICE: Final = "berinia-webhookd"
RECENT_SECONDS: Final = 300.0  # the window of the conditions on counters

# Returns one sentence by the name of what it is about (a channel, an agent); empty if all is well.
Condition = Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Told:
    """The content of a pending alert: its last occurrence, and the number of occurrences."""

    summary: str
    at: datetime
    facts: Mapping[str, str]
    count: int = 1


@dataclass
class Alerts:
    """Sends alerts while `run` runs.

    `conditions` are checked every `check_seconds`, and alert when they begin to hold; `sound` is
    for what happens at an instant. `clock` gives the time of day.
    """

    settings: AlertSettings
    node: str
    clock: Callable[[], datetime]
    conditions: Mapping[AlertKind, Condition]
    pause_seconds: float = PAUSE_SECONDS
    check_seconds: float = CHECK_SECONDS
    _pending: dict[AlertKind, Told] = field(default_factory=dict, init=False)
    _sent_at: dict[AlertKind, float] = field(default_factory=dict, init=False)
    _holding: dict[AlertKind, frozenset[str]] = field(default_factory=dict, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def reconfigure(self, settings: AlertSettings) -> None:
        """Use these settings from the next alert on."""
        self.settings = settings

    @property
    def _anybody_told(self) -> bool:
        return self.settings.command is not None or self.settings.url is not None

    def sound(self, kind: AlertKind, summary: str, **facts: str) -> None:
        """Queue an alert, sent once its kind's pause is over; does not wait or raise.

        `summary` is one plain sentence; `facts` (such as `agent`, `event_id`) go into the JSON.
        """
        if not self._anybody_told:
            return
        before = self._pending.get(kind)
        count = before.count + 1 if before else 1
        self._pending[kind] = Told(summary, self.clock(), facts, count)
        self._changed.set()

    def entry_dead(self, settlement: Settlement) -> None:
        """Alert of an entry that failed for good; the agent's error is only in `events show`."""
        entry, kind = settlement.entry, settlement.outcome.kind.value
        doubt = ", may have acted all the same" if settlement.may_have_acted else ""
        self.sound(
            AlertKind.ENTRY_DEAD,
            f"{entry.agent} failed on an event ({kind}){doubt}, and it is not tried again",
            agent=entry.agent,
            channel=entry.event.channel,
            event_id=entry.event_id,
        )

    def lost_for_good(self, lost: LostForGood) -> None:
        """Alert of an entry whose process ended while it ran: repeatedly, or once if its agent is
        at-most-once.
        """
        often = "" if lost.may_have_acted else " time and again"
        doubt = "; it may have acted" if lost.may_have_acted else ""
        self.sound(
            AlertKind.ENTRY_DEAD,
            f"the daemon ended{often} while {lost.agent} ran on an event{doubt}, "
            "and it is not tried again",
            agent=lost.agent,
            channel=lost.channel,
            event_id=lost.event_id,
        )

    def agent_failing(self, settlement: Settlement, failures: int) -> None:
        """Alert of an agent whose last attempts all failed."""
        agent, kind = settlement.entry.agent, settlement.outcome.kind.value
        tried = "; one entry at a time is tried now" if failures >= MOST_FAILURES else ""
        self.sound(
            AlertKind.AGENT_FAILING,
            f"{agent} failed on its last {failures} attempts ({kind}){tried}",
            agent=agent,
        )

    def held(self, hold: Hold) -> None:
        """Alert of entries that a guard has begun to hold."""
        facts = {"agent": hold.agent, "reason": hold.guard.value}
        what = f"{hold.agent} gets"
        if hold.event_id is not None and hold.channel is not None:
            facts |= {"channel": hold.channel, "event_id": hold.event_id}
            what = f"{hold.agent} gets, in a conversation on {hold.channel},"
        summary = f"{what} nothing but opt-outs: {hold.why}"
        self.sound(AlertKind.CONVERSATION_HELD, summary, **facts)

    async def run(self) -> None:
        """Check the conditions and deliver alerts, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._check_conditions())
            group.create_task(self._deliver())

    async def _check_conditions(self) -> None:
        while True:
            for kind, condition in self.conditions.items() if self._anybody_told else ():
                holding = await condition()
                begun = holding.keys() - self._holding.get(kind, frozenset())
                if begun:
                    self.sound(kind, "; ".join(holding[about] for about in sorted(begun)))
                self._holding[kind] = frozenset(holding)
            await asyncio.sleep(self.check_seconds)

    async def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            now = loop.time()
            allowed = {
                kind: self._sent_at.get(kind, -self.pause_seconds) + self.pause_seconds
                for kind in self._pending
            }
            due = [kind for kind, at in allowed.items() if at <= now]
            if due:
                self._sent_at |= dict.fromkeys(due, now)
                await asyncio.gather(*(self._send(kind, self._pending.pop(kind)) for kind in due))
                continue
            next_at = min(allowed.values(), default=None)
            await wait_for_event(self._changed, None if next_at is None else next_at - now)

    async def _send(self, kind: AlertKind, pending: Told) -> None:
        await send(self.settings, kind, pending, node=self.node)


async def send(settings: AlertSettings, kind: AlertKind, told: Told, *, node: str) -> None:
    """Deliver an alert to the command and the URL that are set."""
    advice, agent = ADVICE[kind], told.facts.get("agent")
    document = {
        "service": SERVICE,
        "node": node,
        "kind": kind.value,
        "at": told.at.isoformat(),
        "summary": told.summary,
        "count": told.count,
        "look": advice.look.replace("NAME", agent) if agent else advice.look,
        "fix": advice.fix,
        "guide": advice.section,
        **told.facts,
    }
    await deliver(settings, kind.value, json_text.encode(document))


def daemon_conditions(
    *,
    metrics: Metrics,
    journal_up: Callable[[], bool],
    unavailable: Callable[[], Collection[AgentName]],
    outdated: Callable[[], Collection[AgentName]],
    disk: Callable[[], Awaitable[str | None]],
    loopback_locked: Callable[[], bool],
    held_for_days: Condition,
    channel_silent: Condition,
) -> Mapping[AlertKind, Condition]:
    """Return all conditions of one daemon; `disk` says what is nearly full, or None."""

    async def agent_unavailable() -> Mapping[str, str]:
        # The reason is only in the log, since it may quote a secret.
        waits = "{0} cannot be loaded, so its messages wait"
        old = "the new code of {0} cannot be loaded, so {0} goes on with the code before"
        told = dict.fromkeys(unavailable(), waits) | dict.fromkeys(outdated(), old)
        return {str(agent): text.format(agent) for agent, text in told.items()}

    async def journal_degraded() -> Mapping[str, str]:
        what = "the journal cannot be written, so providers are answered 503"
        return {} if journal_up() else {"": what}

    async def disk_low() -> Mapping[str, str]:
        full = await disk()
        return {} if full is None else {"": full}

    async def locked() -> Mapping[str, str]:
        what = "nginx does not say who calls, so no program on this machine is believed"
        return {"": what} if loopback_locked() else {}

    async def signatures_refused() -> Mapping[str, str]:
        what = (
            "requests to {} that resemble its provider's are refused for their signature, and none "
            "was accepted since the first of them"
        )
        refused = totals(metrics.provider_refused)
        return {channel: what.format(channel) for channel, count in refused.items() if count}

    return {
        AlertKind.LOOPBACK_LOCKED: locked,
        AlertKind.SIGNATURES_REFUSED: signatures_refused,
        AlertKind.DELIVERY_REJECTED: rejected_deliveries(metrics, time.monotonic),
        AlertKind.AGENT_UNAVAILABLE: agent_unavailable,
        AlertKind.CONVERSATION_HELD: held_for_days,
        AlertKind.CHANNEL_SILENT: channel_silent,
        AlertKind.JOURNAL_DEGRADED: journal_degraded,
        AlertKind.DISK_LOW: disk_low,
    }


class Recent:
    """The condition that a counter rose within `RECENT_SECONDS` on a channel."""

    def __init__(
        self,
        counter: Counter,
        clock: Callable[[], float],
        summary: Callable[[str, int], str],
    ) -> None:
        """`clock` gives monotonic seconds; `summary` takes the channel and the increase."""
        self._counter = counter
        self._clock = clock
        self._summary = summary
        # Samples of each channel: time and total.
        self._counts: deque[tuple[float, Mapping[str, float]]] = deque([(clock(), {})])

    async def __call__(self) -> Mapping[str, str]:
        """Return a sentence for each channel whose counter rose."""
        now, current = self._clock(), totals(self._counter)
        self._counts.append((now, current))
        while self._counts[0][0] < now - RECENT_SECONDS:
            self._counts.popleft()
        before = self._counts[0][1]
        recent = {channel: total - before.get(channel, 0) for channel, total in current.items()}
        return {
            channel: self._summary(channel, round(count))
            for channel, count in recent.items()
            if count
        }


def totals(metric: Counter | Gauge) -> Mapping[str, float]:
    """Return the value of each channel."""
    return {
        sample.labels["channel"]: sample.value
        for family in metric.collect()
        for sample in family.samples
    }


def rejected_deliveries(metrics: Metrics, clock: Callable[[], float]) -> Recent:
    """The condition that deliveries could not be decoded: they are stored, no agent got them."""
    return Recent(
        metrics.rejected_total,
        clock,
        summary=lambda channel, count: (
            f"{count} verified deliveries to {channel} could not be read, and are kept"
            if count > 1
            else f"a verified delivery to {channel} could not be read, and is kept"
        ),
    )
