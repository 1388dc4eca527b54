"""Reads JSON bodies strictly: UTF-8, unique names, numbers of 64 bits, at most 32 levels. So what
passes can be stored and handed on. Only half a surrogate pair is replaced, because programs cut
texts inside an emoji.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import orjson

from berinia_webhookd.errors import MalformedDelivery

_MAX_DEPTH: Final = 32
_INTEGERS: Final = range(-(2**63), 2**63)
_MAX_DIGITS: Final = 20

# Half a surrogate pair as an escape; whole pairs and other escapes are matched to be passed over.
_ESCAPES: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


def decode_json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        MalformedDelivery: it is not JSON (RFC 8259), not an object, or beyond the bounds above.
    """
    document = decode_json(body)
    if not isinstance(document, dict):
        raise MalformedDelivery("The body is not a JSON object.")
    return document


def decode_json(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises:
        MalformedDelivery: it is not JSON (RFC 8259), or beyond the bounds above.
    """
    document = _decoded_at_once(body)
    if document is not None:
        return document
    try:
        document = json.loads(
            _ESCAPES.sub(_whole, body.decode()),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_no_number,
        )
        _require_shallow(document)
    except (ValueError, RecursionError):
        raise MalformedDelivery("The body is not well-formed JSON.") from None
    return document


def _decoded_at_once(body: bytes) -> Any:
    """Return what orjson reads, several times faster; None where the strict reader may differ.

    orjson accepts repeated names. Each name is followed by a quote and a colon, as may happen in a
    text too: if they are as many as the names found, no name was repeated. orjson may round floats
    and large integers, so those are left to the strict reader.
    """
    if b" :" in body or b"\n:" in body or b"\t:" in body or b"\r:" in body:
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    names = 0
    level = [document]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                continue
            if isinstance(value, dict):
                names += len(value)
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) or (isinstance(value, int) and value not in _INTEGERS):
                return None
        if not below:
            return document if names == body.count(b'":') else None
        level = below
    return None


def _whole(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape["half"] else escape[0]


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is repeated")
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
    """Raise ValueError on too many levels, and on lone surrogates."""
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
