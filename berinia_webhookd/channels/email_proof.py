"""Looks for Mailgun's proof in a large body without reading it as a form, which takes many times as
long: whoever floods us with unsigned mails is not worth that. It refuses to decide that a body is
signed; it only says when it cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

from berinia_webhookd.channels.signatures import mailgun_match

# From either end, because the text of a mail may hold the same words.
_OCCURRENCES: Final = 32
_CANDIDATES: Final = 4
_NAMES: Final = ("timestamp", "token", "signature")
_VALUES: Final = {"timestamp": b"[0-9]{10}", "token": b"[0-9A-Za-z]{50}", "signature": b"[^&\r\n]+"}
_LONGEST_BYTES: Final = 2000  # of a part's head and the value
_PART_HEAD: Final = rb'"?[^\n]*\n(?:[^\r\n]+\r?\n)*\r?\n'


def may_be_signed(keys: Sequence[str], body: bytes, *, multipart: bool) -> bool:
    """Whether a time stamp, a token and a signature stand in the body that match."""
    found = [_candidates(body, name, multipart=multipart) for name in _NAMES]
    return any(
        mailgun_match(keys, signature, timestamp, token)
        for timestamp, token, signature in product(*found)
    )


def _candidates(body: bytes, name: str, *, multipart: bool) -> list[str]:
    """Values that a field of this name may have; the outermost ones where there are many."""
    between = _PART_HEAD if multipart else b""
    value = re.compile(between + b"(" + _VALUES[name] + b")(?![0-9A-Za-z])")
    needle = f"name={name}" if multipart else f"{name}="
    needles = [needle.encode()]
    if multipart:
        needles.insert(0, f'name="{name}"'.encode())
    for spelling in needles:
        values: dict[str, None] = {}
        for position in _occurrences(body, spelling):
            match = value.match(body[position : position + _LONGEST_BYTES])
            if match is not None:
                values[match[1].decode("utf-8", "replace")] = None
        if values:
            kept = list(values)
            return (
                kept if len(kept) <= 2 * _CANDIDATES else kept[:_CANDIDATES] + kept[-_CANDIDATES:]
            )
    return []


def _occurrences(body: bytes, needle: bytes) -> Iterator[int]:
    """Where it ends, the first ones and the last ones."""
    first = list(_search(body, needle))
    yield from first
    if len(first) == _OCCURRENCES:
        yield from _search_back(body, needle)


def _search(body: bytes, needle: bytes) -> Iterator[int]:
    position = -1
    for _ in range(_OCCURRENCES):
        position = body.find(needle, position + 1)
        if position < 0:
            return
        yield position + len(needle)


def _search_back(body: bytes, needle: bytes) -> Iterator[int]:
    position = len(body)
    for _ in range(_OCCURRENCES):
        position = body.rfind(needle, 0, position)
        if position < 0:
            return
        yield position + len(needle)
