"""The guards of the journal in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

from berinia_webhookd.journal.contract import (
    MOST_FAILURES,
    TOLD_FAILURES,
    Budget,
    ClaimRequest,
    Guard,
    Hold,
)
from berinia_webhookd.journal.database import DAY, SECOND
from berinia_webhookd.journal.guards import NO_BUDGET, try_pause
from berinia_webhookd.journal.loops import Turn, loop_key, loop_of
from berinia_webhookd.model import AgentName, Entry, EntryKind, EntryState, Outcome
from berinia_webhookd.testing.memory_queue import Kept

DAY_SECONDS: Final = DAY // SECOND


@dataclass
class Gate:
    """How many entries of an agent may be leased in one claim, beside opt-outs."""

    left: float = inf
    opens_at: float | None = None
    hold: Hold | None = None  # reported once it holds something
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

    def passes(
        self,
        kept: Kept,
        *,
        entries: Iterable[Kept],
        request: ClaimRequest,
        gates: dict[AgentName, Gate],
        holds: list[Hold],
        now: float,
    ) -> bool:
        """Whether no guard holds an entry whose turn has come; adds the holds that begin."""
        if kept.kind is EntryKind.REPLY or kept.event.overtakes:
            return True
        agent = kept.event.agent
        budget = request.budgets.get(agent, NO_BUDGET)
        others = [
            one for one in entries if one.event.agent == agent and one.kind is EntryKind.AGENT
        ]
        if agent not in gates:
            running = sum(one.state is EntryState.RUNNING for one in others)
            gates[agent] = self.gate(agent, budget, now, running)
        gate = gates[agent]
        if gate.left < 1:
            holds += self.tell(gate, now)
            return False
        looked_at = budget.loops and kept.attempts == 0 and loop_key(kept.event) is not None
        turns = _turns(kept, others) if looked_at else ()
        hold = None if kept.members else self.stop(kept.leased(), turns, budget, now)
        if hold is not None:
            kept.state = EntryState.READY
            kept.held_until = inf if hold.seconds is None else now + hold.seconds
            holds.append(hold)
            return False
        self.passed(gate, agent)
        if budget.per_sender:
            self.runs.append((kept.event.conversation.sender, agent, now))
        return True

    def gate(self, agent: AgentName, budget: Budget, now: float, running: int) -> Gate:
        """Return what the agent's own guards let pass."""
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
        """Count a leased entry."""
        gate.left -= 1
        if gate.is_try:
            self.tries[agent] += 1

    def tell(self, gate: Gate, now: float) -> list[Hold]:
        """Return what it holds, once."""
        hold, gate.hold = gate.hold, None
        if hold is None:
            return []
        self.told.add((hold.agent, now // DAY_SECONDS))
        return [hold]

    def stop(self, entry: Entry, turns: Sequence[Turn], budget: Budget, now: float) -> Hold | None:
        """Return the hold of an entry, if there is one."""
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
        """Count an outcome; return how many in a row failed, where that is reported."""
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


def _turns(kept: Kept, others: Iterable[Kept]) -> list[Turn]:
    """Return the messages of an entry's conversation up to it."""
    return [
        Turn(key, round(one.created_at * SECOND), one.started_at, one.answered_at)
        for one in others
        if one.event.conversation == kept.event.conversation
        and one.place <= kept.place
        and (key := loop_key(one.event)) is not None
    ]
