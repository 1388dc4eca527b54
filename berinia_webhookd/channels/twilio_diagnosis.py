"""Diagnoses a failed Twilio signature: tries the likely mistakes of an installation, one or two at
a time, and names the setting or nginx line to change. It accepts nothing, and shows neither the
signature nor a value of the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Generic, TypeVar

from berinia_webhookd.addresses import is_loopback, split_port
from berinia_webhookd.channels.signatures import TwilioKeys, port_forms
from berinia_webhookd.errors import DeliveryRejected
from berinia_webhookd.model import ChannelName, RawDelivery
from berinia_webhookd.urlencoded import Fields, decode_urlencoded

# Base64 of a SHA-1.
SIGNATURE_SHAPE = re.compile(r"[A-Za-z0-9+/]{27}=")
# Callbacks have a few kilobytes, and every guess signs all of the body.
_MAX_BODY_BYTES: Final = 65_536
_MAX_MISTAKES: Final = 2
# The likely white space around a message; the rest of what typing and pasting leave there is tried
# only alone, because each further mistake multiplies the guesses.
_LIKELY_PADDINGS: Final = (("", " "), (" ", ""), ("", "\n"))
_PADDINGS: Final = tuple(product(("", " ", "  "), ("", " ", "  ", "\n")))[1:]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Guess(Generic[_T]):
    """A part of what may have been signed, and what to change if it was; None: as it arrived."""

    value: _T
    remedy: str | None = None
    alone: bool = False  # not tried together with another mistake


def diagnose(
    delivery: RawDelivery,
    *,
    channel: ChannelName,
    signature: str,
    tokens: Sequence[str],
    public_urls: Sequence[str],
) -> str | None:
    """Return which URL and fields would have verified and what to change, in one line."""
    if not SIGNATURE_SHAPE.fullmatch(signature) or len(delivery.body) > _MAX_BODY_BYTES:
        return None
    try:
        fields = decode_urlencoded(delivery.body)
    except DeliveryRejected:
        return None
    guesses = product(
        _bases(delivery, public_urls), _targets(delivery), _fields(fields), _tokens(channel, tokens)
    )
    for base, target, form, keys in sorted(guesses, key=lambda guess: _mistakes(*guess)):
        if not 0 < _mistakes(base, target, form, keys) <= _MAX_MISTAKES:
            continue
        remedies = [g.remedy for g in (base, target, form, keys) if g.remedy is not None]
        urls = (form_of_base + target.value for form_of_base in port_forms(base.value))
        if TwilioKeys(keys.value).match(signature, urls, form.value):
            url = base.value + target.value.partition("?")[0]
            return f"signed for {url}: {'; '.join(remedies)}"
    return _unproven(delivery, public_urls)


def _mistakes(*guesses: _Guess[Any]) -> int:
    """Count the mistakes; one that is tried alone counts as the maximum."""
    weights = (_MAX_MISTAKES if guess.alone else 1 for guess in guesses if guess.remedy is not None)
    return sum(weights)


def _bases(delivery: RawDelivery, public_urls: Sequence[str]) -> Iterator[_Guess[str]]:
    """Yield scheme and host: as we took them, then as other headers of the request have them."""
    caller = delivery.caller
    taken = list(public_urls) or [f"{caller.scheme}://{caller.host}"]
    yield from (_Guess(port_forms(url)[0]) for url in taken)
    seen = {port_forms(url)[0] for url in taken}
    for url, remedy in _other_bases(delivery, taken, public_url_is_set=bool(public_urls)):
        if url not in seen:
            seen.add(url)
            yield _Guess(url, remedy)


def _other_bases(
    delivery: RawDelivery, taken: Sequence[str], *, public_url_is_set: bool
) -> Iterator[tuple[str, str]]:
    host = delivery.caller.host
    for url in taken:
        other = _other_scheme(url)
        yield other, _scheme_remedy(delivery, other, public_url_is_set=public_url_is_set)
    if public_url_is_set:
        for scheme in ("https", "http"):
            url = f"{scheme}://{host}"
            yield url, f'set server.public_url = "{url}", as Twilio calls it'
    for other_host in _other_hosts(delivery):
        for scheme in ("https", "http"):
            url = f"{scheme}://{other_host}"
            line = (
                f'set server.public_url = "{url}"'
                if public_url_is_set
                else (
                    "nginx hides the host that Twilio called: `proxy_set_header Host $http_host;` "
                    f'(or set server.public_url = "{url}")'
                )
            )
            yield url, line


def _other_scheme(url: str) -> str:
    scheme, _, rest = port_forms(url)[0].partition("://")
    return f"{'http' if scheme == 'https' else 'https'}://{rest}"


def _scheme_remedy(delivery: RawDelivery, url: str, *, public_url_is_set: bool) -> str:
    caller = delivery.caller
    if public_url_is_set:
        return f'set server.public_url = "{url}", as Twilio calls it'
    if not caller.peer_trusted and caller.forwarded:
        return (
            f"forwarded headers of {caller.peer} are not trusted: add it to server.trusted_proxies"
        )
    return (
        "nginx does not pass the scheme on: `proxy_set_header X-Forwarded-Proto $scheme;` "
        f'(or set server.public_url = "{url}")'
    )


def _other_hosts(delivery: RawDelivery) -> Iterator[str]:
    """Yield hosts from headers that are never trusted, but may explain the mistake."""
    headers, host = delivery.headers, delivery.caller.host
    forwarded = headers.get("X-Forwarded-Host", "").partition(",")[0].strip()
    for name in filter(None, (host, forwarded)):
        yield name
        yield name.lower()
        bare = split_port(name)[0]
        for port in (headers.get("X-Forwarded-Port", "").strip(), split_port(host)[1]):
            if port:
                yield f"{bare}:{port}"


def _targets(delivery: RawDelivery) -> Iterator[_Guess[str]]:
    """Yield the request target: as it arrived, with or without a trailing slash, with a prefix."""
    target = delivery.target
    yield _Guess(target)
    path, question_mark, query = target.partition("?")
    other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
    yield _Guess(
        other + question_mark + query,
        f"Twilio's console has {other}, but {path} arrives: write {path} there and use "
        f"`location = {path}` in nginx",
    )
    if prefix := delivery.headers.get("X-Forwarded-Prefix", "").rstrip("/"):
        yield _Guess(
            prefix + target,
            "nginx cuts a prefix off the path: write proxy_pass without a path after the port",
        )


def _fields(fields: Fields) -> Iterator[_Guess[Fields]]:
    """Yield the form: as it arrived, and with blanks that were trimmed or added on the way."""
    yield _Guess(fields)
    trimmed = (
        "white space of the message was trimmed between Twilio and here: pass the body on untouched"
    )
    for before, after in _PADDINGS:
        padded = tuple(
            (name, f"{before}{value}{after}" if name == "Body" else value) for name, value in fields
        )
        yield _Guess(padded, trimmed, alone=(before, after) not in _LIKELY_PADDINGS)
    stripped = tuple((name, value.strip()) for name, value in fields)
    yield _Guess(
        stripped,
        "white space was added to the form between Twilio and here: pass the body on untouched",
    )


def _tokens(channel: ChannelName, tokens: Sequence[str]) -> Iterator[_Guess[Sequence[str]]]:
    yield _Guess(tokens)
    clean = [token.strip().strip("\"'").strip() for token in tokens]
    if clean != list(tokens):
        yield _Guess(
            clean, f"take the blanks or quotes off channels.{channel}.tokens (TWILIO_TOKEN)"
        )


def _unproven(delivery: RawDelivery, public_urls: Sequence[str]) -> str | None:
    """Explain a loopback host, which no provider can have called."""
    if public_urls or not is_loopback(delivery.caller.host):
        return None
    return (
        "the Host header is a loopback one, so the URL that Twilio called is unknown: in nginx "
        "`proxy_set_header Host $http_host;` and `proxy_set_header X-Forwarded-Proto $scheme;`, "
        "or set server.public_url"
    )
