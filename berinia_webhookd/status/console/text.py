"""What strangers wrote, made fit to be looked at: text and nothing else, cut at 64 KiB, with a mark
in the place of whatever would be invisible, or turn the page around it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from markupsafe import Markup, escape

LONGEST: Final = 64 * 1024
_KEPT: Final = frozenset("\n\t")
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Drawn as nothing, though Unicode counts them as letters and marks: fillers, joiners, selectors.
_BLANK: Final = frozenset(
    [*"\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0", *map(chr, range(0xE0100, 0xE01F0))]
)
_SHOWN: Final = re.compile(r"[\x20-\x7e\n\t]*")
_IN_EMOJI: Final = frozenset("\u200d\ufe0f")  # between the parts of one picture
# More marks above or below one letter than any language has would leave its line.
_PILE: Final = re.compile(
    r"([\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]{4})"
    r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+"
)


def marked(value: object, longest: int = LONGEST) -> Markup:
    """Return text as HTML, whatever is in it."""
    text = str(value)
    cut = len(text) > longest
    text = text[:longest].replace("\r\n", "\n")
    if _SHOWN.fullmatch(text):
        shown = escape(text)
    else:
        text = _PILE.sub(r"\1", text)
        shown = Markup("").join(
            _mark(one) if _is_invisible(one, text[n - 1] if n else "") else escape(one)
            for n, one in enumerate(text)
        )
    return shown + Markup('<span class="mark">…</span>') if cut else shown


def one_line(value: object, longest: int = 160) -> Markup:
    """Return the beginning of a text, in one line."""
    words = " ".join(str(value)[: longest * 4].split())
    return marked(words, longest)


def _is_invisible(one: str, before: str) -> bool:
    if one in _KEPT:
        return False
    if one in _IN_EMOJI:
        return not before or unicodedata.category(before) not in {"So", "Sk", "Mn"}
    return one in _BLANK or unicodedata.category(one) in _INVISIBLE


def _mark(one: str) -> Markup:
    name = unicodedata.name(one, "control character").lower()
    code = f"U+{ord(one):04X}"
    return Markup('<span class="mark" title="{}">{}</span>').format(name, code)
