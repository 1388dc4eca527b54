"""Proofs of who sent a request, each by one scheme of a declaration. All compare in constant time,
with every secret and every signature that was presented, and refuse whatever is missing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
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

HASHES: Final = {"hmac-sha1": "sha1", "hmac-sha256": "sha256", "hmac-sha512": "sha512"}
REPLAY_DOMAIN: Final = b"berinia-webhookd declared signature\0"
_PREFIXES: Final = ("webhook-", "svix-")  # of headers: the standard's, and those of its authors
PEM: Final = b"-----"
_SHA256_BYTES: Final = 32
_PAIR_BYTES: Final = 60  # of an Ed25519 signature 64, of a DER one on P-256 a few more
_TOKEN_CHARACTERS: Final = 8
WRONG: Final = "The signature is missing or wrong."
STALE: Final = "The signature is too old, or from the future."


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a request says when it was signed, and how far that may be from now."""

    source: str | None  # header:X or json:a.b; None: beside the signature, or nowhere
    unit: str  # s, ms or iso
    tolerance_seconds: float | None  # None: its age does not count

    def require_fresh(self, text: str | None, now: datetime) -> None:
        """Raise `SignatureInvalid` unless a time is near enough."""
        if self.tolerance_seconds is None:
            return
        instant = instant_of(text or "", self.unit)
        if instant is None or abs((now - instant).total_seconds()) > self.tolerance_seconds:
            raise SignatureInvalid(STALE)


def instant_of(text: str, unit: str) -> datetime | None:
    """Read an instant: seconds or milliseconds since 1970, or ISO 8601."""
    try:
        if unit == "iso":
            found = datetime.fromisoformat(text)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        seconds = float(text) / (1000 if unit == "ms" else 1)
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


class Proof(ABC):
    """Proves requests by one scheme."""

    can_sign = True  # False: only the provider has the key
    headers: frozenset[str] = frozenset()  # whose values are proven as well, in lower case
    covers_query = False  # whether the parameters of the URL are, too

    @abstractmethod
    def prove(self, request: Request) -> bytes | None:
        """Return what may be used for one message only, where the body is not covered.

        Raises:
            SignatureInvalid: it proves nothing.
        """

    def is_shaped(self, request: Request) -> bool:
        """Whether it presents something of the scheme's shape, right or wrong."""
        del request
        return False

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """Return headers that prove a sample; for a signature in JSON its path."""
        del request, secret, now
        return {}


class NoProof(Proof):
    """That of a declaration that is not sound: it takes nothing."""

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        del request
        raise SignatureInvalid(WRONG)


# Returns which of the contents is signed by one of the signatures; None: none is.
Verifier = Callable[[Iterable[bytes], Sequence[bytes]], bytes | None]


@dataclass(frozen=True)
class SignatureProof(Proof):
    """A signature over a template: a MAC, or that of a key pair."""

    signature: SignatureTemplate
    signed: SignedTemplate
    clock: Clock
    verify: Verifier
    covers: bool = True  # what is read
    mac: str | None = None  # its hash, where a secret can sign samples
    body_hash_query: str | None = None

    @property
    def can_sign(self) -> bool:  # type: ignore[override]
        """Whether our secret signs, as those of a MAC do."""
        return self.mac is not None

    @property
    def headers(self) -> frozenset[str]:  # type: ignore[override]
        """Those that the signature is over."""
        marked = (name for name in self.signed.names if name.startswith("header:"))
        return frozenset(name.partition(":")[2].lower() for name in marked)

    @property
    def covers_query(self) -> bool:  # type: ignore[override]
        """Whether the signature is over the whole URL."""
        return self.signed.covers_query

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        presented = self.signature.presented(request)
        time = self._time(request, presented)
        if not presented.signatures:
            raise SignatureInvalid(WRONG)
        content = self.verify(self.signed.contents(request, time), presented.signatures)
        if content is None:
            raise SignatureInvalid(WRONG)
        if "time" in self.signed.names and instant_of(time or "", self.clock.unit) is None:
            raise SignatureInvalid(STALE)  # it could hold the beginning of what follows it
        self.clock.require_fresh(time, request.delivery.received_at)
        if self.body_hash_query is not None:
            given = request.query.get(self.body_hash_query, "")
            if not hmac.compare_digest(
                as_bytes(given.lower()), as_bytes(request.body_sha256.hex())
            ):
                raise SignatureInvalid("The body is not the one whose digest the URL carries.")
        # Not the signature: some can be written in several ways, and false ones stand beside them.
        return None if self.covers else hashlib.sha256(REPLAY_DOMAIN + content).digest()

    def is_shaped(self, request: Request) -> bool:
        """A digest of the hash, or what may be a key pair's; and a time where one is needed."""
        presented = self.signature.presented(request)
        return self._has_time(request, presented) and any(map(self._fits, presented.signatures))

    def _fits(self, signature: bytes) -> bool:
        if self.mac is None:
            return len(signature) >= _PAIR_BYTES
        return len(signature) == hashlib.new(self.mac).digest_size

    def _has_time(self, request: Request, presented: Presented) -> bool:
        if self.clock.tolerance_seconds is None:
            return True
        return instant_of(self._time(request, presented) or "", self.clock.unit) is not None

    def _time(self, request: Request, presented: Presented) -> str | None:
        return request.named(self.clock.source) if self.clock.source else presented.time

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        time = _written(now, self.clock.unit)
        content = next(iter(self.signed.contents(request, time)), b"")
        value = self.signature.written(
            hmac.new(secret, content, self.mac or "sha256").digest(), time
        )
        headers = {self.signature.source.partition(":")[2]: value}
        if self.clock.source is not None and not self.clock.source.startswith("json:"):
            headers[self.clock.source.removeprefix("header:")] = time
        return headers


def _written(now: datetime, unit: str) -> str:
    if unit == "iso":
        return now.isoformat()
    return str(int(now.timestamp() * (1000 if unit == "ms" else 1)))


def mac_verifier(hash_name: str, secrets: Sequence[bytes]) -> Verifier:
    """Return a verifier of HMACs; the keys are hashed once."""
    keyed = [hmac.new(secret, digestmod=hash_name) for secret in secrets]

    def verify(contents: Iterable[bytes], signatures: Sequence[bytes]) -> bytes | None:
        proven = None
        for content in contents:
            for key in keyed:
                mac = key.copy()
                mac.update(content)
                digest = mac.digest()
                for signature in signatures:
                    if hmac.compare_digest(digest, signature):
                        proven = content
        return proven

    return verify


def ed25519_verifier(secrets: Sequence[bytes]) -> Verifier:
    """Return a verifier by Ed25519 public keys of 32 bytes.

    Raises:
        ValueError: one is none.
    """
    return _key_verifier([Ed25519PublicKey.from_public_bytes(secret).verify for secret in secrets])


def ecdsa_verifier(secrets: Sequence[bytes]) -> Verifier:
    """Return a verifier by P-256 public keys in DER or PEM, of signatures in DER over SHA-256.

    Raises:
        ValueError: one is none.
    """
    keys = []
    for secret in secrets:
        load = load_pem_public_key if secret.startswith(PEM) else load_der_public_key
        try:
            key = load(secret)
        except UnsupportedAlgorithm as error:
            raise ValueError(str(error)) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError("give the public key of an ECDSA pair on P-256")
        keys.append(key)
    scheme = ec.ECDSA(SHA256())

    def verify(key: Any) -> Callable[[bytes, bytes], None]:
        return lambda signature, content: key.verify(signature, content, scheme)

    return _key_verifier([verify(key) for key in keys])


def _key_verifier(keys: Sequence[Callable[[bytes, bytes], None]]) -> Verifier:
    def verify(contents: Iterable[bytes], signatures: Sequence[bytes]) -> bytes | None:
        for content in contents:
            for key in keys:
                for signature in signatures:
                    try:
                        key(signature, content)
                    except InvalidSignature:
                        continue
                    return content
        return None

    return verify


@dataclass(frozen=True)
class StandardWebhooksProof(Proof):
    """https://github.com/standard-webhooks/standard-webhooks: `v1` signatures over id, time, body;
    unknown versions and malformed entries are passed over.
    """

    verify: Verifier
    clock: Clock
    headers = frozenset(prefix + name for prefix in _PREFIXES for name in ("id", "timestamp"))

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        id_, time, signatures = _named(request)
        if id_ is None or time is None or signatures is None:
            raise SignatureInvalid(WRONG)
        presented = list(_versioned(signatures))
        content = as_bytes(f"{id_}.{time}.") + request.body
        if self.verify([content], presented) is None:
            raise SignatureInvalid(WRONG)
        self.clock.require_fresh(time, request.delivery.received_at)
        return None

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        time, id_ = _written(now, "s"), f"msg_{hashlib.sha256(request.body).hexdigest()[:24]}"
        content = as_bytes(f"{id_}.{time}.") + request.body
        mac = base64.b64encode(hmac.new(secret, content, "sha256").digest()).decode()
        named = {"id": id_, "timestamp": time, "signature": f"v1,{mac}"}
        return {_PREFIXES[0] + name: value for name, value in named.items()}

    def is_shaped(self, request: Request) -> bool:
        """An id, a time, and a `v1` digest."""
        id_, time, signatures = _named(request)
        digests = map(len, _versioned(signatures or ""))
        return bool(id_) and instant_of(time or "", "s") is not None and _SHA256_BYTES in digests


def _named(request: Request) -> list[str | None]:
    """Return id, time and signatures, under the names of the standard or its authors'; nothing
    where both are there: only one is proven, and nobody knows which is read.
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


@dataclass(frozen=True)
class BasicProof(Proof):
    """`Authorization: Basic …`, which the provider has from our URL."""

    secrets: Sequence[bytes]  # user:password

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        given = self._given(request)
        if not given or not _one_of(self.secrets, given):
            raise SignatureInvalid("The user or the password is missing or wrong.")
        return None

    def _given(self, request: Request) -> bytes:
        scheme, _, value = (request.header("Authorization") or "").partition(" ")
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            return b""
        return given if scheme.lower() == "basic" else b""

    def is_shaped(self, request: Request) -> bool:
        """A user and a password."""
        user, colon, password = self._given(request).partition(b":")
        return bool(user and colon and password)

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        del request, now
        return {"Authorization": f"Basic {base64.b64encode(secret).decode()}"}


@dataclass(frozen=True)
class TokenProof(Proof):
    """A text that only the provider and we know, in a header or the query."""

    secrets: Sequence[bytes]
    source: str  # header:X or query:k

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        given = self._given(request)
        if not given or not _one_of(self.secrets, as_bytes(given)):
            raise SignatureInvalid("The token is missing or wrong.")
        return None

    def _given(self, request: Request) -> str:
        given = request.named(self.source) or ""
        if self.source.startswith("header:") and given[:7].lower() == "bearer ":
            given = given[7:].strip()
        return given

    def is_shaped(self, request: Request) -> bool:
        """A token that is long enough to be one: it has no other shape."""
        return len(self._given(request)) >= _TOKEN_CHARACTERS

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`; one in the query is part of the URL."""
        del request, now
        where, _, name = self.source.partition(":")
        return {name: secret.decode("utf-8", "replace")} if where == "header" else {}


@dataclass(frozen=True)
class AddressProof(Proof):
    """The address alone, which the channel's `allowed_networks` has compared already."""

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        del request
        return None

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        del request, secret, now
        return {}


def _one_of(secrets: Sequence[bytes], given: bytes) -> bool:
    matches = False
    for secret in secrets:
        matches |= hmac.compare_digest(secret, given)
    return matches
