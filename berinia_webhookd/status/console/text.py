"""Makes untrusted text safe to display: escaped, cut to size, with visible marks in place of
characters that are invisible or change the text direction. The number of marks is bounded.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby
from typing import Final

from markupsafe import Markup, escape

LONGEST: Final = 64 * 1024
SHOWN_APART: Final = 8  # the most marks for one run
MOST_RUNS: Final = 200  # the most runs of one text with marks; later ones are left out
_KEPT: Final = frozenset("\n\t")
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Invisible, though Unicode counts them as letters and marks: fillers, joiners, selectors.
_BLANK: Final = frozenset(
    [*"\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0", *map(chr, range(0xE0100, 0xE01F0))]
)
_SHOWN: Final = re.compile(r"[\x20-\x7e\n\t]*")
_IN_EMOJI: Final = frozenset("\u200d\ufe0f")  # between the parts of one emoji
# Combining marks: a letter keeps at most four, because more would overlap other lines.
_MARKS: Final = r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]"
_PILE: Final = re.compile(rf"({_MARKS}{{4}}){_MARKS}+")


def marked(value: object, longest: int = LONGEST) -> Markup:
    """Return the beginning of a text as HTML."""
    text = str(value)
    cut = len(text) > longest
    text = text[:longest].replace("\r\n", "\n")
    plain = _SHOWN.fullmatch(text)
    shown = [str(escape(text))] if plain else _with_marks(_PILE.sub(r"\1", text))
    if cut:
        shown.append(_mark("…", ""))
    return Markup("".join(shown))  # nosec B704  # noqa: S704 - each part is escaped


def hides(text: str) -> bool:
    """Whether there is something in a text that a field for typing would not show."""
    return any(_is_invisible(one, before) for before, one in zip(" " + text, text, strict=False))


def one_line(value: object, longest: int = 160) -> Markup:
    """Return the beginning of a text, in one line."""
    words = " ".join(str(value)[: longest * 4].split())
    return marked(words, longest)


def _with_marks(text: str) -> list[str]:
    """Return the parts of a text: visible text, and a few marks for each invisible run."""
    parts: list[str] = []
    seen = zip(" " + text, text, strict=False)
    runs = 0
    for invisible, run in groupby(seen, lambda pair: _is_invisible(pair[1], pair[0])):
        piece = "".join(one for _, one in run)
        if not invisible:
            parts.append(str(escape(piece)))
            continue
        runs += 1
        if runs <= MOST_RUNS:
            parts += map(_mark_of, piece[:SHOWN_APART])
            if len(piece) > SHOWN_APART:
                parts.append(_mark(f"+{len(piece) - SHOWN_APART}", ""))
        elif runs == MOST_RUNS + 1:
            parts.append(_mark("+…", ""))
    return parts


def _is_invisible(one: str, before: str) -> bool:
    if one in _KEPT:
        return False
    if one in _IN_EMOJI:
        return unicodedata.category(before) not in {"So", "Sk", "Mn"}
    return one in _BLANK or unicodedata.category(one) in _INVISIBLE


def _mark_of(one: str) -> str:
    name = unicodedata.name(one, "control character").lower()
    return _mark(f"U+{ord(one):04X}", name)


def _mark(shown: str, name: str) -> str:
    title = f' title="{escape(name)}"' if name else ""
    return f'<span class="mark"{title}>{escape(shown)}</span>'
