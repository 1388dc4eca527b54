"""The signs that make a text untrustworthy for a language model: parts that a person would not see,
and parts that imitate instructions to the model. Pure; the text itself is never changed. A sign is
a hint, not a proof; a text without one is no more trustworthy than its sender.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from berinia_webhookd.model import Event

LONGEST_TEXT: Final = 128 * 1024  # characters of one value that are examined

# Invisible characters: zero-width spaces, word joiners, fillers, a byte order mark within the text;
# tag characters that follow no flag; several variation selectors in a row, which can carry bytes.
# Left out are U+200D, used in emoji, and U+200C, used in a few scripts.
INVISIBLE: Final = re.compile(
    "[\u200b\u2060-\u2064\u180e\u3164\uffa0\u115f\u1160]|(?<=.)\ufeff"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
    "|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2}",
    re.DOTALL,
)
# Characters that make text be displayed in another order than it is stored.
BIDI: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
# For lower-case text. `hidden` as an attribute follows a tag's name or another attribute.
HIDDEN_HTML: Final = re.compile(
    r"display\s{0,9}:\s{0,9}none|visibility\s{0,9}:\s{0,9}hidden"
    r"|font-size\s{0,9}:\s{0,9}0(?![.\d])|opacity\s{0,9}:\s{0,9}0(?![.\d])"
    r"|<[a-z][^<>]{0,200}\shidden[\s=>]"
)
ROLE_MARKER: Final = re.compile(
    r"<\|[a-z_]{2,30}\|>|\[/?inst\]|<</?sys>>|</?(?:system|assistant)>"
    r"|^[ \t]{0,8}(?:[#*]{1,6} ?)?(?:system|système|assistant|developer|human)"
    r"(?: prompt| message)?[*]{0,2}[ \t]?:",
    re.MULTILINE,
)


def signs_of(event: Event) -> list[str]:
    """Return the names of the signs that an event's text, subject and HTML show, sorted."""
    found: set[str] = set()
    for text in (event.body, event.subject, event.profile_name):
        if text:
            found.update(_in_text(text[:LONGEST_TEXT]))
    for value in event.raw.values():
        if isinstance(value, str) and "<" in value and _hides_html(value):
            found.add("hidden_html")
    return sorted(found)


def _hides_html(value: str) -> bool:
    return HIDDEN_HTML.search(value[:LONGEST_TEXT].lower()) is not None


def _in_text(text: str) -> Iterator[str]:
    if not text.isascii():
        if INVISIBLE.search(text):
            yield "invisible_text"
        if BIDI.search(text):
            yield "bidi"
    if (":" in text or "<" in text or "[" in text) and ROLE_MARKER.search(text.lower()):
        yield "role_marker"
