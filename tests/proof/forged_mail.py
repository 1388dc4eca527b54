"""Forgeries of Mailgun's callbacks. Its signature covers a time stamp and a token, never the mail:
what is altered here is the proof itself, or the mail behind a proof that was used before.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

import orjson

from tests.channels.deliveries import EMAIL_PATH, MAIL_FIELDS, MAILGUN_KEY, mailgun_signs

from .wire import FORM, Forgery, Request

Pairs = Sequence[tuple[str, str]]
PATH = EMAIL_PATH.encode()
# What makes a mail another mail; the rest may differ in a repetition.
IDENTIFYING = ("recipient", "sender", "subject", "stripped-text", "Message-Id", "Date")
HALF_A_DAY = 43_200


def proof(*, age_seconds: int = 0, key: str = MAILGUN_KEY) -> dict[str, str]:
    """The three fields, never used before."""
    stamp = str(int(time.time()) - age_seconds)
    return mailgun_signs(timestamp=stamp, token=secrets.token_hex(25), key=key)


def fresh_fields() -> dict[str, str]:
    """A mail that was never sent before."""
    return {**MAIL_FIELDS, "Message-Id": f"<{secrets.token_hex(8)}@example.com>"}


def posted(pairs: Pairs, content_type: bytes = FORM) -> Request:
    body = urlencode(pairs, errors="surrogateescape").encode()
    return Request(PATH, ((b"Content-Type", content_type),), body)


def honest() -> Request:
    """What Mailgun sends."""
    return posted([*fresh_fields().items(), *proof().items()])


def as_multipart(pairs: Pairs, *, ending: bytes = b"--x--\r\n") -> bytes:
    return (
        b"".join(
            f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
            + value.encode("utf-8", "surrogateescape")
            + b"\r\n"
            for name, value in pairs
        )
        + ending
    )


def used_proofs() -> tuple[Request, list[Forgery]]:
    """A mail, and others that come behind its proof once it was used."""
    fields, signed = fresh_fields(), proof()
    original = posted([*fields.items(), *signed.items()])
    forgeries = []
    for name in IDENTIFYING:
        for how, value in _other_values(fields[name]):
            pairs = [*{**fields, name: value}.items(), *signed.items()]
            forgeries.append(Forgery(f"{name} {how}", posted(pairs)))
        rest = {n: v for n, v in fields.items() if n != name}
        pairs = [*rest.items(), *signed.items()]
        forgeries.append(Forgery(f"{name} removed", posted(pairs)))
        before = [(name, "other"), *fields.items(), *signed.items()]
        forgeries.append(Forgery(f"another {name} before", posted(before)))
    other = [*fresh_fields().items(), *signed.items()]
    multipart = b"multipart/form-data; boundary=x"
    another = posted(other, multipart).carrying(as_multipart(other))
    forgeries.append(Forgery("another mail", posted(other)))
    forgeries.append(Forgery("another mail, multipart", another))
    ahead = [*signed.items(), *fresh_fields().items()]
    forgeries.append(Forgery("another mail, proof first", posted(ahead)))
    raw = [("sender", "a@example.com"), ("recipient", "b@example.com")]
    raw += [("body-mime", "Subject: x\r\n\r\nx"), *signed.items()]
    forgeries.append(Forgery("a raw message", posted(raw)))
    return original, forgeries


def _other_values(value: str) -> Iterator[tuple[str, str]]:
    yield "changed", value + "x"
    yield "emptied", ""
    yield "with a blank behind", value + " ."
    yield "with a byte that is not UTF-8", value + "\udcff"
    yield "with a NUL", value + "\0"
    yield "with a line more", value + "\r\nBcc: c@example.com"
    yield "with a look-alike", value.replace("e", "\u0435").replace("0", "O") + "\u200b"


def proofs() -> Iterator[Forgery]:
    """Each of the three fields changed, removed, renamed, moved, stale, by another key."""
    signed = proof()
    for name, value in signed.items():
        for how, instead in _instead_of(name, value):
            others = [(n, v) for n, v in signed.items() if n != name]
            pairs = [*fresh_fields().items(), *others, *instead]
            yield Forgery(f"{name} {how}", posted(pairs))
    for how, wrong in _wrong_proofs():
        yield Forgery(how, posted([*fresh_fields().items(), *wrong.items()]))
    signature = signed["signature"]
    for length in range(0, len(signature), 3):
        cut = {**signed, "signature": signature[:length]}
        yield Forgery(f"truncated to {length}", posted([*fresh_fields().items(), *cut.items()]))
    in_query = posted(list(fresh_fields().items()))
    yield Forgery("in the query", in_query.at(PATH + b"?" + urlencode(signed).encode()))
    in_head = tuple((n.encode(), v.encode()) for n, v in signed.items())
    yield Forgery("in headers", in_query.adding(*in_head))
    document = {**fresh_fields(), "signature": signed}  # the form of Mailgun's other webhooks
    as_json = posted([]).having(b"Content-Type", b"application/json")
    yield Forgery("as JSON", as_json.carrying(orjson.dumps(document)))
    yield Forgery("JSON as a form", posted([]).carrying(orjson.dumps(document)))


def _instead_of(name: str, value: str) -> Iterator[tuple[str, Pairs]]:
    yield "removed", []
    yield "emptied", [(name, "")]
    yield "changed", [(name, ("0" if value[0] != "0" else "1") + value[1:])]
    yield "upper case", [(name, value.upper() + "A")]
    yield "longer", [(name, value + "0")]
    yield "very long", [(name, value * 1000)]
    yield "blank before", [(name, " " + value)]
    yield "blank behind", [(name, value + " ")]
    yield "line end behind", [(name, value + "\n")]
    yield "NUL behind", [(name, value + "\0")]
    yield "beyond ASCII", [(name, "é" * 32)]
    yield "not UTF-8", [(name, value[:-1] + "\udce9")]
    yield "full-width", [(name, "".join(chr(ord(c) + 0xFEE0) for c in value))]
    yield "in another letter case", [(name.upper(), value)]
    yield "as a list", [(name + "[]", value)]
    yield "as a member", [(f"signature[{name}]", value)]
    yield "with another behind", [(name, value), (name, "0" * len(value))]


def _wrong_proofs() -> Iterator[tuple[str, dict[str, str]]]:
    for key in ("key-other", "", "key-", MAILGUN_KEY.removeprefix("key-"), MAILGUN_KEY.upper()):
        yield f"by the key {key[:4]!r} of {len(key)}", proof(key=key)
    for age in (HALF_A_DAY + 60, 86_400, 31_536_000, 10**9):
        yield f"{age} s old", proof(age_seconds=age)
    for ahead in (360, 3600, 86_400, 10**9):
        yield f"{ahead} s ahead", proof(age_seconds=-ahead)
    now = str(int(time.time()))
    stamps = ["-" + now[1:], "+" + now, now + ".0", now[:-1], now + "0", "0" + now, "0x6a000000"]
    stamps += ["1e9", "nan", "inf", "", " " + now, now + "\n", "９" * 10, "²" * 10, "٣" * 10, "now"]
    stamps += ["0000000000", "9999999999", now[:5] + "_" + now[6:], now[:4] + "," + now[5:]]
    for stamp in stamps:
        yield (
            f"signed time stamp {stamp!r}",
            mailgun_signs(timestamp=stamp, token=secrets.token_hex(25)),
        )
    for token in ("", "a" * 49, "a" * 51, "a" * 49 + "-", "a" * 49 + "\n", "é" * 50, "a" * 5000):
        yield f"signed token of {len(token)}", mailgun_signs(timestamp=now, token=token)
    signed = proof()
    stamp, token = signed["timestamp"], signed["token"]
    yield "boundary to the left", {**signed, "timestamp": stamp[:-1], "token": stamp[-1] + token}
    yield "boundary to the right", {**signed, "timestamp": stamp + token[0], "token": token[1:]}
    whole = (stamp + token).encode()
    yield "upper case hex", {**signed, "signature": signed["signature"].upper()}
    yield "without a key", {**signed, "signature": hashlib.sha256(whole).hexdigest()}
    for name in ("sha1", "md5", "sha512", "sha3_256"):
        other = hmac.new(MAILGUN_KEY.encode(), whole, name).hexdigest()
        yield f"by {name}", {**signed, "signature": other}
    swapped = hmac.new(MAILGUN_KEY.encode(), (token + stamp).encode(), "sha256").hexdigest()
    yield "token first", {**signed, "signature": swapped}
    yield "twice", {**signed, "signature": signed["signature"] * 2}
    yield "swapped", {**signed, "timestamp": token, "token": stamp}


def media() -> Iterator[Forgery]:
    """Multipart that is cut off, has no boundary or hides the proof; other types; charsets."""
    pairs = [*fresh_fields().items(), *proof().items()]
    body = as_multipart(pairs)
    multipart = b"multipart/form-data; boundary="
    quoted = body.replace(b'name="token"', b'name="token"; filename="token"')
    for content_type, sent in (
        (multipart + b"y", body),
        (multipart, body),
        (b"multipart/form-data", body),
        (multipart + b'"x', body),
        (b"multipart/mixed; boundary=x", body),
        (FORM, body),
        (multipart + b"x", posted(pairs).body),
        (multipart + b"x", as_multipart(pairs, ending=b"")),
        (multipart + b"x", as_multipart(pairs, ending=b"--x")),
        (multipart + b"x", body[: len(body) // 2]),
        (multipart + b"x", body.replace(b"\r\n", b"\n")),
        (multipart + b"x", quoted),
        (multipart + b"x", body.replace(b'name="signature"', b'name="Signature"')),
        (multipart + b"x", body.replace(b"form-data; name", b"attachment; name")),
        (multipart + b"x", body.replace(b'name="timestamp"', b"name*=utf-8''timestamp")),
        (b"text/plain", posted(pairs).body),
        (b"message/rfc822", posted(pairs).body),
        (b"", posted(pairs).body),
        (FORM + b"; charset=utf-16", posted(pairs).body.decode().encode("utf-16")),
        (FORM, posted(pairs).body.replace(b"&", b";")),
    ):
        request = posted([]).having(b"Content-Type", content_type).carrying(sent)
        yield Forgery(f"as {content_type.decode()}: {sent[:10]!r}", request)
