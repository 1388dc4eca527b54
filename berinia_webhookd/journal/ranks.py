"""The ranks of receipts. Receipts of one message may come in any order: one with a lower status
than an earlier one is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from berinia_webhookd.journal.database import Transaction
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.model import Event, EventId

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Inserted, NewEvent

OUTRANKED: Final = "outranked"


async def judge(
    transaction: Transaction, inserted: Sequence[Inserted]
) -> Mapping[EventId, NewEvent]:
    """Return the receipts that are skipped, because their message has a higher status already.
    Their conversation is that of the message, and locked.
    """
    ranked = {new.id: new for _, new in inserted if new.event.rank is not None}
    if not ranked:
        return {}
    abouts = sorted({about_of(new.event) for new in ranked.values()})
    rows = await transaction.execute("ranks", abouts=abouts)
    numbers = {new.number for new in ranked.values()}
    highest = {about: rank for number, about, rank in rows if number not in numbers}
    behind: dict[EventId, NewEvent] = {}
    for new in ranked.values():
        about, rank = about_of(new.event), new.event.rank or 0
        if rank < highest.get(about, rank):
            behind[new.id] = replace(new, event=new.event._replace(skipped=OUTRANKED))
        else:
            highest[about] = rank
    await transaction.execute("mark_outranked", numbers=[new.number for new in behind.values()])
    return behind


def about_of(event: Event) -> str:
    """Return the key shared by the receipts of one message."""
    return storable(f"{event.channel}:{event.about}")
