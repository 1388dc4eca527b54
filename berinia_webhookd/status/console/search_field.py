"""Interprets the text of the search field: an event id, a provider's id, a person, or words."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from berinia_webhookd.channels.addresses_of_people import event_digest, normal_party
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal.console import ConsoleJournal, event_of_digests
from berinia_webhookd.journal.queries import Filters
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
    """The event that was found directly, or the filters for a search."""

    event: str | None
    filters: Filters


async def meaning(
    typed: str,
    filters: Filters,
    journal: ConsoleJournal,
    channels: Collection[Channel],
    *,
    by_id_alone: bool = False,
) -> Meant:
    """Return the interpretation. A person is found by any spelling of a number or an address; a
    number without a country belongs to the country that a channel names. If there is no such
    person, text without spaces is searched for as a word.

    Raises:
        Refused: a viewer, who sees neither people nor texts, may not search for them.
    """
    typed = typed.strip()[:LONGEST]
    if not typed:
        return Meant(None, filters)
    found = await _by_id(typed, journal, channels)
    if found is not None:
        return Meant(found, filters)
    if by_id_alone:
        raise Refused(403, "Who only looks may search by an id alone.")
    if not _PERSON.fullmatch(typed):
        return Meant(None, replace(filters, text=typed))
    persons = [replace(filters, sender=one) for one in _spellings(typed, filters, channels)]
    for person in persons:
        if await journal.list_events(person, 1):
            return Meant(None, person)
    as_words = replace(filters, text=typed)
    return Meant(None, persons[0] if " " in typed and "@" not in typed else as_words)


def _spellings(typed: str, filters: Filters, channels: Collection[Channel]) -> list[str]:
    """Return the possible normal forms, those with a channel's country first."""
    wanted = [one for one in channels if filters.channel in (None, one.name)]
    countries = [one.country for one in wanted if one.country is not None]
    return list(dict.fromkeys(normal_party(typed, country) for country in (*countries, None)))


async def _by_id(typed: str, journal: ConsoleJournal, channels: Collection[Channel]) -> str | None:
    """Return the event with this id, a unique prefix of it, or this id of the provider."""
    if _EVENT_ID.fullmatch(typed):
        try:
            return (await journal.show(typed)).id
        except NotFound:
            return None
    if not _PROVIDERS_ID.fullmatch(typed):
        return None
    digests = [event_digest(channel.name, typed) for channel in channels]
    return await journal.read(event_of_digests, digests)
