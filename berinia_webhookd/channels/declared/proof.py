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

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
)
from jwt.types import Options

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
_REPLAY_DOMAIN: Final = b"berinia-webhookd declared signature\0"
_WITHOUT_CLOCK: Final[Options] = {  # we have our own
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
}
_PREFIXES: Final = ("webhook-", "svix-")  # of headers: the standard's, and those of its authors
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

    covers_body = True
    can_sign = True  # False: only the provider has the key
    headers: frozenset[str] = frozenset()  # whose values are proven as well, in lower case

    @abstractmethod
    def prove(self, request: Request) -> bytes | None:
        """Return what may be used for one message only, where the body is not covered.

        Raises:
            SignatureInvalid: it proves nothing.
        """

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


Verifier = Callable[[Iterable[bytes], Sequence[bytes]], bool]  # signed contents, signatures


@dataclass(frozen=True)
class SignatureProof(Proof):
    """A signature over a template: a MAC, or that of a key pair."""

    signature: SignatureTemplate
    signed: SignedTemplate
    clock: Clock
    verify: Verifier
    mac: str | None = None  # its hash, where a secret can sign samples
    body_hash_query: str | None = None

    @property
    def can_sign(self) -> bool:  # type: ignore[override]
        """Whether our secret signs, as those of a MAC do."""
        return self.mac is not None

    @property
    def covers_body(self) -> bool:  # type: ignore[override]
        """Whether another body has another signature."""
        return self.signed.covers_body or self.body_hash_query is not None

    @property
    def headers(self) -> frozenset[str]:  # type: ignore[override]
        """Those that the signature is over."""
        names = {name.partition(":")[2].lower() for name in self.signed.names if ":" in name}
        return frozenset(names)

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        presented = self.signature.presented(request)
        time = self._time(request, presented)
        if not presented.signatures:
            raise SignatureInvalid(WRONG)
        if not self.verify(self.signed.contents(request, time), presented.signatures):
            raise SignatureInvalid(WRONG)
        self.clock.require_fresh(time, request.delivery.received_at)
        if self.body_hash_query is not None:
            given = request.query.get(self.body_hash_query, "")
            if not hmac.compare_digest(
                as_bytes(given.lower()), as_bytes(request.body_sha256.hex())
            ):
                raise SignatureInvalid("The body is not the one whose digest the URL carries.")
        if self.covers_body:
            return None
        return hashlib.sha256(_REPLAY_DOMAIN + b"".join(sorted(presented.signatures))).digest()

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

    def verify(contents: Iterable[bytes], signatures: Sequence[bytes]) -> bool:
        matches = False
        for content in contents:
            for key in keyed:
                mac = key.copy()
                mac.update(content)
                digest = mac.digest()
                for signature in signatures:
                    matches |= hmac.compare_digest(digest, signature)
        return matches

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
        key = (load_pem_public_key if secret.startswith(b"-----") else load_der_public_key)(secret)
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError("give the public key of an ECDSA pair on P-256")
        keys.append(key)
    scheme = ec.ECDSA(SHA256())

    def verify(key: Any) -> Callable[[bytes, bytes], None]:
        return lambda signature, content: key.verify(signature, content, scheme)

    return _key_verifier([verify(key) for key in keys])


def _key_verifier(keys: Sequence[Callable[[bytes, bytes], None]]) -> Verifier:
    def verify(contents: Iterable[bytes], signatures: Sequence[bytes]) -> bool:
        for content in contents:
            for key in keys:
                for signature in signatures:
                    try:
                        key(signature, content)
                    except InvalidSignature:
                        continue
                    return True
        return False

    return verify


@dataclass(frozen=True)
class StandardWebhooksProof(Proof):
    """https://github.com/standard-webhooks/standard-webhooks: `v1` signatures over id, time, body;
    unknown versions and malformed entries are passed over.
    """

    secrets: Sequence[bytes]
    clock: Clock
    headers = frozenset(prefix + name for prefix in _PREFIXES for name in ("id", "timestamp"))

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        prefix = next((one for one in _PREFIXES if request.header(f"{one}id")), _PREFIXES[0])
        id_, time, signatures = (
            request.header(prefix + name) for name in ("id", "timestamp", "signature")
        )
        if id_ is None or time is None or signatures is None:
            raise SignatureInvalid(WRONG)
        presented = list(_versioned(signatures))
        content = as_bytes(f"{id_}.{time}.") + request.body
        if not mac_verifier("sha256", self.secrets)([content], presented):
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
        scheme, _, value = (request.header("Authorization") or "").partition(" ")
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            given = b""
        if scheme.lower() != "basic" or not given or not _one_of(self.secrets, given):
            raise SignatureInvalid("The user or the password is missing or wrong.")
        return None

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
        given = request.named(self.source) or ""
        if self.source.startswith("header:") and given[:7].lower() == "bearer ":
            given = given[7:].strip()
        if not given or not _one_of(self.secrets, as_bytes(given)):
            raise SignatureInvalid("The token is missing or wrong.")
        return None

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


@dataclass(frozen=True)
class JwtProof(Proof):
    """A token signed with a shared secret (RFC 7519), by algorithms that we name; what it says of
    the body and the URL is held against them.
    """

    secrets: Sequence[bytes]
    header: str
    algorithms: Sequence[str]
    issuer: str | None
    body_claim: str | None
    url_claim: str | None
    check_iat: bool
    tolerance_seconds: float

    @property
    def covers_body(self) -> bool:  # type: ignore[override]
        """Whether the token holds the body's digest."""
        return self.body_claim is not None

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        token = request.header(self.header) or ""
        if token[:7].lower() == "bearer ":
            token = token[7:].strip()
        claims = self._claims(token)
        if claims is None:
            raise SignatureInvalid(WRONG)
        now = request.delivery.received_at.timestamp()
        self._require_times(claims, now)
        if self.issuer is not None and claims.get("iss") != self.issuer:
            raise SignatureInvalid("The token is of another issuer.")
        if self.body_claim is not None:
            expected = request.body_sha256.hex() if request.body else None
            _require_claim(claims, self.body_claim, [expected])
        if self.url_claim is not None:
            digests = [hashlib.sha256(as_bytes(url)).hexdigest() for url in request.urls]
            _require_claim(claims, self.url_claim, digests)
        if self.covers_body:
            return None
        return hashlib.sha256(_REPLAY_DOMAIN + as_bytes(token)).digest()

    def _claims(self, token: str) -> dict[str, Any] | None:
        for secret in self.secrets:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token, secret, algorithms=list(self.algorithms), options=_WITHOUT_CLOCK
                )
            except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
                continue
            return claims
        return None

    def _require_times(self, claims: dict[str, Any], now: float) -> None:
        within = self.tolerance_seconds
        times = {
            name: value
            for name in ("iat", "nbf", "exp")
            if isinstance(value := claims.get(name), int | float) and not isinstance(value, bool)
        }
        stale = "exp" in times and times["exp"] < now - within
        early = any(times[name] > now + within for name in ("nbf", "iat") if name in times)
        if self.check_iat and ("iat" not in times or times["iat"] < now - within):
            stale = True
        if stale or early or any(name in claims and name not in times for name in ("nbf", "exp")):
            raise SignatureInvalid(STALE)

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        at = int(now.timestamp())
        claims: dict[str, Any] = {"iat": at, "nbf": at, "exp": at + 60}
        if self.issuer is not None:
            claims["iss"] = self.issuer
        if self.body_claim is not None and request.body:
            claims[self.body_claim] = request.body_sha256.hex()
        if self.url_claim is not None:
            claims[self.url_claim] = hashlib.sha256(as_bytes(request.urls[0])).hexdigest()
        bearer = "Bearer " if self.header.lower() == "authorization" else ""
        return {self.header: bearer + jwt.encode(claims, secret, self.algorithms[0])}


def _require_claim(claims: dict[str, Any], name: str, expected: Sequence[str | None]) -> None:
    """Hold a digest in a token against what it shall be; None: it must not be there."""
    found = claims.get(name)
    if found is None and None in expected:
        return
    given = as_bytes(str(found).lower())
    matches = False
    for one in expected:
        matches |= one is not None and hmac.compare_digest(as_bytes(one), given)
    if not matches:
        raise SignatureInvalid(f"The token is for another request: {name} differs.")
