"""The log of manual changes: a row for each transaction of an operator, written in the same
transaction. No row holds an address or a text: events and conversations are named by their ids, so
that erasing a person needs no change here.
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

_TOLD: Final = frozenset({"state", "channel", "agent", "kind"})  # filters without personal data
About = Mapping[str, Any]  # ids, filters, counts


@dataclass(frozen=True, slots=True)
class Actor:
    """The actor of a change, and the interface that was used."""

    who: str
    way: str = "command"


async def note(transaction: Transaction, actor: Actor, what: str, about: About) -> None:
    """Note an action, unless it changed nothing."""
    told = {name: value for name, value in about.items() if value not in (None, (), [], False, 0)}
    if told:
        who = {"who": storable(actor.who), "way": actor.way}
        await transaction.execute("note_action", **who, what=what, about=to_text(told))


def of_changed(
    changed: Iterable[Changed], filters: Filters | None = None, *, done: bool = True, **more: Any
) -> About:
    """Return what is noted of changed events, by ids or by filters; None for a dry run."""
    if not done:
        return {}
    ids = [one.id for one in changed if not one.refused]
    return {"ids": ids, **(more if ids else {}), "filters": ids and _of_filters(filters)}


def _of_filters(filters: Filters | None) -> About | None:
    """Return the filters without personal data."""
    if filters is None:
        return None
    plain = {name: value for name, value in asdict(filters).items() if value is not None}
    for name, value in plain.items():
        if isinstance(value, datetime):
            plain[name] = value.isoformat()
        elif name not in _TOLD:
            plain[name] = "given"
    return plain
