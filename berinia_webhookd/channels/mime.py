"""Raw MIME messages (`body-mime`), parsed by the standard library within bounds: its parser nests,
and takes long for absurd numbers of parts, lines or parameters. A message beyond the bounds is
malformed. Contents are never written anywhere, and file names are never used as paths.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32
from itertools import islice
from typing import Any, Final, TypeAlias

from berinia_webhookd.channels.form import readable
from berinia_webhookd.errors import MalformedDelivery

_MAX_HEADER_LENGTH: Final = 8192
_MAX_HEADERS: Final = 500  # of the message itself; what stands behind them is not read
_MAX_WORDS: Final = 100  # of RFC 2047 in a header line; one with more is taken as it stands
_BOUNDS: Final = ((b"\n", 1_000_000), (b"\n--", 10_000), (b"boundary", 100), (b"message/", 100))
# The library looks at each line once for each boundary around it, and takes long for a header line.
_MAX_COMPARED_LINES: Final = 10_000_000
_MAX_HEADER_LINES: Final = 100_000  # wherever they stand, and what looks like them
_HEADER_LINE: Final = re.compile(rb"\n[!-9;-~]{1,200}:")
# Codecs that are no charsets of mail, and slow or raising whatever they are told.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
# What the library raises on odd messages, which of them depends on its version.
_BROKEN = (MessageError, ValueError, LookupError, TypeError, AttributeError, RecursionError)

_Message: TypeAlias = "Message[str, str]"


class _ShortHeaders(Compat32):
    """Cuts header lines: the library's time for parameters grows with the square of the length."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[:_MAX_HEADER_LENGTH]


@dataclass(frozen=True, slots=True)
class MimeFile:
    """A file in a message."""

    file_name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class MimeMessage:
    """What is read of a message."""

    headers: tuple[tuple[str, str], ...]
    plain_text: str | None  # the first text/plain part
    html: str | None  # the first text/html part
    files: tuple[MimeFile, ...]


def parse_mime(content: bytes) -> MimeMessage:
    """Parse a message into headers, text and attachments.

    Raises:
        MalformedDelivery: it is beyond the bounds, or cannot be read.
    """
    if _is_too_complex(content):
        raise MalformedDelivery("The MIME message is too complex.", invalid=("body-mime",))
    try:
        return _read(BytesParser(policy=_ShortHeaders()).parsebytes(content))
    except _BROKEN:
        message = "The MIME message cannot be read."
        raise MalformedDelivery(message, invalid=("body-mime",)) from None


def _is_too_complex(content: bytes) -> bool:
    lowered = content.lower()
    counts = {needle: lowered.count(needle) for needle, _ in _BOUNDS}
    if any(counts[needle] > most for needle, most in _BOUNDS):
        return True
    lines = counts[b"\n"]
    if lines * counts[b"boundary"] > _MAX_COMPARED_LINES:
        return True
    if lines <= _MAX_HEADER_LINES:
        return False
    return sum(1 for _ in _HEADER_LINE.finditer(content)) > _MAX_HEADER_LINES


def _read(message: _Message) -> MimeMessage:
    texts: dict[str, str] = {}
    files: list[MimeFile] = []
    for part in _leaves(message):
        content_type = part.get_content_type()
        if content_type in ("text/plain", "text/html") and not _is_attached(part):
            texts.setdefault(content_type, _text(part))
        else:
            files.append(MimeFile(_file_name(part), readable(content_type), _content(part)))
    headers = tuple(
        (readable(name), _header(value)) for name, value in islice(message.items(), _MAX_HEADERS)
    )
    return MimeMessage(headers, texts.get("text/plain"), texts.get("text/html"), tuple(files))


def _leaves(message: _Message) -> Iterator[_Message]:
    """Yield the parts that are no containers, in order; an attached message is one part."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            children: list[_Message] = list(part.get_payload())  # type: ignore[arg-type]
            waiting.extend(reversed(children))
        else:
            yield part


def _is_attached(part: _Message) -> bool:
    return part.get_content_disposition() == "attachment" or part.get_filename() is not None


def _file_name(part: _Message) -> str:
    return _header(part.get_filename() or "")


def _content(part: _Message) -> bytes:
    if part.is_multipart():  # an attached message, or a report of delivery
        return part.as_bytes().partition(b"\n\n")[2]
    content: Any = part.get_payload(decode=True)
    return bytes(content or b"")


def _text(part: _Message) -> str:
    try:
        charset = str(part.get_content_charset() or "utf-8")
        if codecs.lookup(charset).name not in _NO_CHARSETS:
            return _content(part).decode(charset, "replace")
    except (LookupError, ValueError):  # not a charset
        pass
    return _content(part).decode("utf-8", "replace")


def _header(value: Any) -> str:
    """Return a header as people read it: RFC 2047 words are decoded where they can be."""
    text = str(value)
    if text.count("=?") > _MAX_WORDS:
        return readable(text)
    try:
        return readable(str(make_header(decode_header(text))))
    except (MessageError, LookupError, ValueError):
        return readable(text)
