"""Decodes forms, urlencoded and `multipart/form-data`. Nothing is trimmed, merged or dropped, since
signatures cover what was sent; bytes that are not UTF-8 become lone surrogates, which keep them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.urlencoded import MAX_FIELDS, Fields, as_text, decode_urlencoded, readable

MULTIPART: Final = "multipart/form-data"
URLENCODED: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class File:
    """A part that is not a text field; its name is never used as a path."""

    field: str
    file_name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """The fields and files of a form, in the order of sending."""

    fields: Fields
    files: tuple[File, ...] = ()


def decode_form(content_type_header: str, body: bytes) -> Form:
    """Decode a form of either kind.

    Raises:
        MalformedDelivery: it is not one, is cut off, or has more than `MAX_FIELDS` parts.
    """
    if content_type_header.partition(";")[0].strip().lower() == MULTIPART:
        return decode_multipart(content_type_header, body)
    return Form(decode_urlencoded(body))


def first_values(fields: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return name → first value."""
    return dict(reversed(fields))


def decode_multipart(content_type_header: str, body: bytes) -> Form:
    """Decode the text fields and files of a `multipart/form-data` body.

    Raises:
        MalformedDelivery: no boundary, not well-formed, cut off, or too many parts.
    """
    fields: list[tuple[str, str]] = []
    files: list[File] = []
    try:
        for segment, content in _parts(content_type_header, body):
            if _is_file(segment):
                files.append(_file(segment, content))
            else:
                fields.append((segment.name or "", as_text(content)))
    except (MultipartError, UnicodeError):
        raise MalformedDelivery("The body is not well-formed multipart/form-data.") from None
    return Form(tuple(fields), tuple(files))


def _parts(content_type_header: str, body: bytes) -> Iterator[tuple[MultipartSegment, bytes]]:
    boundary = parse_options_header(content_type_header)[1].get("boundary", "")
    parser = PushMultipartParser(
        boundary.encode("utf-8", "surrogatepass"),
        content_length=len(body),
        max_segment_count=MAX_FIELDS,
        max_segment_size=len(body),
        strict=True,
    )
    segment: MultipartSegment | None = None
    chunks: list[bytes] = []
    with parser:
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                segment, chunks = event, []
            elif event is not None:
                chunks.append(bytes(event))
            elif segment is not None:
                yield segment, chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _is_file(segment: MultipartSegment) -> bool:
    """Whether a part is a file: it has a file name, even an empty one, or is not text."""
    if segment.filename is not None or "filename*" in _disposition(segment):
        return True
    media_type = (segment.content_type or "text/plain").partition(";")[0].strip().lower()
    return media_type not in ("text/plain", "text/html")


def _file(segment: MultipartSegment, content: bytes) -> File:
    name = segment.filename
    _, marker, extended = _disposition(segment).partition("filename*=")
    if marker and extended.lower().startswith("utf-8''"):  # RFC 5987, sent by some HTTP clients
        value = extended[len("utf-8''") :].partition(";")[0].strip()
        name = readable(as_text(unquote_to_bytes(value)))
    return File(
        field=segment.name or "",
        file_name=name or "",
        content_type=segment.content_type or "application/octet-stream",
        content=content,
    )


def _disposition(segment: MultipartSegment) -> str:
    return segment.header("Content-Disposition") or ""
