"""Proofs of who sent a request, each by one scheme of a declaration: what they have in common. All
compare in constant time, with every secret and every signature that was presented, and refuse
whatever is missing.
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


def written(now: datetime, unit: str) -> str:
    """Write an instant as `instant_of` reads it."""
    if unit == "iso":
        return now.isoformat()
    return str(int(now.timestamp() * (1000 if unit == "ms" else 1)))


class Proof(ABC):
    """Proves requests by one scheme."""

    headers: frozenset[str] = frozenset()  # whose values are proven as well, in lower case
    covers_query = False  # whether the parameters of the URL are, too

    @property
    def pair(self) -> PairKeys | None:
        """The scheme of its keys, where the provider alone has the one that signs."""
        return None

    @abstractmethod
    def prove(self, request: Request) -> bytes | None:
        """Return what may be used for one message only, where the body is not covered.

        Raises:
            SignatureInvalid: it proves nothing.
        """

    def by(self, public: bytes) -> Proof:
        """Return the same proof by another public key; where there is no pair, itself."""
        del public
        return self

    def is_shaped(self, request: Request) -> bool:
        """Whether it presents something of the scheme's shape, right or wrong."""
        del request
        return False

    def new_secret(self) -> bytes:
        """Return a secret that nobody knows."""
        return secrets.token_bytes(_SECRET_BYTES)

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


@dataclass(frozen=True)
class AddressProof(Proof):
    """The address alone, which the channel's `allowed_networks` has compared already."""

    def prove(self, request: Request) -> bytes | None:
        """See `Proof.prove`."""
        del request
        return None
