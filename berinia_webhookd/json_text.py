"""JSON by orjson, or by the standard library for what orjson refuses: lone surrogates and integers
over 64 bits.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import orjson


def escaped(value: object) -> str:
    """Return the value as JSON in ASCII."""
    return json.dumps(value, default=datetime.isoformat)


def encode(value: object) -> bytes:
    """Return the value as JSON in UTF-8; a lone surrogate stays an escape, an instant is its text.

    Raises:
        TypeError: a value is of no JSON type.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return escaped(value).encode("ascii")


def decode(text: str | bytes) -> Any:
    """Return the value that `encode` was given. What others wrote is read strictly, by orjson."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
