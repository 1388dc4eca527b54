"""The dispatcher's side of guards: logs and alerts what the journal holds, and begins no more
entries of an agent that keeps failing. What is held, and for how long, is decided in the journal,
which counts over all nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from berinia_webhookd.journal.contract import MOST_FAILURES, Hold, Settlement
from berinia_webhookd.model import AgentName, Outcome

logger = structlog.get_logger()

OnHold = Callable[[Hold], None]
OnFailing = Callable[[Settlement, int], None]  # the last attempt, and how many failed in a row


class Guards:
    """The guards of one dispatcher."""

    def __init__(
        self, on_hold: OnHold = lambda _: None, on_failing: OnFailing = lambda *_: None
    ) -> None:
        """`on_hold` gets each new hold, `on_failing` each agent that keeps failing."""
        self._on_hold = on_hold
        self._on_failing = on_failing
        self._failures: Counter[AgentName] = Counter()

    @property
    def failing(self) -> frozenset[AgentName]:
        """The failing agents, of which the journal lets one entry at a time be tried. Entries
        claimed before it knew of the failures are to be given back.
        """
        if not self._failures:
            return frozenset()
        return frozenset(
            agent for agent, failures in self._failures.items() if failures >= MOST_FAILURES
        )

    def observe(self, agent: AgentName, outcome: Outcome) -> bool:
        """Count an attempt of an agent; returns whether it keeps failing."""
        works = outcome.agent_works
        if works:
            self._failures.pop(agent, None)
            return False
        if works is False:
            self._failures[agent] += 1
        return self._failures[agent] >= MOST_FAILURES

    def report_holds(self, holds: Sequence[Hold]) -> None:
        """Log and alert what guards have begun to hold."""
        for hold in holds:
            logger.warning(
                "conversation.held",
                agent=hold.agent,
                channel=hold.channel,
                event_id=hold.event_id,
                reason=hold.guard.value,
                detail=hold.why,
                seconds=hold.seconds,
            )
            self._on_hold(hold)

    def report_failures(self, settlement: Settlement, failures: int) -> None:
        """Log and alert that an agent keeps failing, or works again."""
        entry = settlement.entry
        if not failures:
            logger.info("agent.recovered", agent=entry.agent)
            return
        one_at_a_time = failures >= MOST_FAILURES
        logger.error(
            "agent.failing",
            agent=entry.agent,
            failures=failures,
            outcome=settlement.outcome.kind.value,
            one_at_a_time=one_at_a_time,
        )
        self._on_failing(settlement, failures)
