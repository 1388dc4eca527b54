"""Who changed what by hand: a row for each transaction of an operator, written in it.

No row holds an address or a text: events and conversations are named by their ids, so that erasing
a person leaves nothing to be erased here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from berinia_webhookd.journal.database import Transaction
from berinia_webhookd.journal.event_text import storable, to_text
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.replay import Changed

_TOLD: Final = frozenset({"state", "channel", "agent", "kind"})  # the others may name a person
About = Mapping[str, Any]  # ids, filters, counts


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who changes things, and the way they came."""

    who: str
    way: str = "command"


async def note(transaction: Transaction, actor: Actor, what: str, about: About) -> None:
    """Write down what somebody did; nothing, where it came to nothing."""
    told = {name: value for name, value in about.items() if value not in (None, (), [], False, 0)}
    if told:
        who = {"who": storable(actor.who), "way": actor.way}
        await transaction.execute("note_action", **who, what=what, about=to_text(told))


def of_changed(
    changed: Iterable[Changed], filters: Filters | None = None, *, done: bool = True, **more: Any
) -> About:
    """What is noted of events that were changed, by ids or by filters; nothing of a dry run."""
    if not done:
        return {}
    ids = [one.id for one in changed if not one.refused]
    return {"ids": ids, **(more if ids else {}), "filters": ids and _of_filters(filters)}


def _of_filters(filters: Filters | None) -> About | None:
    """The filters, without whose they were."""
    if filters is None:
        return None
    plain = {name: value for name, value in asdict(filters).items() if value is not None}
    for name, value in plain.items():
        if isinstance(value, datetime):
            plain[name] = value.isoformat()
        elif name not in _TOLD:
            plain[name] = "given"
    return plain
