"""The interface of proofs, each by one scheme of a declaration. All compare in constant time, with
every secret and every presented signature, and refuse a request without one.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from berinia_webhookd.channels.declared.keys import PairKeys
from berinia_webhookd.channels.declared.request import Request
from berinia_webhookd.errors import SignatureInvalid

REPLAY_DOMAIN: Final = b"berinia-webhookd declared signature\0"
WRONG: Final = "The signature is missing or wrong."
STALE: Final = "The signature is too old, or from the future."
_SECRET_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Clock:
    """The location of a request's time of signing, and its tolerance in seconds."""

    source: str | None  # header:X or json:a.b; None: beside the signature, or absent
    unit: str  # s, ms or iso
    tolerance_seconds: float | None  # None: the age is not checked

    def require_fresh(self, text: str | None, now: datetime) -> None:
        """Raise `SignatureInvalid` unless a time is within the tolerance."""
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


def written(now: datetime, unit: str) -> str:
    """Format an instant as `instant_of` parses it."""
    if unit == "iso":
        return now.isoformat()
    return str(int(now.timestamp() * (1000 if unit == "ms" else 1)))


class Proof(ABC):
    """Proves requests by one scheme."""

    headers: frozenset[str] = frozenset()  # headers that the proof covers, in lower case
    covers_query = False  # whether it covers the parameters of the URL

    @property
    def pair(self) -> PairKeys | None:
        """The key pair scheme, if only the provider has the private key; else None."""
        return None

    @abstractmethod
    def prove(self, request: Request) -> bytes | None:
        """Return the replay key of the request, if the body is not covered; else None.

        Raises:
            SignatureInvalid: the request is not proven.
        """

    def by(self, public: bytes) -> Proof:
        """Return the same proof with another public key; itself if it has no key pair."""
        del public
        return self

    def is_shaped(self, request: Request) -> bool:
        """Whether the request has a signature or secret of the scheme's shape, valid or not."""
        del request
        return False

    def new_secret(self) -> bytes:
        """Return a random secret."""
        return secrets.token_bytes(_SECRET_BYTES)

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """Return headers that prove a sample; for a signature in JSON, its path."""
        del request, secret, now
        return {}


class NoProof(Proof):
    """The proof of an invalid declaration: refuses every request."""

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        del request
        raise SignatureInvalid(WRONG)


@dataclass(frozen=True)
class AddressProof(Proof):
    """Proof by the caller's address alone, which `allowed_networks` has checked before."""

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        del request
        return None
