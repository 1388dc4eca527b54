"""HTTP requests as bytes: built by hand, because no client library would send what is sent here."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

PATIENCE_SECONDS = 180
FORM = b"application/x-www-form-urlencoded"

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Request:
    """One request. Without a framing header of its own it gets the right `Content-Length`."""

    target: bytes
    headers: tuple[Header, ...]
    body: bytes
    method: bytes = b"POST"
    source: str = "127.0.0.1"

    def without(self, name: bytes) -> Request:
        kept = tuple(h for h in self.headers if h[0].lower() != name.lower())
        return replace(self, headers=kept)

    def having(self, name: bytes, *values: bytes) -> Request:
        """The same with these values of a header, instead of any others."""
        bare = self.without(name)
        return replace(bare, headers=(*bare.headers, *((name, value) for value in values)))

    def adding(self, *headers: Header) -> Request:
        return replace(self, headers=(*self.headers, *headers))

    def carrying(self, body: bytes) -> Request:
        return replace(self, body=body)

    def at(self, target: bytes) -> Request:
        return replace(self, target=target)

    @property
    def wire(self) -> bytes:
        headers = list(self.headers)
        given = {name.strip().lower() for name, _ in headers}
        if b"host" not in given:
            headers.insert(0, (b"Host", b"localhost"))
        if not given & {b"content-length", b"transfer-encoding"}:
            headers.append((b"Content-Length", b"%d" % len(self.body)))
        if b"connection" not in given:
            headers.append((b"Connection", b"close"))
        lines = [self.method + b" " + self.target + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


class Forgery(NamedTuple):
    """A request that must not be believed, and what is wrong with it."""

    name: str
    request: Request


def as_headers(headers: Mapping[str, str]) -> tuple[Header, ...]:
    return tuple((name.encode(), value.encode()) for name, value in headers.items())


def chunked(body: bytes, *, trailers: Iterable[Header] = (), extension: bytes = b"") -> bytes:
    """A chunked body in two chunks."""
    middle = len(body) // 2
    chunks = [part for part in (body[:middle], body[middle:]) if part]
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in chunks)
    ending = b"".join(name + b": " + value + b"\r\n" for name, value in trailers)
    return framed + b"0\r\n" + ending + b"\r\n"


def exchange(port: int, data: bytes, *, source: str = "127.0.0.1") -> bytes:
    """All that comes back on a connection of its own, until the daemon closes it."""
    received = []
    with socket.create_connection(
        ("127.0.0.1", port), PATIENCE_SECONDS, source_address=(source, 0)
    ) as connection:
        try:
            connection.sendall(data)
            while part := connection.recv(65_536):
                received.append(part)
        except ConnectionError:
            pass  # refused before all was sent: what came back until then counts
    return b"".join(received)


def statuses(reply: bytes) -> list[int]:
    """The status of each answer in what came back."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", reply)]
