"""The contents of bodies. JSON is read strictly (UTF-8, each name once, no numbers that others
cannot hold, nested no deeper than anybody means it), so that what passes can be stored and handed
on without surprises. Of HTML the text that people see is read, in one pass forward, without
understanding it.

Not the standard library's `html.parser`: on Python 3.11 it takes seconds for 32 KB of `<a <a <a`,
and anybody can send us a mail.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn

from berinia_webhookd.errors import MalformedDelivery

_MAX_DEPTH: Final = 32
_INTEGERS: Final = range(-(2**63), 2**63)
_MAX_DIGITS: Final = 20

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
    """Return the text that a reader would see, a line for each block, of the first `MAX_LENGTH`
    characters; blank where there is none.
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
    """Return the position behind the tag or comment; of one that is never closed, the end."""
    closing = "-->" if document.startswith("<!--", start) else ">"
    end = document.find(closing, start)
    return len(document) if end < 0 else end + len(closing)


def _unescaped(text: str) -> str:
    return html.unescape(_ENDLESS_REFERENCE.sub("\ufffd", _BLANKS.sub(" ", text)))


def decode_json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        MalformedDelivery: it is not JSON (RFC 8259), not an object, or beyond the bounds above.
    """
    try:
        document = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_no_number,
        )
        _require_shallow(document)
    except (ValueError, RecursionError):
        raise MalformedDelivery("The body is not a well-formed JSON object.") from None
    if not isinstance(document, dict):
        raise MalformedDelivery("The body is not a JSON object.")
    return document


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or (number := int(text)) not in _INTEGERS:
        raise ValueError("an integer beyond 64 bits")
    return number


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number beyond what a float holds")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _require_shallow(document: Any) -> None:
    """Raise on too many levels; text with lone surrogates cannot be encoded and raises, too."""
    level = [document]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend((*value, *value.values()))
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                value.encode()
        if not below:
            return
        level = below
    raise ValueError("nested too deeply")
