"""Normal forms of the addresses of people and groups, used only to compare them, and the digest by
which a repeated event is recognised. What agents read is never normalised.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from berinia_webhookd.channels.hashes import Hash
from berinia_webhookd.model import ChannelName, Conversation
from berinia_webhookd.phone_numbers import with_country

# The longest e-mail address (RFC 5321); names of groups and senders are shorter.
_MAX_PARTY_LENGTH: Final = 320
# Longer than any name with an address; normalising more takes long.
_MAX_SPELLING_LENGTH: Final = 1000
# Short codes have at most 8 digits: more, and no leading zero, is a number without its plus.
_MIN_INTERNATIONAL_DIGITS: Final = 9
_PREFIXES = re.compile(r"(?:(?:whatsapp|sms|rcs|tel|mailto):(?://)?\s*)+")
_NAMED_ADDRESS = re.compile(r"[^<>]*<\s*([^<>\s]+@[^<>\s]+)\s*>")
_MAX_HEADER_LENGTH: Final = 100_000
_MOST_ADDRESSES: Final = 100  # of one mail
_BETWEEN_ADDRESSES = re.compile(r"[\s<>()\[\],;:\"]+")
# whatsapp-web.js ids of people, with or without the number of their device.
_WHATSAPP_ID = re.compile(r"\+?([0-9]+)(?::[0-9]+)?@(?:c\.us|s\.whatsapp\.net)")
_E164 = re.compile(r"\+[1-9][0-9]{7,14}")  # nearly all, and in normal form already
_DIGITS = re.compile(r"[1-9][0-9]{0,18}")  # a number as Meta and others write it, or an id
_PHONE = re.compile(r"(\+|00)?([0-9][0-9 ./()-]*)")
# Symbols, joiners, tags and unassigned characters; then the parts of emoji that Unicode classes as
# marks: variation selectors, the keycap, skin tones.
_EMOJI_CATEGORIES = frozenset({"So", "Cf", "Co", "Cn", "Cs"})
_EMOJI_PARTS = re.compile("[\ufe00-\ufe0f\u20e3\U0001f3fb-\U0001f3ff]")


def normal_party(text: str, country: str | None = None) -> str:
    """Return the normal form of a sender, recipient or group, the same for all its spellings; of a
    phone number without a country that of `country`, if there is one.

    `+33 6 39 98 00 01`, `33639980001@c.us` and `whatsapp:+33639980001` become `+33639980001`;
    letter case, surrounding blanks and a display name around an e-mail address are dropped.
    """
    if _E164.fullmatch(text):
        return text
    if _DIGITS.fullmatch(text):
        return _normal_phone(None, text, country)
    folded = unicodedata.normalize("NFKC", text[:_MAX_SPELLING_LENGTH]).casefold()
    folded = unicodedata.normalize("NFKC", folded)
    text = "".join(c for c in folded if unicodedata.category(c) not in {"Cc", "Cs"}).strip()
    if named := _NAMED_ADDRESS.fullmatch(text):
        text = named[1]
    if prefix := _PREFIXES.match(text):
        text = text[prefix.end() :]
    if person := _WHATSAPP_ID.fullmatch(text):
        return f"+{person[1]}"[:_MAX_PARTY_LENGTH]
    if phone := _PHONE.fullmatch(text):
        return _normal_phone(phone[1], phone[2], country)[:_MAX_PARTY_LENGTH]
    return text[:_MAX_PARTY_LENGTH].strip()


def addresses_in(headers: Iterable[str]) -> frozenset[str]:
    """Return the normal forms of the e-mail addresses in headers, of the first hundred."""
    words = [
        word
        for header in headers
        for word in _BETWEEN_ADDRESSES.split(header[:_MAX_HEADER_LENGTH])
        if "@" in word[1:]
    ]
    return frozenset(
        normal_party(word.strip("'")) for word in [*dict.fromkeys(words)][:_MOST_ADDRESSES]
    )


def _normal_phone(international: str | None, rest: str, country: str | None) -> str:
    digits = rest if rest.isdecimal() else re.sub(r"[^0-9]", "", rest.replace("(0)", ""))
    if country is not None and not international:
        whole = with_country(digits, country)
        if whole is not None:
            return whole
    long = len(digits) >= _MIN_INTERNATIONAL_DIGITS and not digits.startswith("0")
    return f"+{digits}" if international or long else digits


def normal_group(name: str) -> str:
    """Return a group's name without emoji, letter case and surrounding blanks."""
    name = name[:_MAX_SPELLING_LENGTH]
    folded = _EMOJI_PARTS.sub("", unicodedata.normalize("NFKC", name).casefold())
    kept = "".join(c for c in folded if unicodedata.category(c) not in _EMOJI_CATEGORIES)
    # A name of nothing but emoji is compared as it is, or all such names would be equal.
    return " ".join(kept.split()) or name.strip()


def conversation(
    channel: ChannelName, sender: str, party: str, country: str | None = None
) -> Conversation:
    """Return the unit of order, both parties in normal form."""
    return Conversation(channel, normal_party(sender, country), normal_party(party, country))


def event_digest(channel: ChannelName, *parts: str | None) -> bytes:
    """Return the SHA-256 over the channel and what makes its events unique.

    Each part is hashed with its length, and None differs from an empty part, so different parts
    never give the same bytes.
    """
    digest = _begun(channel).copy()
    for part in parts:
        digest.update(_told(part))
    return digest.digest()


@lru_cache
def _begun(channel: ChannelName) -> Hash:
    return hashlib.sha256(b"berinia-webhookd event\0" + _told(channel))


def _told(part: str | None) -> bytes:
    if part is None:
        return b"-"
    content = part.encode("utf-8", "surrogatepass")
    return b"%d:%b" % (len(content), content)
