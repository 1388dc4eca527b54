"""The retry policy: how long an attempt may take, and the next state of its entry: done, waiting
for a retry, or dead. Pure; the dispatcher passes the random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from berinia_webhookd.channels.contract import Channel, ChannelOf, no_channel
from berinia_webhookd.config.agent_settings import AgentSettings, Delivery
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.journal.contract import Budget, FailureReply, Settlement
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Entry,
    EntryKind,
    EntryState,
    Event,
    Outcome,
    OutcomeKind,
    Word,
)
from berinia_webhookd.outbound.failure_replies import failure_reply

# Seconds for posting a late reply; an attempt that takes longer has failed.
LATE_REPLY_TIMEOUT_SECONDS: Final = 10.0
LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
# Attempts without room for attachments are retried without limit.
MACHINE_RETRY_SECONDS: Final = 30.0
LONGEST_PAUSE_SECONDS: Final = 30 * 86_400.0  # the longest retry delay that an agent can ask for
JITTER: Final = 0.2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The policy of one entry."""

    timeout_seconds: float
    schedule_seconds: tuple[float, ...]  # empty: no retries
    retry_on: frozenset[OutcomeKind]
    order_hold_seconds: float
    at_most_once: bool = False  # an attempt that may have begun is not retried automatically
    stop_grace_seconds: float = 0.0  # when stopping, for at-most-once attempts that have begun
    channel: Channel | None = None  # the channel for replies about failures

    def settle(
        self,
        entry: Entry,
        outcome: Outcome,
        took_seconds: float,
        *,
        random: Callable[[], float],
        begun: bool = False,
    ) -> Settlement:
        """Return the settlement of one attempt; `random` gives numbers in [0, 1), `begun` says that
        an at-most-once agent may have been called.
        """
        state, retries = EntryState.DEAD, entry.retries
        due_in_seconds = hold_seconds = None
        if outcome.kind is OutcomeKind.SUCCESS or self._answers(entry, outcome):
            state = EntryState.DONE
        elif not outcome.uses_schedule:
            state, due_in_seconds = EntryState.WAITING, _jittered(MACHINE_RETRY_SECONDS, random)
            hold_seconds = self.order_hold_seconds
        elif self._again(outcome, begun) and retries < len(self.schedule_seconds):
            state, retries = EntryState.WAITING, retries + 1
            due_in_seconds = self._pause(entry.retries, outcome, random)
            hold_seconds = self.order_hold_seconds
        dead = state is EntryState.DEAD
        replies = None if self.channel is None else self.channel.replies
        return Settlement(
            entry=entry,
            outcome=outcome,
            took_seconds=took_seconds,
            state=state,
            retries=retries,
            due_in_seconds=due_in_seconds,
            hold_seconds=hold_seconds,
            late=replies is not None and replies.can_be_posted(entry.event),
            failure_reply=self._failure_reply(entry, outcome) if dead else None,
            may_have_acted=dead and begun and outcome.word is None,
        )

    def _answers(self, entry: Entry, outcome: Outcome) -> bool:
        """Whether an error is an answer: its text is sent to the sender."""
        replies = None if self.channel is None else self.channel.replies
        is_error = outcome.kind is OutcomeKind.ERROR and entry.kind is EntryKind.AGENT
        return is_error and bool(outcome.reply) and replies is not None

    def _again(self, outcome: Outcome, begun: bool) -> bool:
        if outcome.word is Word.AGAIN:
            return True
        may_repeat = not begun or outcome.word is Word.NOTHING
        return may_repeat and outcome.kind in self.retry_on

    def _pause(self, step: int, outcome: Outcome, random: Callable[[], float]) -> float:
        asked = outcome.retry_after_seconds
        if outcome.word is Word.AGAIN and asked is not None:
            return min(asked, LONGEST_PAUSE_SECONDS)
        pause = _jittered(self.schedule_seconds[step], random)
        return max(pause, min(asked or 0.0, LONGEST_RETRY_AFTER_SECONDS))

    def _failure_reply(self, entry: Entry, outcome: Outcome) -> FailureReply | None:
        return failure_reply(self.channel, entry.event, outcome.kind, self.timeout_seconds)


def _jittered(seconds: float, random: Callable[[], float]) -> float:
    return seconds * (1 - JITTER + 2 * JITTER * random())


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """What bounds the entries that are claimed for an agent."""

    concurrency: int | None  # attempts at once here; None: no limit
    host: str | None  # agents with the same word share a host
    budget: Budget | None  # for its guards; None: only the default guards apply

    @classmethod
    def of(cls, agent: AgentSettings) -> AgentLimits:
        """Return the limits of these settings."""
        budget = Budget(agent.daily_cost, agent.per_sender, agent.loop_guard)
        return cls(agent.concurrency, agent.shared_host, None if budget == Budget() else budget)


class RetryPolicies:
    """The policies as configured now."""

    def __init__(self, settings: Settings, channel_of: ChannelOf = no_channel) -> None:
        self._settings = settings
        self._channel_of = channel_of
        # Both are made once for each configuration: they are needed for every claim and attempt.
        self._made: dict[tuple[EntryKind, AgentName, ChannelName], RetryPolicy] = {}
        self._limits: dict[AgentName, AgentLimits] = {}

    def reconfigure(self, settings: Settings) -> None:
        """Use these settings from the next attempt on."""
        self._settings = settings
        self._made.clear()
        self._limits.clear()

    def limits_of(self, agent: AgentName) -> AgentLimits:
        """Return the limits of an agent."""
        if (made := self._limits.get(agent)) is None:
            made = self._limits[agent] = AgentLimits.of(self._settings.agents.of(agent))
        return made

    def of(self, entry: Entry) -> RetryPolicy:
        """Return the policy of an entry: from its agent's settings, else its channel's kind."""
        key = entry.kind, entry.agent, entry.event.channel
        if (made := self._made.get(key)) is None:
            made = self._made[key] = self._make(*key)
        return made

    def _make(self, kind: EntryKind, agent_name: AgentName, name: ChannelName) -> RetryPolicy:
        agent = self._settings.agents.of(agent_name)
        schedule = self._schedule(name, agent)
        if kind is EntryKind.REPLY:
            # Posting is not idempotent: only a reply that was not sent is tried again.
            return RetryPolicy(
                timeout_seconds=LATE_REPLY_TIMEOUT_SECONDS,
                schedule_seconds=schedule,
                retry_on=frozenset({OutcomeKind.UNREACHABLE}),
                order_hold_seconds=agent.order_hold_seconds,
            )
        channel = self._settings.channels.get(name) or ChannelSettings
        return RetryPolicy(
            timeout_seconds=_first(agent.timeout_seconds, channel.kind_timeout_seconds),
            schedule_seconds=schedule,
            retry_on=agent.retry_on,
            order_hold_seconds=agent.order_hold_seconds,
            at_most_once=(agent.delivery or channel.kind_delivery) is Delivery.AT_MOST_ONCE,
            stop_grace_seconds=_first(
                agent.stop_grace_seconds,
                channel.kind_stop_grace_seconds,
                self._settings.server.shutdown_grace_seconds,
            ),
            channel=self._channel_of(name),
        )

    def lost_reply(self, event: Event) -> FailureReply | None:
        """Return the reply to the sender of an event that is lost for good with a process."""
        return failure_reply(self._channel_of(event.channel), event, OutcomeKind.LOST, 0.0)

    def _schedule(self, name: ChannelName, agent: AgentSettings) -> tuple[float, ...]:
        """Return the schedule of the channel, else of the agent, else of the channel's kind."""
        channel = self._settings.channels.get(name)
        for configured in (channel, agent):
            if configured is not None and configured.retry_schedule_seconds is not None:
                return configured.retry_schedule_seconds
        return (channel or ChannelSettings).kind_retry_schedule_seconds


def _first(*values: T | None) -> T:
    """Return the first value that is not None; the last one must not be."""
    return next(value for value in values if value is not None)
