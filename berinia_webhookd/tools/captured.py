"""Reads a captured request, as it goes over the wire or as a proxy writes it into a file."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
from multidict import CIMultiDict

from berinia_webhookd.errors import NotFound
from berinia_webhookd.model import Caller, ChannelName, RawDelivery

_REQUEST_LINE: Final = re.compile(r"(?:> )?([A-Z]+) (\S+)(?: HTTP/[0-9.]+)?")
_MOST_BYTES: Final = 64 * 1_048_576


def captured(file: Path, channel: ChannelName, received_at: datetime) -> RawDelivery:
    """Return the request that a file holds; `-` is the standard input.

    Lines of `curl -v` may begin with `> `. The scheme is that of an absolute URL, else of
    `X-Forwarded-Proto`, else https.
    """
    content = content_of(file)
    head, blank, body = content.replace(b"\r\n", b"\n", content.count(b"\n")).partition(b"\n\n")
    if b"\r\n\r\n" in content:
        head, blank, body = content.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").splitlines()
    first = _REQUEST_LINE.fullmatch(lines[0].strip()) if lines else None
    if first is None or not blank:
        raise click.UsageError(
            f"{file} is not a captured request: write `POST /path HTTP/1.1`, the headers, an empty "
            "line, and the body as it came"
        )
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines[1:]:
        name, colon, value = line.removeprefix("> ").partition(":")
        if colon:
            headers.add(name.strip(), value.strip())
    url = urlsplit(first[2])
    target = first[2] if not url.netloc else url.path + (f"?{url.query}" if url.query else "")
    scheme = url.scheme or headers.get("X-Forwarded-Proto", "https")
    caller = Caller(
        peer=None,
        client=None,
        scheme=scheme,
        host=url.netloc or headers.get("Host", ""),
        forwarded=False,
        peer_trusted=False,
    )
    kind = headers.get("Content-Type", "")
    return RawDelivery(
        channel=channel,
        caller=caller,
        target=target,
        headers=headers,
        content_type=kind.partition(";")[0].strip().lower(),
        content_type_header=kind,
        body=body,
        received_at=received_at,
        method=first[1],
    )


def content_of(file: Path) -> bytes:
    """Return what a file holds; `-` is the standard input.

    Raises:
        NotFound: it cannot be read.
    """
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(_MOST_BYTES)
        with file.open("rb") as opened:
            return opened.read(_MOST_BYTES)
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error
