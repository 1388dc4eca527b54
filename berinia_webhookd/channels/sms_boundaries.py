"""Finds fields of Twilio's that were glued together or cut apart. The signature is over names and
values without separators, so `AccountSid=AC1` and `AccountSi=dAC1` sign alike. What gives it away
is a field that Twilio sends and that is missing, while its name stands across another boundary. It
refuses to look into text that people write, which may say anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Final

from berinia_webhookd.errors import MalformedDelivery

# Values without a shape that is checked elsewhere, but of machines' making.
_PLACES: Final = (f"{end}{what}" for end in ("From", "To") for what in ("City", "State", "Zip"))
_UNSHAPED: Final = frozenset(
    {
        *_PLACES,
        *("ApiVersion", "Forwarded", "FrequentlyForwarded", "FromCountry", "Latitude"),
        *("Longitude", "MessageType", "SmsStatus", "ToCountry", "WaId"),
        *("OriginalRepliedMessageSender",),
        *(f"Media{what}{number}" for what in ("ContentType", "Url") for number in range(10)),
    }
)
# A required field that is cut or glued is missing, which is noticed anyway.
_REQUIRED: Final = frozenset({"From", "To", "Body", "MessageSid"})
_OPTIONAL: Final = tuple(
    sorted(
        {
            *_UNSHAPED,
            *("AccountSid", "Address", "ButtonPayload", "ButtonText", "ButtonType"),
            *("ChannelMetadata", "FlowData", "InteractiveData", "Label", "MessagingServiceSid"),
            *("NumMedia", "NumSegments", "OptOutType", "OriginalRepliedMessageSid"),
            *("ProfileName", "SmsMessageSid", "SmsSid"),
        }
    )
)
KNOWN: Final = frozenset({*_OPTIONAL, *_REQUIRED})
_ELSEWHERE: Final = KNOWN - _UNSHAPED  # their values are people's text, or have a shape
_LIKE_A_NAME: Final = re.compile("[A-Z][a-z]")


def require_unmoved(fields: Sequence[tuple[str, str]]) -> None:
    """Refuse what was glued together or cut apart.

    Raises:
        MalformedDelivery: a name or a value holds a field of Twilio's that is missing.
    """
    odd = [
        (name, value)
        for name, value in fields
        if name not in _ELSEWHERE and (name not in _UNSHAPED or _LIKE_A_NAME.search(value))
    ]
    names = {name for name, _ in fields} if odd else set[str]()
    if any(_holds_another(name, value, names) for name, value in odd):
        # Either may hold a part of a value, so neither is shown.
        raise MalformedDelivery("Fields run into each other.", invalid=("(field boundaries)",))


def _holds_another(name: str, value: str, names: Set[str]) -> bool:
    if name in _UNSHAPED:
        return any(known in value for known in _missing(names))
    text = name + value
    return text.startswith(_OPTIONAL) and text.startswith(_missing(names))


def _missing(names: Set[str]) -> tuple[str, ...]:
    return tuple(known for known in _OPTIONAL if known not in names)


def reaches_into_url(target: str, fields: Sequence[tuple[str, str]]) -> bool:
    """Whether the query took in what was the first field in the order of signing."""
    query = target.partition("?")[2]
    if not query or not fields:
        return False
    name, value = min(fields)
    text = query + name + value
    return any(known in text for known in _OPTIONAL if known < name)
