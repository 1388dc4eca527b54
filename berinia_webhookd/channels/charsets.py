"""Decodes bytes by a charset label as the WHATWG Encoding Standard, https://encoding.spec.whatwg.org,
says, and as browsers and mail programs do: iso-8859-1 means windows-1252, gb2312 means GBK.
"""

from __future__ import annotations

import codecs
import re
from encodings.aliases import aliases
from functools import lru_cache
from typing import Final

import webencodings

_MAX_LABEL_LENGTH: Final = 60
_SHORTEST_LABEL: Final = 4  # when junk behind it is cut off, as of windows-1252http-equiv
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Labels that say nothing about bytes beyond ASCII; the standard takes some for windows-1252.
_SILENT: Final = frozenset({"", "ascii", "us-ascii", "ansi_x3.4-1968", "646", "iso646-us"})
_NO_CHARSETS: Final = re.compile(
    "base64|bz2|hex|idna|mbcs|oem|punycode|quopri|rot_13|undefined|uu_|unicode_escape|zlib"
)
_JUNK: Final = re.compile("[^a-z0-9]")
_OTHERS: Final = {  # what Python knows besides the standard, by name without punctuation
    _JUNK.sub("", name): codec
    for pairs in ({codec: codec for codec in aliases.values()}, aliases)
    for name, codec in pairs.items()
    if not _NO_CHARSETS.search(codec)
}
# Codecs of Python that know fewer characters than the standard asks for, and what to use instead.
_WIDER: Final = {"gbk": "gb18030", "gb2312": "gb18030", "euc_jp": "euc_jis_2004"}
_ISO_2022_JP: Final = "iso2022_jp"
_SHIFT_JIS: Final = "cp932"
# Longer texts are left to Python's codec, which lacks the vendors' characters.
_MAX_CONVERTED: Final = 1_048_576
_UNKNOWN: Final = "\ufffd"
_MOST_UNKNOWN: Final = 50  # bytes that a single-byte codec leaves undefined
_JIS_BYTES: Final = frozenset(range(0x21, 0x7F))
_C1: Final = range(0x80, 0xA0)
# An escape sequence of ISO-2022-JP, and the text up to the next one or the end of the line.
_ESCAPED: Final = re.compile(rb"\x1b(\$[@B]|\$\([@B]|\([BIJ])([^\x1b\r\n]*)")


def text_of(content: bytes, label: str | None = None) -> str:
    """Decode bytes by a charset label, or without one. What cannot be decoded becomes U+FFFD.

    A label that cannot decode bytes which are valid UTF-8 is wrong: they are UTF-8. Without a label
    they are UTF-8 if they can be, else windows-1252.
    """
    for mark, marked in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(marked, "replace")
    codec = _codec_of((label or "").strip(" \t\r\n\"'").lower())
    codecs_to_try: tuple[str, ...]
    if codec is None:
        codecs_to_try = ("utf-8", "cp1252")
    elif codec == _ISO_2022_JP and not content.isascii():
        codecs_to_try = ("utf-8", _SHIFT_JIS)
    elif codec == _ISO_2022_JP and len(content) <= _MAX_CONVERTED:
        content, codecs_to_try = _as_shift_jis(content), (_SHIFT_JIS,)
    else:
        codecs_to_try = (codec, _WIDER.get(codec, codec), "utf-8")
    for one in codecs_to_try:
        text = _decoded(content, one)
        if text is not None:
            return text
    return _decoded(content, codec or "cp1252", "replace") or ""


def _decoded(content: bytes, codec: str, errors: str = "strict") -> str | None:
    """Decode bytes by a codec; return None where it cannot."""
    table = _table(codec)
    if table is not None:
        text = codecs.charmap_decode(content, "strict", table)[0]
        return text if errors == "replace" or _UNKNOWN not in text else None
    try:
        return content.decode(codec, errors)
    except UnicodeError:
        return None


@lru_cache(maxsize=128)
def _table(codec: str) -> str | None:
    """Return the characters of a single-byte codec; None for other codecs.

    As in the standard, bytes below 0xA0 that windows-125x leaves undefined are control characters.
    """
    if codec.startswith(("utf", "iso2022")):
        return None
    table = "".join(bytes((byte,)).decode(codec, "replace") or _UNKNOWN for byte in range(256))
    if table.count(_UNKNOWN) > _MOST_UNKNOWN:
        return None
    if codec.startswith("cp125"):
        return "".join(
            chr(byte) if one == _UNKNOWN and byte in _C1 else one for byte, one in enumerate(table)
        )
    return table


@lru_cache(maxsize=512)
def _codec_of(label: str) -> str | None:
    """Return Python's name of a label's codec, or None.

    Looks only into tables: `codecs.lookup` would import modules that a stranger names.
    """
    if label in _SILENT:
        return None
    for end in range(min(len(label), _MAX_LABEL_LENGTH), _SHORTEST_LABEL - 1, -1):
        found = webencodings.lookup(label[:end])
        if found is not None and found.name not in ("replacement", "x-user-defined"):
            return str(found.codec_info.name).replace("-", "_")
    plain = _JUNK.sub("", label)
    return _OTHERS.get(plain) or _OTHERS.get(plain.removeprefix("x"))


def _as_shift_jis(content: bytes) -> bytes:
    """Turn ISO-2022-JP into Shift_JIS, whose codec has the vendors' characters, such as ①."""
    return _ESCAPED.sub(lambda found: _segment(found[1], found[2]), content)


def _segment(escape: bytes, text: bytes) -> bytes:
    if escape == b"(I":  # half-width katakana
        return bytes(byte | 0x80 for byte in text)
    if not escape.startswith(b"$"):
        return text
    pairs = zip(text[::2], text[1::2], strict=False)
    return b"".join(_pair(row, cell) for row, cell in pairs)


def _pair(row: int, cell: int) -> bytes:
    """Return a character of JIS X 0208 in Shift_JIS; invalid ones become a question mark."""
    if not {row, cell} <= _JIS_BYTES:
        return b"?"
    lead, trail = divmod((row - 0x21) * 94 + cell - 0x21, 188)
    # https://encoding.spec.whatwg.org/#shift_jis-encoder
    lead += 0x81 if lead < 0x1F else 0xC1  # noqa: PLR2004
    trail += 0x40 if trail < 0x3F else 0x41  # noqa: PLR2004
    return bytes((lead, trail))
