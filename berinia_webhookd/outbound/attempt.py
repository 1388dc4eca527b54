"""The attempt boundary: every attempt ends as a settlement, a log line and a metric.

Bugs of ours end here too, as an `exception` outcome with their traceback in the log, so that one
broken entry cannot stop the dispatcher.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter

import structlog
from structlog.typing import FilteringBoundLogger

from berinia_webhookd.clock import now
from berinia_webhookd.journal.contract import (
    NOT_POSTED,
    UNDELIVERABLE_WHY,
    ReplyRoute,
    Settled,
    Settlement,
)
from berinia_webhookd.logs.pipeline import saying
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import Entry, EntryKind, EntryState, Outcome, OutcomeKind
from berinia_webhookd.outbound.contract import Begin, NotBegun, Transport
from berinia_webhookd.outbound.retry_policy import RetryPolicy

logger = structlog.get_logger()

OnDead = Callable[[Settlement], None]


@dataclass(eq=False, slots=True)
class Run:
    """One entry at its transport, or on its way to the journal."""

    entry: Entry
    policy: RetryPolicy
    task: asyncio.Task[None] | None = None  # makes the attempt, and later ones in the same place
    begun: bool = False  # an at-most-once agent may have been called
    settlement: Settlement | None = None  # the settlement, once the attempt has ended
    recording: asyncio.Future[Settled] | None = None  # the last try to commit it

    def end(self, outcome: Outcome, took_seconds: float) -> Settlement:
        """Set the settlement."""
        self.settlement = self.policy.settle(
            self.entry, outcome, took_seconds, random=random.random, begun=self.begun
        )
        return self.settlement

    def grace_seconds(self, usual: float) -> float:
        """How many seconds stopping waits for it."""
        return self.policy.stop_grace_seconds if self.begun else usual


async def make_attempt(run: Run, transport: Transport, begin: Begin) -> Settlement:
    """Make one attempt; an exception in the daemon becomes an outcome.

    Raises:
        NotBegun: `begin` raised it.
    """
    entry, seconds = run.entry, run.policy.timeout_seconds
    started = perf_counter()  # the loop's clock counts whole milliseconds
    try:
        outcome = await transport.attempt(entry, timeout_seconds=seconds, begin=begin)
    except NotBegun:
        raise
    except Exception as error:
        logger.exception("attempt.broke", event_id=entry.event_id, agent=entry.agent)
        outcome = Outcome(OutcomeKind.EXCEPTION, error=f"in the daemon: {type(error).__name__}")
    return run.end(outcome, perf_counter() - started)


class AttemptLog:
    """The log lines and metrics of attempts."""

    def __init__(self, metrics: Metrics, on_dead: OnDead) -> None:
        """`on_dead` gets each entry that failed for good."""
        self._attempts = metrics.attempts
        self._on_dead = on_dead
        self.reconfigure()

    def reconfigure(self) -> None:
        """Get the logger again, because its level may have changed."""
        self._log: FilteringBoundLogger = structlog.get_logger().bind()
        self._say = saying(self._log)

    def started(self, entry: Entry) -> None:
        """Log that an attempt begins."""
        self._say("attempt.started", _log_fields(entry))

    def not_begun(self, entry: Entry, why: str) -> None:
        """Log that the agent was not called after all."""
        self._log.warning("attempt.not_begun", **_log_fields(entry), reason=why)

    def ended(self, settlement: Settlement, settled: Settled) -> None:
        """Log and count an attempt that is settled, or whose settlement was refused."""
        entry, outcome = settlement.entry, settlement.outcome
        seconds = settlement.took_seconds
        if entry.kind is EntryKind.AGENT:
            self._attempts.ended(entry.agent, outcome.kind, seconds)
        fields = {**_log_fields(entry), "duration_ms": round(seconds * 1000, 1)}
        if not settled.kept:
            fields["note"] = "the lease was lost, so another run of this entry decides"
        if outcome.kind is OutcomeKind.SUCCESS:
            self._say("attempt.succeeded", fields)
        else:
            due_in = settlement.due_in_seconds
            due = None if due_in is None else (now() + timedelta(seconds=due_in)).isoformat()
            self._log.warning(
                "attempt.failed",
                **fields,
                outcome=str(outcome.kind),
                error=outcome.error,
                due_at=due,
            )
        if settled.kept and settlement.state is EntryState.DEAD:
            self._log.error(
                "entry.dead",
                **_log_fields(entry),
                outcome=str(outcome.kind),
                may_have_acted=settlement.may_have_acted,
            )
            self._on_dead(settlement)
        if settled.kept and settlement.outcome.pause is not None:
            pause = settlement.outcome.pause
            self._log.info(
                "conversation.paused",
                **_log_fields(entry),
                conversation=entry.conversation_id,
                by=pause.by,
                for_seconds=pause.seconds,
            )
        dead_reply = entry.kind is EntryKind.REPLY and settlement.state is EntryState.DEAD
        if dead_reply or settled.reply is ReplyRoute.UNDELIVERABLE:
            about, why = _log_fields(entry), NOT_POSTED if dead_reply else UNDELIVERABLE_WHY
            self._log.warning("reply.undeliverable", **about, reason=why)


def _log_fields(entry: Entry) -> dict[str, object]:
    gathered = {"gathered": len(entry.messages)} if entry.members else {}
    return {
        "event_id": entry.event_id,
        "channel": entry.event.channel,
        "agent": entry.agent,
        "attempt": entry.attempt,
        "kind": str(entry.kind),
        **gathered,
    }
