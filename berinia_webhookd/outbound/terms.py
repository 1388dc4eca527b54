"""On which terms an entry is attempted: its agent's settings, with its channel's laid over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from berinia_webhookd.channels.contract import ChannelOf, no_channel
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.model import AgentName, Entry, EntryKind, OutcomeKind

# The bot answers from its own memory; an attempt that takes longer has failed.
LATE_REPLY_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What the dispatcher and the retry schedule go by."""

    timeout_seconds: float
    retry_schedule_seconds: tuple[float, ...]
    retry_on: frozenset[OutcomeKind]
    order_hold_seconds: float
    late_replies: bool = False  # a reply that nobody waits for can be posted
    error_to_caller: bool = False  # an error's text is an answer to whoever waits


class Policies:
    """The terms as configured now; replaced as a whole at a reload."""

    def __init__(self, settings: Settings, channel_of: ChannelOf = no_channel) -> None:
        self._agents = settings.agents
        self._channel_of = channel_of
        self._schedules = {
            "sms": settings.channels.sms.retry_schedule_seconds,
            "email": settings.channels.email.retry_schedule_seconds,
            "whatsapp": settings.channels.whatsapp.retry_schedule_seconds,
        }

    def concurrency_of(self, agent: AgentName) -> int | None:
        """How many attempts of this agent may run at once here; None: as many as there is room."""
        return self._agents.of(agent).concurrency

    def terms_of(self, entry: Entry) -> Terms:
        """The terms of one entry."""
        agent = self._agents.of(entry.agent)
        schedule = self._schedules.get(entry.event.channel) or agent.retry_schedule_seconds
        if entry.kind is EntryKind.REPLY:
            # Posting is not idempotent: only what cannot have been sent is tried again.
            return Terms(
                timeout_seconds=LATE_REPLY_TIMEOUT_SECONDS,
                retry_schedule_seconds=schedule,
                retry_on=frozenset({OutcomeKind.UNREACHABLE}),
                order_hold_seconds=agent.order_hold_seconds,
            )
        channel = self._channel_of(entry.event.channel)
        replies = None if channel is None else channel.replies
        return Terms(
            timeout_seconds=agent.timeout_seconds,
            retry_schedule_seconds=schedule,
            retry_on=agent.retry_on,
            order_hold_seconds=agent.order_hold_seconds,
            late_replies=replies is not None
            and entry.event.group is not None
            and replies.late_url is not None,
            error_to_caller=replies is not None,
        )
