"""The guards of the journal in memory: they hold what those of the real one hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

from berinia_webhookd.journal.contract import MOST_FAILURES, TOLD_FAILURES, Budget, Hold
from berinia_webhookd.journal.database import DAY, SECOND
from berinia_webhookd.journal.guards import try_pause
from berinia_webhookd.journal.loops import Turn, loop_of
from berinia_webhookd.model import AgentName, Entry, Guard, Outcome

DAY_SECONDS: Final = DAY // SECOND


@dataclass
class Gate:
    """How many entries of an agent may be leased in one claim, beside opt-outs."""

    left: float = inf
    opens_at: float | None = None
    hold: Hold | None = None  # told if something is held by it
    is_try: bool = False


@dataclass
class MemoryGuards:
    """What guards count; times are seconds of the clock."""

    failures: Counter[AgentName] = field(default_factory=Counter)
    tries: Counter[AgentName] = field(default_factory=Counter)
    failed_at: dict[AgentName, float] = field(default_factory=dict)
    cost: Counter[tuple[AgentName, float]] = field(default_factory=Counter)  # by day
    told: set[tuple[AgentName, float]] = field(default_factory=set)
    runs: list[tuple[str, AgentName, float]] = field(default_factory=list)

    def gate(self, agent: AgentName, budget: Budget, now: float, running: int) -> Gate:
        """What the agent's own guards let pass."""
        day = now // DAY_SECONDS
        cost = self.cost[agent, day]
        if budget.daily_cost is not None and cost >= budget.daily_cost:
            opens_at = (day + 1) * DAY_SECONDS
            why = f"its results of today cost {cost:g}, and its daily_cost is {budget.daily_cost:g}"
            hold = Hold(Guard.BUDGET, agent, why, opens_at - now)
            return Gate(0, opens_at, None if (agent, day) in self.told else hold)
        if self.failures[agent] < MOST_FAILURES:
            return Gate()
        opens_at = self.failed_at[agent] + try_pause(self.tries[agent]) / SECOND
        if opens_at > now:
            return Gate(0, opens_at)
        return Gate(0 if running else 1, is_try=True)

    def passed(self, gate: Gate, agent: AgentName) -> None:
        """An entry was leased."""
        gate.left -= 1
        if gate.is_try:
            self.tries[agent] += 1

    def tell(self, gate: Gate, now: float) -> list[Hold]:
        """What it holds, once."""
        hold, gate.hold = gate.hold, None
        if hold is None:
            return []
        self.told.add((hold.agent, now // DAY_SECONDS))
        return [hold]

    def stop(self, entry: Entry, turns: Sequence[Turn], budget: Budget, now: float) -> Hold | None:
        """Why an entry is held, if it is."""
        about = partial(Hold, channel=entry.event.channel, event_id=entry.event_id)
        if turns and (why := loop_of(turns)):
            return about(Guard.LOOP, entry.agent, why, None)
        sender, longest = entry.event.conversation.sender, 0.0
        for rate in budget.per_sender:
            since = now - rate.seconds
            times = [at for *who, at in self.runs if who == [sender, entry.agent] and at > since]
            if len(times) >= rate.count:
                longest = max(longest, times[-rate.count] - since)
        why = f"{entry.agent} ran for this person as often as its budget allows"
        return about(Guard.BUDGET, entry.agent, why, longest) if longest else None

    def settle(self, agent: AgentName, outcome: Outcome, now: float) -> int | None:
        """Count an outcome; returns how many in a row failed, where that is told."""
        self.cost[agent, now // DAY_SECONDS] += outcome.cost or 0.0  # type: ignore[assignment]
        if outcome.agent_works:
            before = self.failures.pop(agent, 0)
            del self.tries[agent]
            return 0 if before >= TOLD_FAILURES else None
        if outcome.agent_works is False:
            self.failures[agent] += 1
            self.failed_at[agent] = now
            if self.failures[agent] in {TOLD_FAILURES, MOST_FAILURES}:
                return self.failures[agent]
        return None
