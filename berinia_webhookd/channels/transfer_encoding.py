"""Decodes Content-Transfer-Encodings of mails (RFC 2045), broken ones as far as possible."""

from __future__ import annotations

import binascii
import re
from typing import Final

# One call each for all of a file: expressions would hold the interpreter for as long as they take.
_NOT_BASE64: Final = bytes(
    byte for byte in range(256) if not re.fullmatch(rb"[A-Za-z0-9+/=]", bytes((byte,)))
)
_MOST_UU_LINES: Final = 1_000_000  # of 45 bytes each
_MOST_PIECES: Final = 1000  # of Base64, each with its own padding


def decoded(content: bytes, encoding: str) -> bytes:
    """Decode content; with an unknown encoding return it as it is."""
    match encoding.strip().lower():
        case "base64":
            return from_base64(content)
        case "quoted-printable":
            return binascii.a2b_qp(content)
        case "x-uuencode" | "uuencode" | "x-uue" | "uue":
            return _from_uu(content)
        case _:
            return content


def from_base64(content: bytes) -> bytes:
    """Decode Base64, even if it is cut off, has a character too many, or padding in the middle."""
    pieces = content.translate(None, _NOT_BASE64).split(b"=", 2 * _MOST_PIECES)
    return b"".join(_whole_groups(piece) for piece in pieces)


def _whole_groups(piece: bytes) -> bytes:
    if len(piece) % 4 == 1:  # six bits are no byte
        piece = piece[:-1]
    return binascii.a2b_base64(piece + b"=" * (-len(piece) % 4))


def _from_uu(content: bytes) -> bytes:
    lines: list[bytes] = []
    for line in content.partition(b"begin ")[2].split(b"\n", _MOST_UU_LINES)[1:]:
        if line.strip() in (b"end", b"`"):
            break
        try:
            lines.append(binascii.a2b_uu(line.rstrip()))
        except binascii.Error:  # some encoders put a wrong length first; the rest of it is lost
            continue
    return b"".join(lines)
