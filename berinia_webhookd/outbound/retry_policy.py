"""The retry policy: how long an attempt may take, and what becomes of its entry: done, another try,
or dead. Pure arithmetic; the dispatcher brings the dice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from berinia_webhookd.channels.contract import ChannelOf, no_channel
from berinia_webhookd.config.settings import AgentSettings, ChannelSettings, Settings
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Entry,
    EntryKind,
    EntryState,
    Outcome,
    OutcomeKind,
    Settlement,
)

# The bot answers from its own memory; an attempt that takes longer has failed.
LATE_REPLY_TIMEOUT_SECONDS: Final = 10.0
LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
# A machine without room for attachments is tried again for as long as that lasts.
MACHINE_RETRY_SECONDS: Final = 30.0
JITTER: Final = 0.2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What holds for one entry."""

    timeout_seconds: float
    schedule_seconds: tuple[float, ...]  # empty: never again
    retry_on: frozenset[OutcomeKind]
    order_hold_seconds: float
    late_replies: bool = False  # a reply that nobody waits for can be posted
    error_to_caller: bool = False  # an error's text is an answer to whoever waits

    def settle(
        self,
        entry: Entry,
        outcome: Outcome,
        took_seconds: float,
        *,
        random: Callable[[], float],
    ) -> Settlement:
        """Return the settlement of one attempt; `random` gives numbers in [0, 1)."""
        state, retries = EntryState.DEAD, entry.retries
        due_in_seconds = hold_seconds = None
        if outcome.kind is OutcomeKind.SUCCESS:
            state = EntryState.DONE
        elif not outcome.uses_schedule:
            state, due_in_seconds = EntryState.WAITING, _jittered(MACHINE_RETRY_SECONDS, random)
            hold_seconds = self.order_hold_seconds
        elif outcome.kind in self.retry_on and retries < len(self.schedule_seconds):
            delay = _jittered(self.schedule_seconds[retries], random)
            if outcome.retry_after_seconds is not None:
                delay = max(delay, min(outcome.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
            state, retries = EntryState.WAITING, retries + 1
            due_in_seconds, hold_seconds = delay, self.order_hold_seconds
        return Settlement(
            entry=entry,
            outcome=outcome,
            took_seconds=took_seconds,
            state=state,
            retries=retries,
            due_in_seconds=due_in_seconds,
            hold_seconds=hold_seconds,
            late=self.late_replies,
            error_to_caller=self.error_to_caller and outcome.kind is OutcomeKind.ERROR,
        )


def _jittered(seconds: float, random: Callable[[], float]) -> float:
    return seconds * (1 - JITTER + 2 * JITTER * random())


class RetryPolicies:
    """The policies as configured now."""

    def __init__(self, settings: Settings, channel_of: ChannelOf = no_channel) -> None:
        self._agents = settings.agents
        self._channel_of = channel_of
        self._channels = settings.channels

    def reconfigure(self, settings: Settings) -> None:
        """Take effect from the next attempt on."""
        self._agents = settings.agents
        self._channels = settings.channels

    def concurrency_of(self, agent: AgentName) -> int | None:
        """Return how many attempts of this agent may run at once here; None: what there is room
        for.
        """
        return self._agents.of(agent).concurrency

    def host_of(self, agent: AgentName) -> str | None:
        """Return the word of the host that it shares with others, one attempt at a time."""
        return self._agents.of(agent).shared_host

    def of(self, entry: Entry) -> RetryPolicy:
        """Return the policy of one entry."""
        agent = self._agents.of(entry.agent)
        schedule = self._schedule(entry.event.channel, agent)
        if entry.kind is EntryKind.REPLY:
            # Posting is not idempotent: only what cannot have been sent is tried again.
            return RetryPolicy(
                timeout_seconds=LATE_REPLY_TIMEOUT_SECONDS,
                schedule_seconds=schedule,
                retry_on=frozenset({OutcomeKind.UNREACHABLE}),
                order_hold_seconds=agent.order_hold_seconds,
            )
        channel = self._channel_of(entry.event.channel)
        replies = None if channel is None else channel.replies
        return RetryPolicy(
            timeout_seconds=agent.timeout_seconds,
            schedule_seconds=schedule,
            retry_on=agent.retry_on,
            order_hold_seconds=agent.order_hold_seconds,
            late_replies=replies is not None
            and entry.event.group is not None
            and replies.late_url is not None,
            error_to_caller=replies is not None,
        )

    def _schedule(self, name: ChannelName, agent: AgentSettings) -> tuple[float, ...]:
        """The channel's, else the agent's, else that of the channel's kind."""
        channel = self._channels.get(name)
        for configured in (channel, agent):
            if configured is not None and configured.retry_schedule_seconds is not None:
                return configured.retry_schedule_seconds
        return (channel or ChannelSettings).kind_retry_schedule_seconds
