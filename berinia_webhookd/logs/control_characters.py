"""Escapes control characters, which a terminal obeys instead of showing, in text and in JSON."""

from __future__ import annotations

import re
from typing import Final

# DEL and C1, changes of direction, line separators.
_OBEYED: Final = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_SURROGATES: Final = "\ud800-\udfff"
_IN_LINE: Final = re.compile(f"[\x00-\x1f{_OBEYED}{_SURROGATES}]")
# Escape sequences such as colours: CSI, OSC, and those of two characters.
_SEQUENCE: Final = re.compile(
    "\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[ -/]*[0-Z\\\\^-~])"
)
_IN_TEXT: Final = re.compile(f"[\x00-\x09\x0b-\x1f{_OBEYED}{_SURROGATES}]")
# JSON escapes C0 itself; invisible characters are escaped too.
_IN_JSON: Final = re.compile(f"[{_OBEYED}{_SURROGATES}\u200b-\u200d\u2060-\u2065\ufeff]")


def escape_controls(text: str, *, keep_line_ends: bool = False) -> str:
    r"""Return the text with control characters as in Python source: `\x1b`, `\n`."""
    return (_IN_TEXT if keep_line_ends else _IN_LINE).sub(_python_escape, text)


def without_sequences(text: str) -> str:
    """Return the text without escape sequences."""
    return _SEQUENCE.sub("", text) if "\x1b" in text else text


def escape_controls_in_json(text: str) -> str:
    r"""Return the same JSON with control characters escaped: `\u001b`."""
    return _IN_JSON.sub(_json_escape, text)


def _python_escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
