"""Forgeries by way of HTTP itself: framing that two servers read differently, proofs in trailers,
bodies that are not what they are called.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

from .forged_sms import PATH, SIGNATURE, honest
from .wire import FORM, Forgery, Header, Request, chunked

_CHUNKED = (b"Transfer-Encoding", b"chunked")


def framings() -> Iterator[Forgery]:
    """Lengths that contradict each other or the body, for an otherwise honest message."""
    request = honest()
    size = len(request.body)
    framed = request.carrying(chunked(request.body))
    for name, headers in _lengths(size):
        yield Forgery(name, request.adding(*headers))
    for name, headers in _chunked_lengths(size):
        yield Forgery(f"chunked, {name}", framed.adding(*headers))
    for name, body in (
        ("a chunk too short", b"1\r\n" + request.body + b"\r\n0\r\n\r\n"),
        ("a negative chunk", b"-1\r\n" + request.body + b"\r\n0\r\n\r\n"),
        ("a signed chunk", b"+%x\r\n%s\r\n0\r\n\r\n" % (size, request.body)),
        ("a prefixed chunk", b"0x%x\r\n%s\r\n0\r\n\r\n" % (size, request.body)),
        ("an underscored chunk", b"1_0\r\n%s\r\n0\r\n\r\n" % request.body),
        ("a huge chunk", b"f" * 20 + b"\r\n" + request.body + b"\r\n0\r\n\r\n"),
        ("a chunk without a size", b"\r\n" + request.body + b"\r\n0\r\n\r\n"),
        ("a chunk size beyond ASCII", "５".encode() + b"\r\n" + request.body),
        ("a broken chunk", b"%x\r\n%sxx0\r\n\r\n" % (size, request.body)),
    ):
        yield Forgery(name, request.carrying(body).adding(_CHUNKED))


def _lengths(size: int) -> Iterator[tuple[str, tuple[Header, ...]]]:
    right = b"%d" % size
    for value in (
        *(b"0", b"1", b"%d" % (size - 1), b"-%d" % size, b"+" + right, b"0x%x" % size, b"1e3"),
        *(right + b", " + right, right + b",1", b"", b" ", b"abc", "５".encode(), b"9" * 30),
        *(right[:1] + b"_" + right[1:], right + b".0", right + b"\t1", b"\x0b" + right),
    ):
        yield f"length {value!r}", ((b"Content-Length", value),)
    yield "two lengths", ((b"Content-Length", right), (b"Content-Length", b"0"))
    yield "two lengths, wrong first", ((b"Content-Length", b"0"), (b"Content-Length", right))


def _chunked_lengths(size: int) -> Iterator[tuple[str, tuple[Header, ...]]]:
    right = b"%d" % size
    yield "and a length", (_CHUNKED, (b"Content-Length", right))
    yield "and a length before", ((b"Content-Length", right), _CHUNKED)
    for value in (
        *(b"xchunked", b"identity", b"gzip, chunked", b"chunked, identity", b"chunked, chunked"),
        *(b"x", b'"chunked"', b"chunked;a=1", b"chunked\x0b", b"\x0bchunked", b"", b"chunke"),
    ):
        yield f"as {value!r}", ((b"Transfer-Encoding", value),)
    yield "a blank before the colon", ((b"Transfer-Encoding ", b"chunked"),)
    yield "folded", ((b"A", b"b\r\n Transfer-Encoding: chunked"), (b"Content-Length", right))
    yield "twice", (_CHUNKED, (b"Transfer-Encoding", b"identity"))


def trailers() -> Iterator[Forgery]:
    """What stands behind the body is no part of the head."""
    request = honest()
    signature = next(h for h in request.headers if h[0] == SIGNATURE)
    for name, bare, trailer in (
        ("the signature", request.without(SIGNATURE), signature),
        ("a right for a wrong one", request.having(SIGNATURE, b"A" * 28), signature),
        ("the type", request.without(b"Content-Type"), (b"Content-Type", FORM)),
        ("more fields", request.without(SIGNATURE), (b"Body", b"evil")),
    ):
        body = chunked(bare.body, trailers=[trailer])
        yield Forgery(f"{name} in a trailer", bare.carrying(body).adding(_CHUNKED))
        declared = bare.adding(_CHUNKED, (b"Trailer", trailer[0]))
        yield Forgery(f"{name} in a declared trailer", declared.carrying(body))
        yield Forgery(f"{name} behind the body", bare.carrying(bare.body + b"\r\nA: b"))
    extension = b";" + SIGNATURE + b"=" + signature[1]
    body = chunked(request.body, extension=extension)
    yield Forgery("in an extension", request.without(SIGNATURE).carrying(body).adding(_CHUNKED))


def encodings() -> Iterator[Forgery]:
    """Nothing is unpacked, so a packed body is not the one that was signed."""
    request = honest()
    for name, body in (
        (b"gzip", gzip.compress(request.body)),
        (b"deflate", zlib.compress(request.body)),
        (b"br", request.body),
        (b"zstd", request.body),
        (b"gzip, gzip", gzip.compress(gzip.compress(request.body))),
        (b"x-gzip", gzip.compress(request.body)),
        (b"", gzip.compress(request.body)),
        (b"identity", gzip.compress(request.body)),
    ):
        packed = request.carrying(body).having(b"Content-Encoding", name)
        yield Forgery(f"packed as {name.decode() or 'nothing'}", packed)


def smuggled() -> Iterator[Forgery]:
    """An unsigned request inside the head or the body of another."""
    inner = honest().without(SIGNATURE)
    for name, outer in (
        ("in a body", Request(PATH, honest().headers, inner.wire)),
        ("in the body of a GET", Request(b"/nothing", (), inner.wire, b"GET")),
        ("behind an empty body", Request(b"/", ((b"Content-Length", b"0"),), inner.wire, b"POST")),
        ("in a header", Request(PATH, ((b"A", b"b\r\n\r\n" + inner.wire),), b"")),
        ("behind a lone CR", Request(PATH, ((b"A", b"b\r" + inner.wire[:50]),), b"")),
        ("behind a lone LF", Request(PATH, ((b"A", b"b\nX-Twilio-Signature: x"),), b"")),
        ("behind a NUL", Request(PATH, ((b"A", b"b\0X-Twilio-Signature: x"),), b"")),
    ):
        yield Forgery(name, outer)
