"""The reply in the chat to a command that failed for good without an answer, in the language of its
users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.journal.contract import FailureReply
from berinia_webhookd.model import Event, OutcomeKind

REASONS: Final[Mapping[OutcomeKind, str]] = {
    OutcomeKind.ERROR: "l'agent signale une erreur",
    OutcomeKind.EXCEPTION: "l'agent a rencontré une erreur",
    OutcomeKind.TIMEOUT: "l'agent n'a pas répondu en {seconds:g} s",
    OutcomeKind.CRASH: "l'agent s'est arrêté brutalement",
    OutcomeKind.UNREACHABLE: "l'agent est injoignable",
    OutcomeKind.REJECTED: "l'agent l'a refusée",
    OutcomeKind.LOST: "le service s'est arrêté pendant l'exécution",
    OutcomeKind.STOPPED: "le service a été arrêté pendant l'exécution",
}


def failure_reply(
    channel: Channel | None, event: Event, kind: OutcomeKind, timeout_seconds: float
) -> FailureReply | None:
    """Return the reply to a failure of this kind; None for no reply."""
    replies = None if channel is None else channel.replies
    if replies is None or not replies.failure_text or kind not in REASONS:
        return None
    reason = REASONS[kind].format(seconds=timeout_seconds)
    return FailureReply(
        replies.failure_text.replace("{reason}", reason), late=replies.can_be_posted(event)
    )
