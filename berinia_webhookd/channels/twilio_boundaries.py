"""Detects fields of Twilio's form that were joined or split: its signature covers URL, names and
values without separators, so `To=12345&ToCity=` and `To=12345ToCity` have the same one.

It shows by a field of Twilio's that is missing while its name is part of another field. That is
refused only where it would change what the daemon acts on: a town called Labelle, or next year's
`LabelText`, is no attack.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from berinia_webhookd.errors import FieldsMoved, SignatureInvalid
from berinia_webhookd.urlencoded import Fields

_PLACES: Final = (f"{end}{what}" for end in ("From", "To") for what in ("City", "State", "Zip"))
KNOWN: Final = frozenset(
    {
        *("From", "To", "Body", "MessageSid"),
        *_PLACES,
        *("ApiVersion", "Forwarded", "FrequentlyForwarded", "FromCountry", "Latitude"),
        *("Longitude", "MessageType", "SmsStatus", "ToCountry", "WaId"),
        *("OriginalRepliedMessageSender",),
        *(f"Media{what}{number}" for what in ("ContentType", "Url") for number in range(10)),
        *("AccountSid", "Address", "ButtonPayload", "ButtonText", "ButtonType"),
        *("ChannelMetadata", "FlowData", "InteractiveData", "Label", "MessagingServiceSid"),
        *("NumMedia", "NumSegments", "OptOutType", "OriginalRepliedMessageSid"),
        *("ProfileName", "SmsMessageSid", "SmsSid"),
    }
)
_KNOWN_IN_ORDER: Final = tuple(sorted(KNOWN))

# Forms that differ in their names, of which is kept what the names alone say.
KINDS_OF_FORMS: Final = 32
_ADDRESSES: Final = ("From", "To")
# Names are letters, and digits sort before all names: numbers cannot be joined or split unnoticed.
_NUMBER: Final = re.compile(r"(?:[a-z]+:)?\+?[0-9]+")
_WRITTEN_BY_PEOPLE: Final = frozenset(
    {"Body", "ButtonText", "ButtonPayload", "Label", "Address", "ProfileName"}
)
# What follows the text in the order of signing; nobody writes these right after another word.
_BEHIND: Final = (
    *("ButtonPayload", "ButtonText", "ButtonType", "ChannelMetadata", "FlowData"),
    "Forwardedtrue",
)
# Searched by the first letter, then by what is before it, which is fastest.
_BEHIND_TEXT: Final = re.compile("|".join(rf"{name[0]}(?<=\S.){name[1:]}" for name in _BEHIND))
# The daemon acts on these if they are there; with the shape of their values.
_OPTIONAL: Final = {
    "AccountSid": re.compile("AccountSidAC[0-9a-f]{32}"),
    "OptOutType": re.compile("OptOutType(?ai:STOP|START|HELP)"),
}
_CUTTABLE: Final = (*_ADDRESSES, "Body", "OptOutType")
_STYLE: Final = re.compile("[A-Z][a-z]")  # of the names that Twilio gives


def require_unmoved(values: Mapping[str, str]) -> None:
    """Refuse a form whose fields were joined or split so that it means something else.

    Raises:
        FieldsMoved: what the daemon acts on is not as Twilio sent it.
    """
    if _any_moved(values):
        # Not shown: names may hold parts of values.
        raise FieldsMoved("Fields run into each other.", invalid=("(field boundaries)",))


def _any_moved(values: Mapping[str, str]) -> bool:
    names, cut_off, places = _as_signed(tuple(values))
    if cut_off or _BEHIND_TEXT.search(values.get("Body", "")):
        return True
    for name in _ADDRESSES:
        value = values.get(name, "")
        number = value[1:].isdecimal() or _NUMBER.fullmatch(value)
        if value and not number and _is_glued(name, values, names):
            return True
    for name, neighbour in places:
        text = neighbour + values[neighbour]
        if name in text and _OPTIONAL[name].search(text):
            return True
    return False


class _Names(NamedTuple):
    """The names of a form in the order of signing; whether one may be cut off from another; and
    for each optional field that is missing, the neighbours in which it may stand.
    """

    in_order: tuple[str, ...]
    cut_off: bool
    places: tuple[tuple[str, str], ...]


@lru_cache(KINDS_OF_FORMS)
def _as_signed(names: tuple[str, ...]) -> _Names:
    in_order = tuple(sorted(names))
    places: list[tuple[str, str]] = []
    for missing in _OPTIONAL.keys() - set(names):
        place = bisect_left(in_order, missing)
        places += [(missing, neighbour) for neighbour in in_order[max(place - 1, 0) : place + 1]]
    return _Names(in_order, any(_cut_off(in_order)), tuple(places))


def _is_glued(name: str, values: Mapping[str, str], names: Sequence[str]) -> bool:
    """Whether an address that is not a number includes the field after it, or begins in the text
    before it.
    """
    value = values[name]
    before = names[bisect_left(names, name) - 1] if names[0] != name else ""
    if name in value and (before in _WRITTEN_BY_PEOPLE or before not in KNOWN):
        return True
    following = next((n for n in names[bisect_right(names, name) :] if values[n]), None)
    gap = _KNOWN_IN_ORDER[bisect_right(_KNOWN_IN_ORDER, name) :]
    if following is not None:
        gap = gap[: bisect_left(gap, following)]
    # Before that name there is an address, which is more than a prefix.
    return any(re.search(f"[^:]{swallowed}", value) for swallowed in gap)


def _cut_off(names: Sequence[str]) -> Iterator[bool]:
    """Yield whether an unknown field may be the rest of one that the daemon acts on."""
    ahead = ""
    for name in names:
        if name not in KNOWN and ahead in _CUTTABLE:
            yield not _STYLE.match(name.removeprefix(ahead) if ahead in _ADDRESSES else name)
        ahead = name


def reaches_into_url(target: str, fields: Fields | Mapping[str, str]) -> bool:
    """Whether the account, which is signed right after the URL, was moved into the query."""
    query = target.partition("?")[2]
    if not query:
        return False
    pairs = list(fields.items()) if isinstance(fields, Mapping) else fields
    if any(name == "AccountSid" for name, _ in pairs):
        return False
    text = query + "".join(min(pairs, default=("", "")))
    return _OPTIONAL["AccountSid"].search(text) is not None


def require_apart(fields: Fields, names: Collection[str]) -> None:
    """Refuse a form, signed like Twilio's, in which one of these fields was joined to another: its
    value holds the name of a missing field, or it is missing and its name is in another field.

    Raises:
        SignatureInvalid: two fields were joined.
    """
    present = {name for name, _ in fields}
    missing = KNOWN.union(filter(_STYLE.match, names)) - present
    for name, value in fields:
        sought = missing if name in names else missing.intersection(names)
        if any(_has_swallowed(one, name, value) for one in sought):
            raise SignatureInvalid("Fields run into each other.")


def _has_swallowed(missing: str, name: str, value: str) -> bool:
    """Whether a missing field's name is in a value or across its start, or begins another name."""
    begins = name.startswith(missing) and name not in KNOWN
    return begins or (name + value).find(missing, max(len(name) - len(missing) + 1, 0)) >= 0
