"""The steps of a commit, in the order in which one batch takes them; claiming comes last, so that
it sees what all the others did.
"""

from __future__ import annotations

from typing import Final

from berinia_webhookd.journal import (
    arriving,
    claiming,
    recovering,
    refusing,
    replying,
    settling,
    upkeep,
)
from berinia_webhookd.journal.contract import Claimed, Reply, Settled
from berinia_webhookd.journal.group_commit import Step
from berinia_webhookd.model import Entry, Receipt

ACCEPT: Final[Step[arriving.Arrival, Receipt]] = Step(
    "accept", 0, arriving.accept, bounded=True, touches=arriving.touched
)
REJECT: Final[Step[refusing.Refusal, None]] = Step("reject", 1, refusing.reject, bounded=True)
SETTLE: Final[Step[settling.Ending, Settled]] = Step(
    "settle", 2, settling.settle, touches=settling.touched
)
STOP_WAITING: Final[Step[replying.Departure, Reply | None]] = Step(
    "stop_waiting", 3, replying.stop_waiting, touches=replying.touched
)
RELEASE: Final[Step[claiming.Held, None]] = Step(
    "release", 4, claiming.release, touches=claiming.touched
)
RECOVER: Final[Step[recovering.Recovery, recovering.Recovered]] = Step(
    "recover", 5, recovering.recover, touches=recovering.touched
)
GIVE_BACK_LEFTOVERS: Final[Step[recovering.Leftovers, None]] = Step(
    "give_back_leftovers",
    5,
    recovering.give_back_leftovers,
    touches=recovering.leftovers_touched,
)
RENEW: Final[Step[claiming.Held, list[Entry]]] = Step("renew", 6, claiming.renew)
NOTE_UNAVAILABLE: Final[Step[upkeep.Unavailable, None]] = Step(
    "note_unavailable", 7, upkeep.note_unavailable
)
PURGE: Final[Step[upkeep.Retention, int]] = Step("purge", 8, upkeep.purge)
CLAIM: Final[Step[claiming.Claim, Claimed]] = Step("claim", 9, claiming.claim)

# After these there may be something new to claim.
BRING_WORK: Final = frozenset(
    step.name for step in (ACCEPT, SETTLE, STOP_WAITING, RELEASE, RECOVER)
)
