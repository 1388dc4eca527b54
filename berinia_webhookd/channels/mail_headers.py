"""Reads the headers of mails as mail programs do, which is more than RFC 5322 allows: 8-bit text, a
blank before the colon, a continuation that is not indented, lines of mailbox files.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from email.errors import MessageError
from email.message import Message
from typing import Final

from berinia_webhookd.channels.charsets import text_of
from berinia_webhookd.channels.transfer_encoding import from_base64
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.urlencoded import as_bytes, readable

Headers = tuple[tuple[str, str], ...]

MAX_HEADERS: Final = 500  # of a message or part; further ones are dropped
MAX_LENGTH: Final = 8192  # of a value
_MAX_CONTENT_LENGTH: Final = 3072  # of one with parameters: they take the square of that
_MAX_PARAMETERS: Final = 50
_NAME: Final = re.compile(rb"([!-9;-~]{1,200})[ \t]*:")
_MAILBOX_LINE: Final = re.compile(rb">?From ")
_FOLD: Final = re.compile(r"[\r\n]+[ \t]?|\t")
# RFC 2047: a charset, perhaps a language (RFC 2231), an encoding; the encoded text ends with "?=".
_WORD: Final = re.compile(r"=\?([^?*\s]{1,60})(?:\*[^?\s]{0,20})?\?([BbQq])\?")


# What `email` raises on odd parameters; then they are read by the pattern below.
_BROKEN: Final = (MessageError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
_PARAMETER: Final = re.compile(r';\s*([^=;*\s"]{1,60})[*0-9]*=\s*("[^"]*"|[^;\s]*)')


class Allowance:
    """A limit for a message, such as on its number of parts."""

    def __init__(self, left: int, what: str) -> None:
        self.left = left
        self._what = what

    def take(self, amount: int = 1) -> None:
        """Use up some of it.

        Raises:
            MalformedDelivery: the limit is exceeded.
        """
        self.left -= amount
        if self.left < 0:
            raise MalformedDelivery(
                f"The MIME message has too many {self._what}.", invalid=("body-mime",)
            )


def split_headers(
    entity: bytes, lines: Allowance, *, is_message: bool = False
) -> tuple[Headers, bytes]:
    """Return the headers of a message or part, unfolded, and its body.

    Only a message may begin with a byte order mark or with empty lines.

    Raises:
        MalformedDelivery: more lines than are allowed.
    """
    fields: list[tuple[str, list[bytes]]] = []
    begin = len(entity) - len(entity.lstrip(b"\xef\xbb\xbf\r\n")) if is_message else 0
    body = begin
    for start, line in _lines(entity, begin):
        lines.take()
        body = start
        if not line.strip(b"\r\n"):
            body = start + len(line)
            break
        indented = line.startswith((b" ", b"\t"))
        name = None if indented else _NAME.match(line)
        if name is not None:
            fields.append((text_of(name[1]), [line[name.end() :]]))
        elif fields and (indented or _goes_on(entity, start + len(line))):
            fields[-1][1].append(line if indented else b" " + line)
        elif not _MAILBOX_LINE.match(line):
            break
        body = start + len(line)
    return tuple((name, _value(lines)) for name, lines in fields[:MAX_HEADERS]), entity[body:]


def _lines(entity: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    while position < len(entity):
        end = entity.find(b"\n", position) + 1 or len(entity)
        yield position, entity[position:end]
        position = end


def _goes_on(entity: bytes, position: int) -> bool:
    """Whether the next line is a header, a continuation, or the empty line that ends headers."""
    return entity.startswith((b" ", b"\t", b"\r", b"\n"), position) or bool(
        _NAME.match(entity, position)
    )


def _value(lines: list[bytes]) -> str:
    return unfolded(text_of(b"".join(lines)[:MAX_LENGTH]))


def unfolded(text: str) -> str:
    """Return a header's value in one line."""
    return _FOLD.sub(" ", text.strip())


def decode_words(text: str) -> str:
    """Decode the encoded words of a header (RFC 2047), broken ones as far as possible.

    Blanks between two of them are dropped, and neighbours of the same charset are decoded together,
    because some programs cut in the middle of a character.
    """
    pieces: list[str] = []
    run: list[bytes] = []
    charset, position = "", 0
    while (word := _WORD.search(text, position)) is not None:
        end = text.find("?=", word.end())
        if end < 0:
            break
        between = text[position : word.start()]
        adjacent = bool(run) and not between.strip()
        if run and not (adjacent and word[1].lower() == charset):
            pieces.append(text_of(b"".join(run), charset))
            run = []
        if not adjacent:
            pieces.append(between)
        charset, position = word[1].lower(), end + 2
        run.append(_content(word[2], text[word.end() : end]))
    return readable("".join((*pieces, text_of(b"".join(run), charset), text[position:])))


def _content(encoding: str, text: str) -> bytes:
    content = as_bytes(text)
    return from_base64(content) if encoding in "Bb" else binascii.a2b_qp(content, header=True)


class ContentHeaders:
    """What the headers of a message or part say of its content; `email` reads the parameters."""

    def __init__(self, headers: Headers, default_type: str) -> None:
        first: dict[str, str] = {}
        for name, value in headers:
            short = ";".join(
                value[:_MAX_CONTENT_LENGTH].split(";", _MAX_PARAMETERS)[:_MAX_PARAMETERS]
            )
            first.setdefault(name.lower(), short)
        message: Message[str, str] = Message()
        message.set_default_type(default_type)
        for name in ("Content-Type", "Content-Disposition"):
            if name.lower() in first:
                message[name] = first[name.lower()]
        self.encoding = first.get("content-transfer-encoding", "").partition(";")[0]
        self.type = readable(message.get_content_type())
        self.is_attachment = message.get_content_disposition() == "attachment"
        of_type = _parameters(message, "Content-Type")
        named = _parameters(message, "Content-Disposition").get("filename") or of_type.get("name")
        self.charset = of_type.get("charset", "")
        self.boundary = as_bytes(of_type.get("boundary", "").rstrip())
        self.file_name = unfolded(decode_words(named or ""))


def _parameters(message: Message[str, str], header: str) -> dict[str, str]:
    """Return the parameters of a header, by their names in lower case, the first of each."""
    if header not in message:
        return {}
    try:
        found = message.get_params([], header)
    except _BROKEN:
        plain = _PARAMETER.findall(message.get(header, ""))
        return {name.lower(): value.strip('"') for name, value in reversed(plain)}
    return {name.lower(): _text_of_parameter(value) for name, value in reversed(found)}


def _text_of_parameter(value: str | tuple[str | None, str | None, str]) -> str:
    if isinstance(value, str):
        return value
    charset, _, text = value  # RFC 2231, a character for each byte
    return text_of(text.encode("latin-1", "replace"), charset)
