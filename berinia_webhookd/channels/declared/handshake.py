"""The handshake: a request by which a provider checks the URL before it sends anything."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from berinia_webhookd.channels.declared.request import Request
from berinia_webhookd.urlencoded import as_bytes

LONGEST_REPLY: Final = 512
_PLACEHOLDER: Final = re.compile(r"\{(hmac\.(?:hex|base64):)?((?:query|json):[^{}]{1,100})\}")
# A MAC is only given for a text that cannot be a body: else anybody could have a body signed.
_NO_BODY: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,512}={0,2}")
_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9_.-]+")  # which JSON never escapes
_SOURCE: Final = re.compile(r"(?:query|json):[^=]{1,100}")


@dataclass(frozen=True, slots=True)
class Handshake:
    """The condition that makes a request a handshake, its verify token, and its answer."""

    when: tuple[str, str | None]  # a path, and its value; None: any value
    check: str | None
    reply: str | None
    reply_json: Mapping[str, str] | None

    def __str__(self) -> str:
        """Return its condition."""
        source, value = self.when
        return f"when {source}" + ("" if value is None else f"={value}")

    @property
    def is_in_body(self) -> bool:
        """Whether the condition is on the body, which the channel's proof covers."""
        return self.when[0].startswith("json:")

    @property
    def macs(self) -> bool:
        """Whether the answer contains a MAC of a value of the request."""
        return any("{hmac." in one for one in (self.reply_json or {}).values())

    def may_ask(self, request: Request) -> bool:
        """Whether a request may be a handshake, without parsing its unverified body."""
        delivery = request.delivery
        if not self.is_in_body:
            return "?" in delivery.target
        source, value = self.when
        word = value if value is not None else source.rpartition(".")[2].removeprefix("json:")
        return not _PLAIN_WORD.fullmatch(word) or word.encode() in delivery.body

    def asks(self, request: Request) -> bool:
        """Whether a request is a handshake."""
        source, value = self.when
        found = request.named(source)
        return found is not None and value in (None, found)

    def checks(self, request: Request, secrets: Sequence[bytes]) -> bool:
        """Whether the request has the verify token, if one is needed."""
        if self.check is None:
            return True
        given = as_bytes(request.named(self.check) or "")
        matches = False
        for secret in secrets:
            matches |= bool(given) and hmac.compare_digest(secret, given)
        return matches

    def answer(self, request: Request, secrets: Sequence[bytes]) -> tuple[str, bytes] | None:
        """Return media type and body of the answer; None if a value for it is missing."""
        if self.reply is not None:
            text = request.named(self.reply)
            return None if text is None else ("text/plain", as_bytes(text[:LONGEST_REPLY]))
        texts: dict[str, str] = {}
        for name, template in (self.reply_json or {}).items():
            filled = _filled(template, request, secrets)
            if filled is None:
                return None
            texts[name] = filled
        return "application/json", json.dumps(texts).encode()


def _filled(template: str, request: Request, secrets: Sequence[bytes]) -> str | None:
    """Fill in a template; None if a value is missing, or a MAC's value could be a body."""
    texts = []
    for found in _PLACEHOLDER.finditer(template):
        text = request.named(found[2])
        if text is None or not secrets or (found[1] and not _NO_BODY.fullmatch(text)):
            return None
        mac = hmac.new(secrets[0], as_bytes(text), "sha256").digest()
        match found[1]:
            case "hmac.hex:":
                text = mac.hex()
            case "hmac.base64:":
                text = base64.b64encode(mac).decode()
        texts.append(text[:LONGEST_REPLY])
    remaining = iter(texts)
    return _PLACEHOLDER.sub(lambda _: next(remaining), template)


def handshake(raw: Any) -> Handshake:
    """Parse the table of a handshake.

    Raises:
        ValueError: with what would be right.
    """
    hint = (
        'give { when = "query:hub.mode=subscribe", check = "query:hub.verify_token", '
        'reply = "query:hub.challenge" }'
    )
    if not isinstance(raw, Mapping) or not {"when", "check", "reply", "reply_json"} >= raw.keys():
        raise ValueError(hint)
    when, check, reply, reply_json = (
        raw.get(name) for name in ("when", "check", "reply", "reply_json")
    )
    if not isinstance(when, str) or (reply is None) == (reply_json is None):
        raise ValueError(hint)
    source, equals, value = when.partition("=")
    sources = [source, *(one for one in (check, reply) if one is not None)]
    if not all(isinstance(one, str) and _SOURCE.fullmatch(one) for one in sources):
        raise ValueError(hint)
    if reply_json is not None:
        texts = isinstance(reply_json, Mapping) and all(
            isinstance(one, str) for one in reply_json.values()
        )
        if not texts:
            raise ValueError(
                'give texts, such as { token = "sha256={hmac.base64:query:crc_token}" }'
            )
    return Handshake((source, value if equals else None), check, reply, reply_json)
