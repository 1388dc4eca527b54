"""What is meant by what was typed into the search field: an event, a provider's id, a person,
words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from berinia_webhookd.channels.addresses_of_people import event_digest, normal_party
from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import ChannelName
from berinia_webhookd.status.console.access import Refused

LONGEST: Final = 500
_EVENT_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{1,27}", re.ASCII | re.IGNORECASE)
_PROVIDERS_ID: Final = re.compile(r"[!-~]{10,500}", re.ASCII)
_PERSON: Final = re.compile(
    r"[^\s@]+@[^\s@]+|[^<>]*<[^\s<>]+@[^\s<>]+>|[+0-9][0-9 ()./-]{5,}"
    r"|(?:whatsapp|sms|tel|mailto):\S+"
)


@dataclass(frozen=True, slots=True)
class Meant:
    """What was found at once, or the filters that find it."""

    event: str | None
    filters: Filters


async def meaning(
    typed: str,
    filters: Filters,
    journal: ConsoleJournal,
    channels: Iterable[str],
    *,
    by_id_alone: bool = False,
) -> Meant:
    """Return what is meant. A person is looked for by any spelling of a number or an address.

    Raises:
        Refused: whoever sees neither people nor texts may not ask for them either.
    """
    typed = typed.strip()[:LONGEST]
    if not typed:
        return Meant(None, filters)
    found = await _by_id(typed, journal, channels)
    if found is not None:
        return Meant(found, filters)
    if by_id_alone:
        raise Refused(403, "Who only looks may search by an id alone.")
    if _PERSON.fullmatch(typed):
        person = replace(filters, sender=normal_party(typed))
        if "@" not in typed or await journal.list_events(person, 1):
            return Meant(None, person)
    return Meant(None, replace(filters, text=typed))


async def _by_id(typed: str, journal: ConsoleJournal, channels: Iterable[str]) -> str | None:
    """The event that has the id, or whose id begins so, or that its provider calls so."""
    if _EVENT_ID.fullmatch(typed):
        try:
            return (await journal.show(typed)).id
        except NotFound:
            return None
    if not _PROVIDERS_ID.fullmatch(typed):
        return None
    digests = [event_digest(ChannelName(name), typed) for name in channels]
    return await journal.event_of_digests(digests)
