"""Forgeries of Twilio's callbacks: a captured, correctly signed message, altered in every way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import secrets
from collections.abc import Iterator, Sequence
from urllib.parse import quote, urlencode

import orjson

from tests.channels.deliveries import PUBLIC_URL, SMS_FIELDS, SMS_PATH, TOKEN, twilio_signs

from .wire import FORM, Forgery, Request, as_headers

Pairs = Sequence[tuple[str, str]]
PATH = SMS_PATH.encode()
SIGNATURE = b"X-Twilio-Signature"


def fresh_fields(**changes: str) -> list[tuple[str, str]]:
    """The fields of a message that was never sent before."""
    sid = f"SM{secrets.token_hex(16)}"
    sids = {"MessageSid": sid, "SmsMessageSid": sid, "SmsSid": sid}
    return list({**SMS_FIELDS, **sids, **changes}.items())


# What the daemon acts on: elsewhere a boundary may lie where it likes.
TOUCHED = frozenset({"From", "To", "Body", "MessageSid", "AccountSid"})


def encoded(pairs: Pairs) -> bytes:
    return urlencode(pairs, errors="surrogateescape").encode()


def honest(pairs: Pairs | None = None, *, url: str = PUBLIC_URL + SMS_PATH) -> Request:
    """What Twilio sends."""
    pairs = fresh_fields() if pairs is None else pairs
    headers = {"Content-Type": FORM.decode(), SIGNATURE.decode(): twilio_signs(pairs, url)}
    return Request(PATH, as_headers(headers), encoded(pairs))


def fields() -> Iterator[Forgery]:
    """Each field changed, added, removed, repeated, renamed, moved across its boundaries."""
    pairs = fresh_fields(Body="Oui, rappelez-moi demain")
    request = honest(pairs)
    for place, (name, value) in enumerate(pairs):
        moved = _moved(name, value) if name in TOUCHED else ()
        for how, instead in itertools.chain(_instead_of(name, value), moved):
            altered = [*pairs[:place], *instead, *pairs[place + 1 :]]
            yield Forgery(f"{name}: {how}", request.carrying(encoded(altered)))
    for name in ("Evil", "", "from", "OptOutType", "MediaUrl0", "Body2", "\x00", "é"):
        for value in ("", "STOP"):
            altered = [*pairs, (name, value)]
            if name or value:
                yield Forgery(f"added {name!r}", request.carrying(encoded(altered)))
    yield Forgery("no fields", request.carrying(b""))


def _instead_of(name: str, value: str) -> Iterator[tuple[str, Pairs]]:
    yield "changed", [(name, value + "x")]
    yield "removed", []
    yield "repeated", [(name, value), (name, value)]
    yield "repeated with another value behind", [(name, value), (name, value + "1")]
    yield "repeated with another value before", [(name, "1"), (name, value)]
    yield "name in another letter case", [(name.swapcase(), value)]
    yield "name with a blank", [(name + " ", value)]
    yield "name with a NUL", [(name + "\0", value)]
    yield "blank before", [(name, " " + value)]
    yield "blank behind", [(name, value + " ")]
    yield "line end behind", [(name, value + "\r\n")]
    yield "byte that is not UTF-8 behind", [(name, value + "\udcff")]
    yield "invisible character behind", [(name, value + "\u200b")]
    yield "encoded twice", [(name, quote(value or " ", safe=""))] if _has_escapes(value) else []
    if value:
        yield "emptied", [(name, "")]
        yield "full-width characters", [(name, "".join(map(_full_width, value)))]


def _moved(name: str, value: str) -> Iterator[tuple[str, Pairs]]:
    yield "boundary to the left", [(name[:-1], name[-1] + value)]
    yield "boundary to the right", [(name + value[0], value[1:])]
    yield "all in the name", [(name + value, "")]
    yield "cut in two", [(name, value[:1]), (value[1:] or "1", "")]


def _has_escapes(value: str) -> bool:
    return quote(value or " ", safe="") != value


def _full_width(character: str) -> str:
    is_plain = "!" <= character <= "~"
    return chr(ord(character) + 0xFEE0) if is_plain else "\u3000"


def glued() -> Iterator[Forgery]:
    """Two neighbours in the order of signing made one, and one made two: the signature holds."""
    pairs = sorted(fresh_fields())
    request = honest(pairs)
    for place in range(len(pairs) - 1):
        (name, value), (next_name, next_value) = pairs[place : place + 2]
        if not TOUCHED & {name, next_name}:
            continue
        one = [(name, value + next_name + next_value)]
        altered = [*pairs[:place], *one, *pairs[place + 2 :]]
        yield Forgery(f"{next_name} glued to {name}", request.carrying(encoded(altered)))
        one = [(name + value + next_name, next_value)]
        altered = [*pairs[:place], *one, *pairs[place + 2 :]]
        yield Forgery(f"{name} glued into a name", request.carrying(encoded(altered)))
    url = PUBLIC_URL + SMS_PATH
    name, value = pairs[0]
    moved = honest(pairs, url=url).at(f"{SMS_PATH}{name}{value}".encode())
    yield Forgery("a field in the path", moved.carrying(encoded(pairs[1:])))
    # A sender may choose his text so that its end passes for a field.
    for text in ("+33639980000", "SM" + "0" * 32, "x"):
        for name in ("From", "CallSid", "DateSid", "Body"):
            chosen = fresh_fields(Body=f"oui{name}{text}")
            cut = [(n, "oui" if n == "Body" else v) for n, v in chosen] + [(name, text)]
            if name.endswith("Sid") and text.startswith("SM"):
                continue  # then it is well-formed, and still the same text of the same sender
            yield Forgery(
                f"{name} cut out of the text", honest(chosen).carrying(encoded(sorted(cut)))
            )


def signatures() -> Iterator[Forgery]:
    """Everything a header can say but the right thing."""
    pairs = fresh_fields()
    request = honest(pairs)
    good = twilio_signs(pairs).encode()
    yield Forgery("no signature", request.without(SIGNATURE))
    for length in range(len(good)):
        yield Forgery(f"truncated to {length}", request.having(SIGNATURE, good[:length]))
    for place in range(len(good) - 1):
        flipped = b"A" if good[place : place + 1] != b"A" else b"B"
        wrong = good[:place] + flipped + good[place + 1 :]
        yield Forgery(f"character {place} changed", request.having(SIGNATURE, wrong))
    for name, wrong in _wrong_signatures(pairs, good):
        yield Forgery(name, request.having(SIGNATURE, wrong))
    yield Forgery("wrong before right", request.having(SIGNATURE, b"A" * 28, good))
    yield Forgery("empty before right", request.having(SIGNATURE, b"", good))
    for header in (b"X-Twilio_Signature", b"X_Twilio_Signature", b"Twilio-Signature", b"Signature"):
        yield Forgery(f"in {header.decode()}", request.without(SIGNATURE).adding((header, good)))


def _wrong_signatures(pairs: Pairs, good: bytes) -> Iterator[tuple[str, bytes]]:
    digest = base64.b64decode(good)
    url = PUBLIC_URL + SMS_PATH
    for token in ("f" * 32, "", TOKEN.upper(), TOKEN[:-1], TOKEN + " ", "None"):
        yield f"by the token {token!r}", twilio_signs(pairs, token=token).encode()
    for other in (
        *("http://app.example.com" + SMS_PATH, "https://evil.example.com" + SMS_PATH),
        *(url + "/", url + "?", url.upper(), "https://app.example.com:8001" + SMS_PATH),
        *("https://user:pass@app.example.com" + SMS_PATH, SMS_PATH, "", PUBLIC_URL),
        *(PUBLIC_URL + "/webhook/email-response", "https://app.example.com." + SMS_PATH),
    ):
        yield f"over {other!r}", twilio_signs(pairs, other).encode()
    yield "over the URL alone", twilio_signs([]).encode()
    message = (url + "".join(name + value for name, value in sorted(pairs))).encode()
    sha256 = hmac.new(TOKEN.encode(), message, hashlib.sha256).digest()
    yield "by SHA-256", base64.b64encode(sha256)
    yield "without a key", base64.b64encode(hashlib.sha1(message).digest())
    yield (
        "over the body",
        base64.b64encode(hmac.new(TOKEN.encode(), encoded(pairs), hashlib.sha1).digest()),
    )
    yield "in hex", digest.hex().encode()
    yield "in hex, upper case", digest.hex().upper().encode()
    yield "in Base32", base64.b32encode(digest)
    yield "case swapped", good.swapcase()
    yield "without padding", good.rstrip(b"=")
    yield "with more padding", good + b"="
    yield "twice", good + good
    yield "in quotes", b'"' + good + b'"'
    yield "with a scheme", b"Bearer " + good
    yield "in a list", b"wrong, " + good
    yield "blank inside", good[:14] + b" " + good[14:]
    yield "bytes beyond ASCII", b"\xff" * 28
    yield "emoji", "🙂".encode() * 7
    yield "right, then beyond ASCII", good + b"\xc3\xa9"
    yield "percent-encoded", quote(good, safe="").encode().replace(b"%3D", b"%3d")
    yield "very long", b"A" * 8_000
    yield "too long for a header", b"A" * 9_000
    yield "blank", b" "
    yield "JSON", b'{"$ne": null}'
    yield "null", b"null"


def targets() -> Iterator[Forgery]:
    """Other spellings of the path, each signed for the one that Twilio called."""
    request = honest()
    for place in range(len(PATH)):
        character = PATH[place : place + 1]
        before, after = PATH[:place], PATH[place + 1 :]
        yield Forgery(f"escaped at {place}", request.at(before + b"%%%02x" % character[0] + after))
        if character.isalpha():
            yield Forgery(f"case at {place}", request.at(before + character.swapcase() + after))
        yield Forgery(f"doubled at {place}", request.at(before + character * 2 + after))
    for suffix in (
        *(b"?", b"?a=1", b"/", b"//", b"/.", b"/..", b";a=1", b"%20", b"%00", b"%0d%0a", b"."),
        *(b"?bodySHA256=0", b"%3f", b"?" + request.body, b"/../sms-response", b"%2f", b"\xff"),
    ):
        yield Forgery(f"{suffix[:20]!r} behind", request.at(PATH + suffix))
    for target in (
        *(b"/." + PATH, b"/x/.." + PATH, b"\\webhook\\sms-response", PATH[1:], b"*", b"/"),
        *(b"http://evil.example.com" + PATH, b"https://app.example.com/x", b"http:" + PATH),
        *(b"https://user:pass@app.example.com//", b"//app.example.com" + PATH, b"/webhook"),
    ):
        yield Forgery(f"target {target!r}", request.at(target))


def media() -> Iterator[Forgery]:
    """The same fields in another shape, and bodies that only one side would read as a form."""
    pairs = fresh_fields()
    request = honest(pairs)
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (n.encode(), v.encode())
        for n, v in pairs
    )
    document = orjson.dumps(dict(pairs))
    for content_type, body in (
        (b"application/json", document),
        (FORM, document),
        (b"multipart/form-data; boundary=x", parts + b"--x--\r\n"),
        (FORM, parts + b"--x--\r\n"),
        (b"text/plain", request.body),
        (b"text/xml", request.body),
        (b"application/x-www-form-urlencoded2", request.body),
        (b"", request.body),
        (b"multipart/form-data; boundary=x, application/x-www-form-urlencoded", request.body),
        (FORM + b"; charset=utf-16", request.body.decode().encode("utf-16")),
        (FORM + b"; charset=utf-7", request.body.replace(b"%2B", b"+AC0-")),
        (FORM + b"; charset=cp500", request.body.decode().encode("cp500")),
        (FORM, b"\xef\xbb\xbf" + request.body),
        (FORM, request.body.replace(b"&", b";")),
        (FORM, request.body.replace(b"=", b"%3D")),
        (FORM, request.body.replace(b"&", b"%26")),
        (FORM, request.body.replace(b"&", b"\r\n")),
        (FORM, request.body + b"\r\n"),
        (FORM, request.body + b"&%"),
        (FORM, request.body + b"&="[:1] + b"a"),
        (FORM, b"\0" + request.body),
        (FORM, request.body + b"\0"),
        (FORM, request.body * 2),
        (FORM, request.body + b"&" + request.body),
    ):
        yield Forgery(
            f"as {content_type.decode()}: {body[:12]!r}",
            request.having(b"Content-Type", content_type).carrying(body),
        )
    for method in (b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD", b"post", b"TRACE"):
        yield Forgery(f"method {method.decode()}", Request(PATH, request.headers, b"", method))


def unclaimed_hosts() -> Iterator[Forgery]:
    """For a daemon without `public_url`: a message signed for another URL than it is asked at."""
    https = (b"X-Forwarded-Proto", b"https")
    client = (b"X-Forwarded-For", b"203.0.113.9")
    request = honest().adding(client)
    for host in (
        *(b"evil.example.com", b"App.example.com", b"app.example.com."),
        *(b"app.example.com:x", b"user@app.example.com:1", b"[::1]"),
        *(b"app.example.com, evil", b"app.example.com/", b"app.example.com#", b"app.example.com?"),
        *(b"evil.example.com@", b"xn--app-.example.com", b"", b"app%2eexample.com", b"localhost"),
        *(
            b"\xc3\xa4pp.example.com",
            b"app.example.com\\",
            b"127.0.0.1",
            b"https://app.example.com",
        ),
    ):
        yield Forgery(f"Host {host!r}", request.adding(https).having(b"Host", host))
    proper = request.having(b"Host", b"app.example.com")
    for proto in (b"http", b"https, http", b"httpss", b"on", b"", b"wss", b"https;", b'"https"'):
        yield Forgery(f"scheme {proto!r}", proper.having(b"X-Forwarded-Proto", proto))
    yield Forgery("no scheme", proper)
    elsewhere = request.adding(https).having(b"Host", b"evil.example.com")
    for name, value in (
        *((b"X-Forwarded-Host", b"app.example.com"), (b"X-Host", b"app.example.com")),
        *((b"Forwarded", b"host=app.example.com;proto=https"), (b"X-Forwarded-Port", b"443")),
        *((b"X-Forwarded-Server", b"app.example.com"), (b"X-Original-Host", b"app.example.com")),
        *((b"X-Original-URL", PATH), (b"X-Rewrite-URL", PATH), (b"X-Forwarded-Prefix", b"/a")),
    ):
        yield Forgery(f"{name.decode()} instead of Host", elsewhere.adding((name, value)))
    for name in (b"X-Forwarded-Ssl", b"Front-End-Https", b"X-Url-Scheme", b"X-Forwarded-Scheme"):
        yield Forgery(f"{name.decode()} instead of proto", proper.adding((name, b"on")))
    yield Forgery("Host twice", proper.adding(https, (b"Host", b"evil.example.com")))
