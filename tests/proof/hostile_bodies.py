"""Bodies that are small to send and dear to read: for each, the request that carries it. Those in
`believed` are correctly signed, because what stands in a mail or a chat is written by strangers.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import orjson

from . import forged_chat, forged_mail, forged_sms
from .wire import FORM, Forgery, Request, chunked

MIB = 1 << 20
CHUNKED = (b"Transfer-Encoding", b"chunked")
MULTIPART = b"multipart/form-data; boundary=x"


def unproven() -> Iterator[Forgery]:
    """By anybody, without a proof: to be turned away."""
    yield from _heads()
    sms, mail, chat = forged_sms.honest(), forged_mail.honest(), forged_chat.honest()
    bomb = gzip.compress(bytes(100 * MIB), 9)
    for request in (sms, mail, chat):
        packed = request.carrying(bomb).having(b"Content-Encoding", b"gzip")
        yield Forgery("a bomb of 100 MiB, packed", packed)
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    parts = mail.having(b"Content-Type", MULTIPART).carrying(part * 100_000 + b"--x--\r\n")
    yield Forgery("100,000 parts", parts)
    head = b'--x\r\nContent-Disposition: form-data; name="a"\r\n' + b"A: b\r\n" * 100_000
    yield Forgery("a part with 100,000 headers", parts.carrying(head))
    name = b'--x\r\nContent-Disposition: form-data; name="' + b'\\"' * 400_000
    yield Forgery("a part with a long name", parts.carrying(name))
    yield Forgery("dashes", parts.carrying(b"--x" * 300_000))
    yield Forgery("a long boundary", mail.having(b"Content-Type", MULTIPART + b"x" * 8000))
    for size, request in ((MIB, sms), (30 * MIB, mail)):
        yield Forgery("empty fields", request.carrying(b"&" * size))
        yield Forgery("equals signs", request.carrying(b"=" * size))
        yield Forgery("percent signs", request.carrying(b"%" * size))
        yield Forgery("escapes", request.carrying(b"%41" * (size // 3)))
        yield Forgery("broken escapes", request.carrying(b"%4" * (size // 2)))
        yield Forgery("plus signs", request.carrying(b"+" * size))
        yield Forgery("bytes that are not UTF-8", request.carrying(b"\xff" * size))
        yield Forgery("NUL bytes", request.carrying(bytes(size)))
    yield Forgery("999 fields", sms.carrying(b"&".join(b"f%d=1" % n for n in range(999))))
    yield Forgery("too large", sms.carrying(b"a" * (MIB + 1)))
    yield Forgery("too large, in chunks", sms.carrying(chunked(b"a" * (MIB + 1))).adding(CHUNKED))
    yield Forgery("chunks of one byte", mail.carrying(_crumbs(200_000)).adding(CHUNKED))
    long = b"%x;%s\r\n%s\r\n0\r\n\r\n" % (1, b"a" * MIB, b"b")
    yield Forgery("a long chunk extension", sms.carrying(long).adding(CHUNKED))
    trailers = b"0\r\n" + b"A: b\r\n" * 100_000 + b"\r\n"
    yield Forgery("100,000 trailers", sms.carrying(trailers).adding(CHUNKED))


def _heads() -> Iterator[Forgery]:
    bare = forged_sms.honest().without(forged_sms.SIGNATURE)
    yield Forgery("10,000 headers", bare.adding(*[(b"A%d" % n, b"b") for n in range(10_000)]))
    yield Forgery("a header of 1 MiB", bare.adding((b"A", b"b" * MIB)))
    yield Forgery("a name of 1 MiB", bare.adding((b"A" * MIB, b"b")))
    yield Forgery("a target of 1 MiB", bare.at(b"/" + b"a" * MIB))
    yield Forgery("a method of 1 MiB", Request(b"/", (), b"", b"A" * MIB))
    yield Forgery("invalid escapes", bare.at(b"/webhook/%zz%f%00%ff%c0%ae%u2215?%%%"))
    yield Forgery("control characters", bare.adding((b"User-Agent", b"\x1b[2J\x07\x9b31m")))
    chain = b",".join(b"127.0.0.1" for _ in range(700))
    yield Forgery("700 proxies", bare.adding((b"X-Forwarded-For", chain)))
    yield Forgery("a cookie jar", bare.adding((b"Cookie", b"a=b; " * 1500)))
    yield Forgery("ranges", bare.adding((b"Range", b"bytes=" + b"0-1," * 1500)))
    yield Forgery(
        "an upgrade", bare.adding((b"Upgrade", b"h2c"), (b"Connection", b"Upgrade, close"))
    )
    yield Forgery("a preface of HTTP/2", Request(b"*", (), b"SM\r\n\r\n", b"PRI"))


def _crumbs(count: int) -> bytes:
    return b"1\r\na\r\n" * count + b"0\r\n\r\n"


def believed() -> Iterator[Forgery]:
    """Signed by the provider, written by anybody: to be taken in or refused, but not feared."""
    for name, text in _texts():
        if "\udcff" not in text:
            sms = forged_sms.fresh_fields(Body=text[:5000])
            yield Forgery(f"SMS: {name}", forged_sms.honest(sms))
        fields = {**forged_mail.fresh_fields(), "stripped-text": text}
        yield Forgery(f"mail: {name}", _mail(fields))
        readable = text.replace("\udcff", "\ufffd")
        chat = forged_chat.fresh_document(content=readable[:100_000], group=readable[:100])
        yield Forgery(f"chat: {name}", forged_chat.posted(chat))
    for name, html in _pages():
        fields = {**forged_mail.fresh_fields(), "body-html": html}
        del fields["stripped-text"], fields["body-plain"]
        yield Forgery(f"HTML: {name}", _mail(fields))
    for name, mime in _messages():
        fields = {"sender": "a@example.com", "recipient": "b@example.com", "body-mime": mime}
        yield Forgery(f"MIME: {name}", _mail(fields))
    fields = {**forged_mail.fresh_fields(), "message-headers": "[" * 100_000}
    yield Forgery("mail: deeply nested header list", _mail(fields))
    pairs = orjson.dumps([["Message-Id", "<x>"]] * 50_000).decode()
    yield Forgery("mail: long header list", _mail({**fields, "message-headers": pairs}))
    files = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="f%d"; filename="../../../etc/passwd\\0"'
        b"\r\n\r\n%s\r\n" % (n, bytes(10))
        for n in range(900)
    )
    pairs_of = [*forged_mail.fresh_fields().items(), *forged_mail.proof().items()]
    body = forged_mail.as_multipart(pairs_of, ending=files + b"--x--\r\n")
    many = _mail({}).having(b"Content-Type", MULTIPART).carrying(body)
    yield Forgery("mail: 900 files", many)
    for name, document in _documents():
        yield Forgery(f"chat: {name}", forged_chat.honest().carrying(document))


def _mail(fields: dict[str, str]) -> Request:
    return forged_mail.posted([*fields.items(), *forged_mail.proof().items()], FORM)


def _texts() -> Iterator[tuple[str, str]]:
    yield "NUL bytes", "\0" * 100_000
    yield "control characters", "\x1b]0;x\x07\x1b[31m\u009b2J\u202e" * 10_000
    yield "surrogates in bytes", "\udcff" * 100_000
    yield "combining marks", "e" + "\u0301" * 100_000
    yield "what grows when folded", "\ufdfa" * 50_000
    yield "blanks", " \t\r\n" * 100_000 + "x"
    yield "emoji", "👩‍👩‍👧‍👦" * 20_000
    yield "template", "{{7*7}}${7*7}#{7*7}<%= 7*7 %>%s%n{0.__class__}" * 1000
    yield "markup", "<script>alert(1)</script><!ENTITY x SYSTEM 'file:///etc/passwd'>" * 1000
    yield "line separators", "\u2028\u2029\x85\x0b\x0c\r" * 10_000


def _pages() -> Iterator[tuple[str, str]]:
    yield "deeply nested", "<div>" * 200_000
    yield "never closed", "<" * 500_000
    yield "a long tag", "<a " + "b=c " * 200_000 + ">x"
    yield "comments", "<!--" * 200_000
    yield "declarations", "<![CDATA[" * 100_000
    yield "entities", "&amp" * 200_000 + "&#x110000;&#99999999999999999999;"
    yield "quotes", '<a href="' * 100_000
    yield "scripts", "<script>" * 100_000


def _messages() -> Iterator[tuple[str, str]]:
    head = "Content-Type: multipart/mixed; boundary="
    nested = "".join(f"{head}b{n}\r\n\r\n--b{n}\r\n" for n in range(2000))
    yield "nested parts", nested
    yield "nested messages", "Content-Type: message/rfc822\r\n\r\n" * 2000
    yield "many parts", f"{head}b\r\n\r\n" + "--b\r\n\r\nx\r\n" * 100_000
    yield "many headers", "A: b\r\n" * 300_000 + "\r\nx"
    yield "one long header", "Subject: " + "=?utf-8?q?=41?= " * 50_000 + "\r\n\r\nx"
    yield "folded header", "Subject: a" + "\r\n b" * 100_000 + "\r\n\r\nx"
    yield "parameters", "Content-Type: text/plain" + '; a="b' * 50_000 + "\r\n\r\nx"
    yield "odd charset", 'Content-Type: text/plain; charset="idna"\r\n\r\n' + "x" * 100_000
    yield "odd encoding", "Content-Transfer-Encoding: base64\r\n\r\n" + "A===" * 100_000
    yield (
        "quoted-printable",
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n" + "=\r\n" * 90_000,
    )
    yield "uuencode", "Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin 644 x\r\n" + "M" * 90_000
    yield "no end of line", "A" * 1_000_000
    yield "carriage returns", "\r" * 300_000


def _documents() -> Iterator[tuple[str, bytes]]:
    text = forged_chat.honest().body[1:]
    yield "nested lists", b'{"a":' + b"[" * 400_000
    yield "nested objects", b'{"a":' * 100_000
    yield "digits", b'{"a":' + b"9" * 900_000 + b"," + text
    yield "exponent", b'{"a":1e' + b"9" * 900_000 + b"," + text
    yield "fraction", b'{"a":0.' + b"1" * 900_000 + b"," + text
    yield "many names", b"{" + b"".join(b'"%d":0,' % n for n in range(60_000)) + text
    yield "escapes", b'{"a":"' + rb"\u0041" * 150_000 + b'",' + text
    yield "surrogate pairs", b'{"a":"' + rb"\ud83d\ude00" * 70_000 + b'",' + text
    yield "blanks", b" " * 900_000 + b"{" + text
