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
    typed: str, filters: Filters, journal: ConsoleJournal, channels: Iterable[str]
) -> Meant:
    """Return what is meant. A person is looked for by any spelling of a number or an address."""
    typed = typed.strip()[:LONGEST]
    if not typed:
        return Meant(None, filters)
    if _EVENT_ID.fullmatch(typed):
        try:
            return Meant((await journal.show(typed)).id, filters)
        except NotFound:
            return Meant(None, replace(filters, text=typed))
    if _PERSON.fullmatch(typed):
        person = replace(filters, sender=normal_party(typed))
        if await journal.list_events(person, 1) or "@" not in typed.strip("<>"):
            return Meant(None, person)
    if _PROVIDERS_ID.fullmatch(typed):
        digests = [event_digest(ChannelName(name), typed) for name in channels]
        found = await journal.event_of_digests(digests)
        if found is not None:
            return Meant(found, filters)
    return Meant(None, replace(filters, text=typed))
