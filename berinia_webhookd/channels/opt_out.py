"""Recognises messages that consist of one opt-out word: STOP, START, HELP and others."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Mapping
from typing import Final

from berinia_webhookd.config.values import BUILT_IN_WORDS
from berinia_webhookd.model import OptOut

Words = Mapping[OptOut, tuple[str, ...]]

# Twilio's default words, https://help.twilio.com/articles/223134027 and
# https://www.twilio.com/docs/messaging/tutorials/advanced-opt-out. Twilio acts on them by itself
# and still forwards the message; `OptOutType` says so only with Advanced Opt-Out. After them, what
# people write who were told to send STOP, in English and French.
WORDS: Final[Words] = {
    OptOut.STOP: (
        *("STOP", "STOPALL", "UNSUBSCRIBE", "END", "QUIT", "CANCEL", "REVOKE", "OPTOUT"),
        *("REMOVE", "STOP SMS", "ARRET", "ARRETER", "DESABONNER", "DESABONNEMENT"),
        *("DESINSCRIRE", "DESINSCRIPTION"),
    ),
    OptOut.START: ("START", "YES", "UNSTOP"),
    OptOut.HELP: ("HELP", "INFO"),
}
_LONGEST: Final = 100  # characters of a message that may be an opt-out word
# What `folded` removes from ASCII text, which most messages are: control characters, blanks and
# hyphens; and punctuation around it, as Unicode classes it.
_WITHIN_ASCII: Final = bytes((*range(0x21), ord("-"), 0x7F))
_AROUND_ASCII: Final = "".join(c for c in string.punctuation if unicodedata.category(c)[0] == "P")


class OptOutWords:
    """The opt-out words of a channel.

    Args:
        own: those of its kind.
        given: the configured ones, which replace them; `+` stands for the built-in ones.
    """

    def __init__(self, own: Words, given: Words | None) -> None:
        words = {**own, **(given or {})}
        self._meanings = {
            folded(word): meaning
            for meaning, some in words.items()
            for one in some
            for word in (WORDS[meaning] if one == BUILT_IN_WORDS else (one,))
            if folded(word)
        }
        self._longest = max(map(len, self._meanings), default=0)

    def meaning(self, message: str) -> OptOut | None:
        """Return the meaning of a message that is an opt-out word."""
        if not self._meanings or (len(message) > _LONGEST and len(message.strip()) > _LONGEST):
            return None
        text = message.strip()
        # Letters and digits are kept, and all but ASCII is looked at one character at a time. Some
        # letters are accents alone once they are normalized.
        if not text.isascii():
            letters = map(str.isalnum, unicodedata.normalize("NFKD", text))
            if sum(letters) > self._longest:
                return None
        return self._meanings.get(folded(text))


def folded(text: str) -> str:
    """Return a text for comparison: without letter case, accents, punctuation around it, and blanks
    and hyphens in it.
    """
    if text.isascii():
        kept = text.lower().encode().translate(None, _WITHIN_ASCII)
        return kept.decode().strip(_AROUND_ASCII)
    plain = [
        c
        for c in without_accents(text)
        if (category := unicodedata.category(c))[0] not in "CZ" and category != "Pd"
    ]
    while plain and unicodedata.category(plain[-1])[0] == "P":
        plain.pop()
    start = next((i for i, c in enumerate(plain) if unicodedata.category(c)[0] != "P"), 0)
    return "".join(plain[start:])


def without_accents(text: str) -> str:
    """Return a text without letter case and accents."""
    if text.isascii():
        return text.lower()
    folded_text = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in folded_text if not unicodedata.category(c).startswith("M"))
