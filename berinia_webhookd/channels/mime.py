"""Reads raw MIME messages (`body-mime`) as a good mail program shows them.

Of the standard library only the reading of header parameters is used: its parser takes a slightly
wrong header for the body, rewrites attached messages, and takes quadratic time for nested parts.
Contents are never written anywhere, and file names are never used as paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from typing import Final

from berinia_webhookd.channels.charsets import text_of
from berinia_webhookd.channels.html_text import MAX_LENGTH, text_of_html
from berinia_webhookd.channels.mail_headers import (
    Allowance,
    ContentHeaders,
    Headers,
    decode_words,
    split_headers,
)
from berinia_webhookd.channels.transfer_encoding import decoded

_MAX_TEXT_LENGTH: Final = 1_048_576  # of the text; the rest is in `raw`
_MAX_PARTS: Final = 1000
_MAX_HEADER_LINES: Final = 100_000  # of a message and all of its parts
_MAX_NESTED_BYTES: Final = 157_286_400  # of multiparts, nested ones counted again
_MAX_DEPTH: Final = 20  # of nested multiparts; a deeper one is a file
_PLAIN: Final = "text/plain"
_HTML: Final = "text/html"


@dataclass(frozen=True, slots=True)
class MimeFile:
    """A file in a message."""

    file_name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class MimeMessage:
    """A message: its headers, its text as people see it, its files."""

    headers: Headers
    body: str
    files: tuple[MimeFile, ...]


def parse_mime(content: bytes) -> MimeMessage:
    """Parse a message.

    Raises:
        MalformedDelivery: it has too many parts or header lines.
    """
    message = _Reader().read(content)
    leaves = tuple(_leaves(message))
    texts = _texts(leaves)
    return MimeMessage(
        tuple((name, decode_words(value)) for name, value in message.headers),
        _shown(_chosen(message, texts)),
        tuple(
            MimeFile(part.content.file_name, part.type, part.decoded)
            for part in leaves
            if part not in texts
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A message, or a part of one."""

    headers: Headers
    content: ContentHeaders
    type: str
    body: bytes  # as sent; empty if it has parts
    parts: tuple[_Part, ...]

    @property
    def decoded(self) -> bytes:
        return decoded(self.body, self.content.encoding)

    @property
    def text(self) -> str:
        return text_of(self.decoded, self.content.charset)


class _Reader:
    """Reads one message within its limits."""

    def __init__(self) -> None:
        self._parts = Allowance(_MAX_PARTS, "parts")
        self._lines = Allowance(_MAX_HEADER_LINES, "header lines")
        self._nested_bytes = Allowance(_MAX_NESTED_BYTES, "parts in one another")

    def read(self, entity: bytes, default_type: str = _PLAIN, depth: int = 0) -> _Part:
        """Read a message or part with its parts; an attached message is a file."""
        headers, body = split_headers(entity, self._lines, is_message=depth == 0)
        content = ContentHeaders(headers, default_type)
        if not content.type.startswith("multipart/") or depth == _MAX_DEPTH:
            return _Part(headers, content, content.type, body, ())
        self._nested_bytes.take(len(body))
        default_type = "message/rfc822" if content.type == "multipart/digest" else _PLAIN
        parts: list[_Part] = []
        for part in _split(decoded(body, content.encoding), content.boundary):
            self._parts.take()
            parts.append(self.read(part, default_type, depth + 1))
        if not parts:
            return _Part(headers, content, _PLAIN, body, ())
        return _Part(headers, content, content.type, b"", tuple(parts))


def _split(content: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield the parts of a multipart, whose last boundary may be missing."""
    if not boundary:
        return
    mark = b"--" + re.escape(boundary)
    # The look-behind follows the literal text, which the search finds faster then.
    line = re.compile(mark + rb"(?<![^\n]" + mark + rb")(--)?[ \t]*(?:\r?\n|\r?\Z)")
    begin: int | None = None
    for found in line.finditer(content):
        if begin is not None:
            yield content[begin : found.start()].removesuffix(b"\n").removesuffix(b"\r")
        if found[1]:
            return
        begin = found.end()
    if begin is not None:
        yield content[begin:]


def _leaves(part: _Part) -> Iterator[_Part]:
    """Yield the parts that have no parts, in order."""
    if not part.parts:
        yield part
    for one in part.parts:
        yield from _leaves(one)


def _texts(leaves: Sequence[_Part]) -> Set[_Part]:
    """Return the parts that people read; one with a file name only if there is no other."""
    texts = [
        part for part in leaves if part.type in (_PLAIN, _HTML) and not part.content.is_attachment
    ]
    return {part for part in texts if not part.content.file_name} or set(texts[:1])


def _chosen(part: _Part, texts: Set[_Part]) -> Sequence[_Part]:
    """Return the texts that are shown, in order; of alternatives the plain one, unless it is blank,
    else the first that is not.
    """
    if not part.parts:
        return [part] if part in texts else []
    found = [_chosen(one, texts) for one in part.parts]
    if part.type != "multipart/alternative":
        return list(chain.from_iterable(found))
    alternatives = sorted(filter(None, found), key=lambda one: all(t.type == _HTML for t in one))
    saying = (one for one in alternatives if any(text.text.strip() for text in one))
    return next(saying, next(iter(alternatives), []))


def _shown(parts: Sequence[_Part]) -> str:
    """Join texts as people see them, without blank ones."""
    texts: list[str] = []
    room, room_for_html = _MAX_TEXT_LENGTH, MAX_LENGTH
    for part in parts:
        text = part.text[:room]
        if part.type == _HTML:
            text, room_for_html = (
                text_of_html(text[:room_for_html]),
                max(0, room_for_html - len(text)),
            )
        texts.append(text)
        room -= len(text)
    texts = [text for text in texts if text.strip()] or texts[:1]
    above = [text if text.endswith("\n") else text + "\n" for text in texts[:-1]]
    return "".join((*above, *texts[-1:]))
