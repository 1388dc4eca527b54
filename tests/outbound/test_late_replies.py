"""What is posted into chats."""

from __future__ import annotations

from berinia_webhookd.channels.contract import no_channel
from berinia_webhookd.clock import now
from berinia_webhookd.model import EntryKind, OutcomeKind
from berinia_webhookd.outbound.late_replies import LateReplies

from .agent_world import make_entry


async def test_what_was_said_otherwise_since_is_not_posted() -> None:
    """The entry is done, and nobody is alerted; without a place to post to it is refused."""
    entry = make_entry("Agent")._replace(kind=EntryKind.REPLY)
    replies = LateReplies(no_channel, clock=now)
    assert (await replies.attempt(entry, timeout_seconds=1)).kind is OutcomeKind.SUCCESS
    said = entry._replace(reply_text="said")
    assert (await replies.attempt(said, timeout_seconds=1)).kind is OutcomeKind.REJECTED
    await replies.close()
