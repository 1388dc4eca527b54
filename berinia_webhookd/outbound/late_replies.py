"""The transport of late replies: posts an agent's reply into the chat when its caller no longer
waits. The bot's `POST /send` is not idempotent, so only a reply that was certainly not sent is
`unreachable` and tried again; a reply past its maximum age is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import aiohttp

from berinia_webhookd import json_text
from berinia_webhookd.channels.contract import ChannelOf, Replies
from berinia_webhookd.http_client import HttpClient, is_success
from berinia_webhookd.model import AgentName, Entry, Outcome, OutcomeKind
from berinia_webhookd.outbound.contract import Begin, begin_freely

SERVICE_UNAVAILABLE: Final = 503
HEADERS: Final = {"Content-Type": "application/json"}


class LateReplies:
    """The transport of entries of kind `reply`."""

    capacity: Final = 4

    def __init__(self, channel_of: ChannelOf, *, clock: Callable[[], datetime]) -> None:
        self._channel_of = channel_of
        self._clock = clock
        self._client = HttpClient()

    async def load(self, agent: AgentName) -> None:
        """Do nothing: there is nothing to load."""

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        """Post one reply."""
        await begin()
        channel = self._channel_of(entry.event.channel)
        replies = None if channel is None else channel.replies
        if entry.reply_text is None:
            return Outcome(OutcomeKind.SUCCESS)  # a newer reply is posted instead
        if replies is None or replies.late_url is None or entry.event.group is None:
            return Outcome(OutcomeKind.REJECTED, error="there is nowhere to post this reply")
        if (too_old := self._too_old(entry, replies)) is not None:
            return too_old
        return await self._post(entry, replies.late_url, timeout_seconds)

    def _too_old(self, entry: Entry, replies: Replies) -> Outcome | None:
        if entry.replied_at is None:
            return None
        age = (self._clock() - entry.replied_at).total_seconds()
        if age <= replies.late_max_age_seconds:
            return None
        setting = f"channels.{entry.event.channel}.late_reply_max_age_seconds"
        return Outcome(OutcomeKind.REJECTED, error=f"{age:.0f} s old, over {setting}")

    async def _post(self, entry: Entry, url: str, timeout_seconds: float) -> Outcome:
        message = {"group": entry.event.group, "message": entry.reply_text}
        try:
            async with self._client.request(
                "POST",
                url,
                body=json_text.encode(message),
                headers=HEADERS,
                timeout_seconds=timeout_seconds,
            ) as answer:
                return _outcome_of(answer)
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            return Outcome(OutcomeKind.UNREACHABLE, error=type(error).__name__)
        except TimeoutError:
            return Outcome(OutcomeKind.TIMEOUT, error=f"no answer within {timeout_seconds:g} s")
        except aiohttp.ClientError as error:
            return Outcome(OutcomeKind.ERROR, error=type(error).__name__)

    async def close(self) -> None:
        """Close the connection to the bot."""
        await self._client.close()


def _outcome_of(answer: aiohttp.ClientResponse) -> Outcome:
    if is_success(answer):
        return Outcome(OutcomeKind.SUCCESS)
    not_sent = answer.status == SERVICE_UNAVAILABLE
    kind = OutcomeKind.UNREACHABLE if not_sent else OutcomeKind.ERROR
    return Outcome(kind, error=f"HTTP {answer.status}")
