"""Proofs by a signature over the request: by a template as in the provider's documentation, or by
Standard Webhooks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from berinia_webhookd.channels.declared.keys import Keys, MacKeys, PairKeys
from berinia_webhookd.channels.declared.proof import (
    REPLAY_DOMAIN,
    STALE,
    WRONG,
    Clock,
    Proof,
    instant_of,
    written,
)
from berinia_webhookd.channels.declared.request import Request
from berinia_webhookd.channels.declared.templates import (
    MOST_CANDIDATES,
    Presented,
    SignatureTemplate,
    SignedTemplate,
)
from berinia_webhookd.errors import SignatureInvalid
from berinia_webhookd.urlencoded import as_bytes

_PREFIXES: Final = ("webhook-", "svix-")  # header prefixes: the standard's, and that of its authors


@dataclass(frozen=True)
class SignatureProof(Proof):
    """A signature over a template, by a MAC or a key pair."""

    signature: SignatureTemplate
    signed: SignedTemplate
    clock: Clock
    keys: Keys
    covers: bool = True  # whether it covers the part that is read
    body_hash_query: str | None = None

    @property
    def pair(self) -> PairKeys | None:
        """See `Proof.pair`."""
        return self.keys if isinstance(self.keys, PairKeys) else None

    def by(self, public: bytes) -> Proof:
        """See `Proof.by`."""
        pair = self.pair
        return self if pair is None else replace(self, keys=type(pair)([public]))

    @property
    def headers(self) -> frozenset[str]:  # type: ignore[override]
        """The headers that the signature covers."""
        marked = (name for name in self.signed.names if name.startswith("header:"))
        return frozenset(name.partition(":")[2].lower() for name in marked)

    @property
    def covers_query(self) -> bool:  # type: ignore[override]
        """Whether the signature covers the whole URL."""
        return self.signed.covers_query

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        presented = self.signature.presented(request)
        time = self._time(request, presented)
        if not presented.signatures:
            raise SignatureInvalid(WRONG)
        content = self.keys.proven(self.signed.contents(request, time), presented.signatures)
        if content is None:
            raise SignatureInvalid(WRONG)
        if "time" in self.signed.names and instant_of(time or "", self.clock.unit) is None:
            raise SignatureInvalid(STALE)  # it could contain the beginning of the next part
        self.clock.require_fresh(time, request.delivery.received_at)
        if self.body_hash_query is not None:
            given = request.query.get(self.body_hash_query, "")
            if not hmac.compare_digest(
                as_bytes(given.lower()), as_bytes(request.body_sha256.hex())
            ):
                raise SignatureInvalid("The body is not the one whose digest the URL carries.")
        # Not the signature: it may have several encodings, and invalid ones may be beside it.
        return None if self.covers else hashlib.sha256(REPLAY_DOMAIN + content).digest()

    def is_shaped(self, request: Request) -> bool:
        """Whether there is a signature of the scheme's length, and a time if one is needed."""
        presented = self.signature.presented(request)
        return self._has_time(request, presented) and any(map(self.keys.fits, presented.signatures))

    def _has_time(self, request: Request, presented: Presented) -> bool:
        if self.clock.tolerance_seconds is None:
            return True
        return instant_of(self._time(request, presented) or "", self.clock.unit) is not None

    def _time(self, request: Request, presented: Presented) -> str | None:
        return request.named(self.clock.source) if self.clock.source else presented.time

    def new_secret(self) -> bytes:
        """See `Proof.new_secret`."""
        return self.keys.new_secret()

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        time = written(now, self.clock.unit)
        content = next(iter(self.signed.contents(request, time)), b"")
        value = self.signature.written(self.keys.sign(secret, content), time)
        headers = {self.signature.source.partition(":")[2]: value}
        if self.clock.source is not None and not self.clock.source.startswith("json:"):
            headers[self.clock.source.removeprefix("header:")] = time
        return headers


@dataclass(frozen=True)
class StandardWebhooksProof(Proof):
    """https://github.com/standard-webhooks/standard-webhooks: `v1` signatures over id, time, body;
    unknown versions and malformed entries are ignored.
    """

    keys: MacKeys
    clock: Clock
    headers = frozenset(prefix + name for prefix in _PREFIXES for name in ("id", "timestamp"))

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        id_, time, signatures = _named(request)
        if id_ is None or time is None or signatures is None:
            raise SignatureInvalid(WRONG)
        presented = list(_versioned(signatures))
        content = as_bytes(f"{id_}.{time}.") + request.body
        if self.keys.proven([content], presented) is None:
            raise SignatureInvalid(WRONG)
        self.clock.require_fresh(time, request.delivery.received_at)
        return None

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        time, id_ = written(now, "s"), f"msg_{hashlib.sha256(request.body).hexdigest()[:24]}"
        content = as_bytes(f"{id_}.{time}.") + request.body
        mac = base64.b64encode(self.keys.sign(secret, content)).decode()
        named = {"id": id_, "timestamp": time, "signature": f"v1,{mac}"}
        return {_PREFIXES[0] + name: value for name, value in named.items()}

    def is_shaped(self, request: Request) -> bool:
        """Whether the request has an id, a time, and a `v1` digest."""
        id_, time, signatures = _named(request)
        fitting = any(map(self.keys.fits, _versioned(signatures or "")))
        return bool(id_) and instant_of(time or "", "s") is not None and fitting


def _named(request: Request) -> list[str | None]:
    """Return id, time and signatures, from the standard's headers or its authors'; nothing if both
    are present, as only one set would be proven.
    """
    prefixes = [one for one in _PREFIXES if f"{one}id" in request.delivery.headers]
    if len(prefixes) != 1:
        return [None, None, None]
    return [request.header(prefixes[0] + name) for name in ("id", "timestamp", "signature")]


def _versioned(signatures: str) -> Iterator[bytes]:
    for entry in signatures.split(" ", MOST_CANDIDATES)[:MOST_CANDIDATES]:
        version, _, value = entry.partition(",")
        try:
            content = base64.b64decode(value, validate=True)
        except ValueError:
            continue
        if version == "v1":
            yield content
