"""The steps of a commit, in the order within a batch; claiming comes last, so that it sees the
changes of all others.
"""

from __future__ import annotations

from typing import Final

from berinia_webhookd.journal import (
    accept,
    claim,
    pause,
    purge,
    recover,
    rejected,
    replies,
    settle,
)
from berinia_webhookd.journal.batch import BatchStep
from berinia_webhookd.model import Receipts

ACCEPT: Final[BatchStep[accept.Arrival, Receipts]] = BatchStep(
    "accept", 0, accept.accept, bounded=True, touches=accept.touched
)
REJECT: Final = BatchStep("reject", 1, rejected.reject, bounded=True)
BEGIN: Final = BatchStep("begin", 2, claim.begin, touches=claim.touched)
PAUSE: Final = BatchStep("pause", 2, pause.pause_as_asked, touches=pause.to_pause)
SETTLE: Final = BatchStep("settle", 3, settle.settle, touches=settle.touched)
STOP_WAITING: Final = BatchStep("stop_waiting", 4, replies.stop_waiting, touches=replies.touched)
RELEASE: Final = BatchStep("release", 5, claim.release, touches=claim.touched)
RECOVER: Final = BatchStep("recover", 6, recover.recover, touches=recover.touched)
GIVE_BACK_LEFTOVERS: Final = BatchStep(
    "give_back_leftovers", 6, recover.give_back_leftovers, touches=recover.leftovers_touched
)
END_PAUSES: Final = BatchStep("end_pauses", 6, pause.end, touches=pause.to_end)
RENEW: Final = BatchStep("renew", 7, claim.renew)
NOTE_UNAVAILABLE: Final = BatchStep("note_unavailable", 8, purge.note_unavailable)
PURGE: Final = BatchStep("purge", 9, purge.purge)
CLAIM: Final = BatchStep("claim", 10, claim.claim)

# Steps after which there may be new entries to claim.
BRING_WORK: Final = frozenset(
    step.name for step in (ACCEPT, SETTLE, STOP_WAITING, RELEASE, RECOVER)
)
