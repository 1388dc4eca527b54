"""The replies of the journal in memory, and where each of them goes."""

from __future__ import annotations

from dataclasses import dataclass

from berinia_webhookd.journal.contract import Reply, ReplyRoute, Settlement
from berinia_webhookd.model import EntryKind, EntryState, OutcomeKind
from berinia_webhookd.testing.memory_queue import Kept


@dataclass(eq=False)
class MemoryReply:
    """A reply as it is kept."""

    reply: Reply
    route: ReplyRoute
    postable: bool


def reply_of(settlement: Settlement, kept: Kept, *, told: bool, now: float) -> MemoryReply | None:
    """Return what the person is told; `told` says that there is a reply already."""
    if kept.kind is EntryKind.REPLY:
        return None
    outcome, failure = settlement.outcome, settlement.failure_reply
    if settlement.state is EntryState.DONE and outcome.reply:
        reply, postable = (
            Reply(outcome.reply, outcome.kind is not OutcomeKind.SUCCESS),
            settlement.late,
        )
    elif settlement.state is EntryState.DEAD and failure is not None and not told:
        reply, postable = Reply(failure.text, failed=True), failure.late
    else:
        return None
    return MemoryReply(reply, _route(kept, now, postable=postable), postable)


def _route(kept: Kept, now: float, *, postable: bool) -> ReplyRoute:
    if any(one.is_awaited(now) for one in kept.burst):
        return ReplyRoute.INLINE
    if postable:
        return ReplyRoute.LATE
    had_caller = any(one.waiting_until is not None for one in kept.burst)
    return ReplyRoute.UNDELIVERABLE if had_caller else ReplyRoute.NONE
