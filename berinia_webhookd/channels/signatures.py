"""Signatures of Twilio and Mailgun, computed as they document it and compared in constant time.

A matching signature alone proves too little, so channels check more: neither scheme separates the
parts that it signs, and Mailgun's does not cover the body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from typing import Final
from urllib.parse import parse_qsl

from twilio.request_validator import RequestValidator

from berinia_webhookd.addresses import split_port
from berinia_webhookd.channels.hashes import Hash

_BODY_DIGEST = "bodySHA256"
# No user-info, path or query, which would become part of a URL that we trust.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")

# From either end, because the text of a mail may hold the same words.
_OCCURRENCES: Final = 32
_CANDIDATES: Final = 4
_NAMES: Final = ("timestamp", "token", "signature")
_VALUES: Final = {"timestamp": b"[0-9]{10}", "token": b"[0-9A-Za-z]{50}", "signature": b"[^&\r\n]+"}
_HEX_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_BYTES: Final = 2000  # of a part's head and the value
_PART_HEAD: Final = rb'"?[^\n]*\n(?:[^\r\n]+\r?\n)*\r?\n'


def port_forms(base_url: str) -> tuple[str, str]:
    """Return `scheme://host[:port]` without user-info, as written and in its other port form: with
    the scheme's default port if it has none, without a port if it has one.

    Nothing else is normalised, because signatures cover what was written.
    """
    scheme, separator, authority = base_url.rstrip("/").partition("://")
    authority = authority.rpartition("@")[2]
    host, port = split_port(authority)
    if port is None:
        port = "443" if scheme.lower() == "https" else "80"
        host = f"{host}:{port}"
    return f"{scheme}{separator}{authority}", f"{scheme}{separator}{host}"


def is_plain(authority: str) -> bool:
    """Whether a `Host` header is a host name or address, with or without a port."""
    return _PLAIN.fullmatch(authority) is not None


class TwilioKeys:
    """The Auth Tokens that are accepted: several during a rotation.

    https://www.twilio.com/docs/usage/security: HMAC-SHA1 over the URL, then every field sorted by
    name, name and value without separators (of a name that repeats its different values, sorted);
    Base64. We sign with twilio's own `RequestValidator`, but its `validate` signs twice for each
    URL and compares in Python, so `match` joins the fields once for all URLs and tokens.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = tuple(tokens)
        self._keyed = tuple(_keyed(token.encode()) for token in self._tokens)

    def signature(self, url: str, fields: Iterable[tuple[str, str]]) -> str:
        """Sign form fields with the first token."""
        values = _Values()
        for name, value in fields:
            values.setdefault(name, []).append(value)
        return str(RequestValidator(self._tokens[0]).compute_signature(url, values))

    def match(self, signature: str, urls: Iterable[str], fields: Sequence[tuple[str, str]]) -> bool:
        """Whether any token signed any of the URLs, likeliest first, with these fields."""
        return self.match_text(signature, urls, signed_text(fields))

    def match_text(self, signature: str, urls: Iterable[str], signed: str) -> bool:
        """Whether any token signed any of the URLs with fields of this `signed_text`.

        All tokens are tried on a URL, so that the time does not tell which one matched. Fields that
        are not UTF-8 match nothing: Twilio cannot have signed them.
        """
        presented = _presented(signature)
        try:
            encoded = signed.encode()
            for url in urls:
                if self._match_one(presented, url.encode() + encoded):
                    return True
        except UnicodeEncodeError:  # lone surrogates stand for bytes that are not UTF-8
            return False
        return False

    def _match_one(self, presented: bytes, message: bytes) -> bool:
        matches = False
        for keyed_inner, keyed_outer in self._keyed:
            inner, outer = keyed_inner.copy(), keyed_outer.copy()
            inner.update(message)
            outer.update(inner.digest())
            matches |= hmac.compare_digest(b2a_base64(outer.digest(), newline=False), presented)
        return matches


def _keyed(key: bytes) -> tuple[Hash, Hash]:
    """Return the inner and outer hash of an HMAC-SHA1 (RFC 2104) that have taken in the key: copies
    of them cost less than one of an `hmac.HMAC`, and much less than a key schedule.
    """
    inner = hashlib.sha1()  # noqa: S324 # nosec B324
    if len(key) > inner.block_size:
        key = hashlib.sha1(key).digest()  # noqa: S324 # nosec B324
    key = key.ljust(inner.block_size, b"\0")
    outer = inner.copy()
    inner.update(bytes(byte ^ 0x36 for byte in key))
    outer.update(bytes(byte ^ 0x5C for byte in key))
    return inner, outer


def signed_text(fields: Sequence[tuple[str, str]]) -> str:
    """Return names and values as Twilio signs them after the URL."""
    return "".join(chain.from_iterable(in_signing_order(fields)))


def in_signing_order(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs sorted by name, then value, each once."""
    distinct = set(fields)
    return sorted(distinct if len(distinct) < len(fields) else fields)


class _Values(dict[str, list[str]]):
    """Fields in the shape that twilio's validator expects of a web framework."""

    def getall(self, name: str) -> list[str]:
        return self[name]


def body_digest_holds(target: str, body: bytes) -> bool:
    """Whether the body has the digest that the URL carries, if it carries one.

    Twilio signs bodies other than forms by adding `bodySHA256`, lower-case hex, to the query:
    https://www.twilio.com/docs/usage/security#validation-using-bodysha256. Without it the form
    fields are signed.
    """
    if _BODY_DIGEST not in target:
        return True
    query = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    expected = hashlib.sha256(body).hexdigest().encode()
    digests = (_presented(value) for name, value in query if name == _BODY_DIGEST)
    return all(hmac.compare_digest(expected, digest) for digest in digests)


def mailgun_signature(key: str, timestamp: str, token: str) -> str:
    """Return the HMAC-SHA256 over timestamp and token in lower-case hex; no body is covered.

    https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
    """
    message = _presented(timestamp + token)
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def mailgun_match(keys: Sequence[str], signature: str, timestamp: str, token: str) -> bool:
    """Whether any key signed it; all are tried, so that the time tells nothing."""
    presented = _presented(signature)
    matches = False
    for key in keys:
        expected = mailgun_signature(key, timestamp, token).encode()
        matches |= hmac.compare_digest(expected, presented)
    return matches


def may_be_signed(keys: Sequence[str], body: bytes, *, multipart: bool) -> bool:
    """Whether a body holds a time stamp, a token and a signature that match.

    It searches the bytes, because reading a form takes many times as long, too long for a flood of
    unsigned mails. False means that the body is not signed; True proves nothing.
    """
    found = [_candidates(body, name, multipart=multipart) for name in _NAMES]
    return any(
        mailgun_match(keys, signature, timestamp, token)
        for timestamp, token, signature in product(*found)
    )


def resembles_mailgun(body: bytes, *, multipart: bool) -> bool:
    """Whether a body holds a time stamp, a token and a signature of the right shape."""
    found = {name: _candidates(body, name, multipart=multipart) for name in _NAMES}
    return all(found.values()) and any(map(_HEX_SHA256.fullmatch, found["signature"]))


def _candidates(body: bytes, name: str, *, multipart: bool) -> list[str]:
    """Return the possible values of a field: of many, the first and the last ones."""
    between = _PART_HEAD if multipart else b""
    value = re.compile(between + b"(" + _VALUES[name] + b")(?![0-9A-Za-z])")
    needle = f"name={name}" if multipart else f"{name}="
    needles = [needle.encode()]
    if multipart:
        needles.insert(0, f'name="{name}"'.encode())
    for spelling in needles:
        values: dict[str, None] = {}
        for position in _occurrences(body, spelling):
            match = value.match(body[position : position + _LONGEST_BYTES])
            if match is not None:
                values[match[1].decode("utf-8", "replace")] = None
        if values:
            kept = list(values)
            return (
                kept if len(kept) <= 2 * _CANDIDATES else kept[:_CANDIDATES] + kept[-_CANDIDATES:]
            )
    return []


def _occurrences(body: bytes, needle: bytes) -> Iterator[int]:
    """Yield the ends of the first and of the last occurrences."""
    first = list(_search(body, needle))
    yield from first
    if len(first) == _OCCURRENCES:
        yield from _search_back(body, needle)


def _search(body: bytes, needle: bytes) -> Iterator[int]:
    position = -1
    for _ in range(_OCCURRENCES):
        position = body.find(needle, position + 1)
        if position < 0:
            return
        yield position + len(needle)


def _search_back(body: bytes, needle: bytes) -> Iterator[int]:
    position = len(body)
    for _ in range(_OCCURRENCES):
        position = body.rfind(needle, 0, position)
        if position < 0:
            return
        yield position + len(needle)


def secret_match(secret: str, presented: str) -> bool:
    """Whether a shared secret was presented."""
    return hmac.compare_digest(secret.encode(), _presented(presented))


def _presented(text: str) -> bytes:
    """Encode what a caller sent: `compare_digest` raises on text beyond ASCII."""
    return text.encode("utf-8", "surrogatepass")
