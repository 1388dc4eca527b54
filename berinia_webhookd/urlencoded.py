"""Decodes urlencoded forms. Nothing is trimmed, merged or dropped, because signatures cover what
was sent; bytes that are not UTF-8 become lone surrogates, which keep them.
"""

from __future__ import annotations

import binascii
import re
from typing import Any, Final

from berinia_webhookd.errors import MalformedDelivery

Fields = tuple[tuple[str, str], ...]

# Mails are posted with each of their header lines as a field; none has a thousand.
MAX_FIELDS: Final = 1000

_BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_MAX_BROKEN_ESCAPES: Final = 10_000
# Short forms are decoded as a whole, unless an escape is broken or hides a separator. In a long
# one, a single emoji would make each character four bytes.
_SHORT_BYTES: Final = 65_536
_DECODED_APART = re.compile(rb"%(?:26|3[Dd]|(?![0-9A-Fa-f]{2}))")


def decode_urlencoded(body: bytes) -> Fields:
    """Return all pairs in order: blank values kept, `+` a space, nothing trimmed.

    Raises:
        MalformedDelivery: more than `MAX_FIELDS`.
    """
    if body.count(b"&") >= MAX_FIELDS:
        raise MalformedDelivery("The form has too many fields.")
    text = decoded_whole(body)
    if together := text is not None:
        pairs = text.split("&")
    else:
        pairs = as_text(body.replace(b"+", b" ")).split("&")
    fields = []
    for pair in pairs:
        if pair:
            name, _, value = pair.partition("=")
            if not together and "%" in pair:
                name, value = _unquoted(name), _unquoted(value)
            fields.append((name, value))
    return tuple(fields)


def decoded_whole(body: bytes) -> str | None:
    """Return the text of a form, its separators still in it; None where it has to be decoded field
    by field.
    """
    if len(body) > _SHORT_BYTES or _DECODED_APART.search(body):
        return None
    return as_text(_percent_decoded(body.replace(b"+", b" ")))


def _unquoted(text: str) -> str:
    """Decode one name or value.

    Raises:
        MalformedDelivery: a percent sign without its digits stands for itself, but not endlessly.
    """
    if _BROKEN_ESCAPE.search(text):
        text = _BROKEN_ESCAPE.sub("%25", text, count=_MAX_BROKEN_ESCAPES)
        if _BROKEN_ESCAPE.search(text):
            raise MalformedDelivery("The form is not percent-encoded.")
    return as_text(_percent_decoded(as_bytes(text)))


def _percent_decoded(text: bytes) -> bytes:
    """Decode as `urllib.parse.unquote_to_bytes` does, which takes half a minute and 7 GB for the
    largest mail, but in C: quoted-printable is the same code with another sign.
    """
    return binascii.a2b_qp(text.replace(b"=", b"=3D").replace(b"%", b"="))


def as_text(content: bytes) -> str:
    """Decode UTF-8, with lone surrogates for the bytes that are none."""
    return content.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    """Return the bytes that `as_text` decoded."""
    return text.encode("utf-8", "surrogateescape")


def readable(text: str) -> str:
    """Return the text without lone surrogates, which neither JSON nor a database can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return as_bytes(text).decode("utf-8", "replace")
    return text


def raw_fields(fields: Fields) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Return name → last value, and of repeated names name → all values."""
    if not all([name.isascii() and value.isascii() for name, value in fields]):  # noqa: C419 - faster
        fields = tuple([(readable(name), readable(value)) for name, value in fields])
    last = dict(fields)
    if len(last) == len(fields):
        return last, {}
    values: dict[str, list[Any]] = {}
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return last, {name: found for name, found in values.items() if len(found) > 1}
