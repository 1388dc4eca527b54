"""Proof by a JSON web token (RFC 7519), signed with a shared secret."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jwt
from jwt.types import Options

from berinia_webhookd.channels.declared.proof import REPLAY_DOMAIN, STALE, WRONG, Proof
from berinia_webhookd.channels.declared.request import Request
from berinia_webhookd.errors import SignatureInvalid
from berinia_webhookd.urlencoded import as_bytes

_WITHOUT_CLOCK: Final[Options] = {  # we have our own
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
}


@dataclass(frozen=True)
class JwtProof(Proof):
    """A token by one of our algorithms, with digests of body and URL that must match."""

    secrets: Sequence[bytes]
    header: str
    algorithms: Sequence[str]
    issuer: str | None
    body_claim: str | None
    url_claim: str | None
    check_iat: bool
    tolerance_seconds: float
    covers: bool = True  # whether it covers the part that is read

    @property
    def covers_query(self) -> bool:  # type: ignore[override]
        """Whether the token holds the URL's digest."""
        return self.url_claim is not None

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        token = self._token(request)
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
        # Without the signature, which has several spellings.
        signed = as_bytes(token.rpartition(".")[0])
        return None if self.covers else hashlib.sha256(REPLAY_DOMAIN + signed).digest()

    def _token(self, request: Request) -> str:
        token = request.header(self.header) or ""
        return token[7:].strip() if token[:7].lower() == "bearer " else token

    def is_shaped(self, request: Request) -> bool:
        """Whether the request has a token with one of our algorithms."""
        try:
            said = jwt.get_unverified_header(self._token(request))
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return False
        return said.get("alg") in self.algorithms

    def _claims(self, token: str) -> dict[str, Any] | None:
        for secret in self.secrets:
            try:
                claims: dict[str, Any] = jwt.decode(
                    token, secret, algorithms=list(self.algorithms), options=_WITHOUT_CLOCK
                )
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
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
    """Compare a digest in a token with the expected ones; None: it may be absent."""
    found = claims.get(name)
    if found is None and None in expected:
        return
    given = as_bytes(str(found).lower())
    matches = False
    for one in expected:
        matches |= one is not None and hmac.compare_digest(as_bytes(one), given)
    if not matches:
        raise SignatureInvalid(f"The token is for another request: {name} differs.")
