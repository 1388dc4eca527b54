"""Forgeries of the WhatsApp bot's messages: strangers who pass themselves off as this machine, or
guess at the shared secret; and messages of the bot that mean two things.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import orjson

from .wire import Forgery, Request

PATH = b"/webhook/whatsapp"
SECRET = b"bot-secret-0123456789abcdef"
STRANGER = "127.0.0.2"  # a loopback address that is neither a proxy nor allowed

_HINTS = (
    (b"X-Forwarded-For", b"203.0.113.9"),
    (b"X-Forwarded-For", b"127.0.0.1, 203.0.113.9"),
    (b"X-Forwarded-For", b"203.0.113.9, 127.0.0.1"),
    (b"X-Forwarded-For", b"junk"),
    (b"X-Forwarded-For", b"127.0.0.1, junk"),
    (b"X-Forwarded-For", b""),
    (b"X-Forwarded-For", b","),
    (b"X-Forwarded-For", b"127.0.0.1:80"),
    (b"X-Forwarded-For", b"[::1]:80"),
    (b"X-Forwarded-For", b"localhost"),
    (b"X-Forwarded-For", b"0x7f.1"),
    (b"X-Forwarded-For", b"127.1"),
    (b"X-Forwarded-For", b"2130706433"),
    (b"X-Forwarded-For", b"0177.0.0.1"),
    (b"X-Forwarded-For", b"::ffff:203.0.113.9"),
    (b"X-Forwarded-For", b"unknown"),
    (b"X-Forwarded-For", b"\xe9"),
    (b"X-Forwarded-For", b"10.0.0.1"),
    (b"X-Forwarded-For", b"0.0.0.0"),
    (b"X-Forwarded-For", b"::"),
    (b"X-Forwarded-For", b"fe80::1%lo"),
    (b"x-forwarded-for", b"203.0.113.9"),
    (b"X-Real-IP", b"127.0.0.1"),
    (b"X-REAL-IP", b"203.0.113.9"),
    (b"Forwarded", b"for=127.0.0.1"),
    (b"Forwarded", b"for=203.0.113.9"),
    (b"Via", b"1.1 nginx"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"localhost"),
    (b"X-Forwarded-Port", b"80"),
    (b"X-Forwarded-Anything", b"1"),
    (b"Host", b"app.example.com"),
    (b"Host", b"localhost.example.com"),
    (b"Host", b"127.0.0.1.example.com"),
    (b"Host", b""),
    (b"Host", b"10.0.0.1"),
    (b"Host", b"0.0.0.0"),
    (b"Host", b"2130706433"),
    (b"Host", b"localhost@evil.example.com"),
    (b"Host", b"127.0.0.1, evil.example.com"),
)
_CLAIMS = (
    *((b"X-Forwarded-For", b"127.0.0.1"), (b"X-Real-IP", b"127.0.0.1"), (b"Via", b"1.1 localhost")),
    *((b"Forwarded", b"for=127.0.0.1"), (b"X-Client-IP", b"127.0.0.1"), (b"Host", b"localhost")),
    *((b"True-Client-IP", b"127.0.0.1"), (b"CF-Connecting-IP", b"::1"), (b"Host", b"127.0.0.1")),
    *((b"X-Forwarded-For", b"::1"), (b"X-Cluster-Client-IP", b"127.0.0.1"), (b"Origin", b"null")),
    *((b"X-Originating-IP", b"127.0.0.1"), (b"X-Remote-Addr", b"127.0.0.1"), (b"X-A", b"1")),
)


def fresh_document(**changes: Any) -> dict[str, Any]:
    """A message that was never sent before."""
    return {
        "source": "whatsapp",
        "type": "group",
        "group": "🤖 Support IA / Chatbot",
        "author": "33639980001@c.us",
        "content": "Bonjour",
        "timestamp": "2026-11-24T09:30:00.000Z",
        "messageId": secrets.token_hex(16).upper(),
        **changes,
    }


def posted(document: Any) -> Request:
    headers = (
        (b"Content-Type", b"application/json"),
        (b"Authorization", b"Bearer " + SECRET),
        (b"Host", b"localhost"),
    )
    return Request(PATH, headers, orjson.dumps(document))


def honest() -> Request:
    """What the bot sends, from this machine and with the secret."""
    return posted(fresh_document())


def addresses() -> Iterator[Forgery]:
    """The secret is right, and where it comes from is not."""
    for name, value in _HINTS:
        request = posted(fresh_document()).having(name, value)
        yield Forgery(f"through the proxy with {name.decode()}: {value!r}", request)
    twice = posted(fresh_document()).having(b"X-Forwarded-For", b"127.0.0.1", b"203.0.113.9")
    yield Forgery("through the proxy, header twice", twice)
    for name, value in _CLAIMS:
        request = posted(fresh_document()).having(name, value)
        forged = Request(PATH, request.headers, request.body, source=STRANGER)
        yield Forgery(f"a stranger with {name.decode()}: {value!r}", forged)


def secrets_guessed() -> Iterator[Forgery]:
    """The address is right, and the secret is not."""
    yield Forgery("no secret", posted(fresh_document()).without(b"Authorization"))
    for length in range(len(SECRET)):
        yield _with(f"truncated to {length}", b"Bearer " + SECRET[:length])
    for name, value in (
        ("empty", b""),
        ("without a scheme", SECRET),
        ("another scheme", b"Basic " + SECRET),
        ("upper case", b"Bearer " + SECRET.upper()),
        ("longer", b"Bearer " + SECRET + b"0"),
        ("quoted", b'Bearer "' + SECRET + b'"'),
        ("beyond ASCII", b"Bearer \xff\xfe"),
        ("emoji", "Bearer 🙂".encode()),
        ("very long", b"Bearer " + b"A" * 8000),
        ("too long", b"Bearer " + b"A" * 9000),
        ("in a list", b"Bearer x, Bearer " + SECRET),
        ("scheme twice", b"Bearer Bearer " + SECRET),
        ("scheme glued", b"Bearer" + SECRET),
        ("null", b"Bearer null"),
    ):
        yield _with(name, value)
    request = posted(fresh_document()).without(b"Authorization")
    for header in (b"X-Authorization", b"Proxy-Authorization", b"Cookie", b"X-Api-Key"):
        yield Forgery(f"in {header.decode()}", request.adding((header, b"Bearer " + SECRET)))
    yield Forgery("in the query", request.at(PATH + b"?access_token=" + SECRET))
    both = request.adding((b"Authorization", b"Bearer x"), (b"Authorization", b"Bearer " + SECRET))
    yield Forgery("wrong before right", both)


def _with(name: str, value: bytes) -> Forgery:
    return Forgery(f"secret {name}", posted(fresh_document()).having(b"Authorization", value))


def ambiguous() -> Iterator[Forgery]:
    """From the right place with the right secret, but no message, or two in one."""
    for name in ("source", "type", "author", "content", "timestamp", "messageId", "group"):
        document = fresh_document()
        del document[name]
        if name != "group":  # without one it is a direct message
            yield Forgery(f"{name} removed", posted(document))
        for wrong in (["x"], {"x": 1}, True) if name != "content" else (["x"], {"x": 1}, 5):
            yield Forgery(f"{name} = {wrong!r}", posted(fresh_document(**{name: wrong})))
    for name in ("author", "messageId"):
        for blank in ("", " ", "\u3000\t"):
            yield Forgery(f"{name} = {blank!r}", posted(fresh_document(**{name: blank})))
    request = honest()
    text = request.body
    for how, body in (
        ("author twice", b'{"author": "33639980099@c.us",' + text[1:]),
        ("escaped author twice", rb'{"\u0061uthor": "33639980099@c.us",' + text[1:]),
        ("two documents", text + text),
        ("a list", b"[" + text + b"]"),
        ("a string", orjson.dumps(text.decode())),
        ("cut off", text[:-1]),
        ("single quotes", text.replace(b'"', b"'")),
        ("a comment", b"/* */" + text),
        ("a trailing comma", text[:-1] + b",}"),
        ("a form", b"source=whatsapp&type=group&author=a&content=b&timestamp=1&messageId=2"),
        ("UTF-16", text.decode().encode("utf-16")),
        ("UTF-32", text.decode().encode("utf-32")),
        ("Latin-1", b'{"a": "\xe9",' + text[1:]),
        ("a byte order mark", b"\xef\xbb\xbf" + text),
        ("a huge integer", b'{"a": ' + b"9" * 5000 + b"," + text[1:]),
        ("NaN", b'{"a": NaN,' + text[1:]),
        ("infinity", b'{"a": 1e999,' + text[1:]),
        ("deeply nested", b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"," + text[1:]),
        ("nothing", b""),
        ("null", b"null"),
    ):
        yield Forgery(how, request.carrying(body))
    for content_type in (b"text/plain", b"", b"application/x-www-form-urlencoded", b"text/json"):
        yield Forgery(f"as {content_type!r}", request.having(b"Content-Type", content_type))
