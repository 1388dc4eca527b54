"""The text of an HTML mail, for people to read. It refuses to understand HTML: it finds the ends of
tags and leaves out what is never shown, in one pass forward.

Not the standard library's `html.parser`: on Python 3.11 it takes seconds for 32 KB of `<a <a <a`,
and anybody can send us a mail.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

# Of a longer document the rest is not read: an agent has it in `raw`, and nobody wrote it by hand.
MAX_LENGTH: Final = 524_288
_TAG_NAME = re.compile(r"/?([A-Za-z][A-Za-z0-9]*)")
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
# `html.unescape` turns these into integers, which Python refuses beyond 4300 digits.
_ENDLESS_REFERENCE = re.compile(r"&#[0-9]{8,};?")
_HIDDEN = {
    name: re.compile(f"</{name}", re.IGNORECASE)
    for name in ("script", "style", "title", "template")
}
_BLOCK = re.compile(
    "address|article|blockquote|br|d[dlt]|div|footer|h[1-6]|header|hr|li|[ou]l|p|pre|section"
    "|table|tr"
)


def text_of(document: str) -> str:
    """What a reader would see, with a line for each block; blank for no text at all. Only the first
    `MAX_LENGTH` characters are read.
    """
    text = "".join(_pieces(document[:MAX_LENGTH]))
    lines = (line.strip() for line in text.split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()


def _pieces(document: str) -> Iterator[str]:
    position = 0
    while position < len(document):
        start = document.find("<", position)
        if start < 0:
            start = len(document)
        yield _unescaped(document[position:start])
        name = _TAG_NAME.match(document, start + 1)
        if name is None and not document.startswith(("<!", "<?", "</"), start):
            yield document[start : start + 1]  # a lone "<" is text
            position = start + 1
            continue
        position = _end_of_tag(document, start)
        if name is None:
            continue
        element = name[1].lower()
        if _BLOCK.fullmatch(element):
            yield "\n"
        if element in _HIDDEN and document[start + 1] != "/":
            end = _HIDDEN[element].search(document, position)
            position = len(document) if end is None else _end_of_tag(document, end.start())


def _end_of_tag(document: str, start: int) -> int:
    """Just behind the tag or comment; the end of the document where it is never closed."""
    closing = "-->" if document.startswith("<!--", start) else ">"
    end = document.find(closing, start)
    return len(document) if end < 0 else end + len(closing)


def _unescaped(text: str) -> str:
    return html.unescape(_ENDLESS_REFERENCE.sub("\ufffd", _BLANKS.sub(" ", text)))
