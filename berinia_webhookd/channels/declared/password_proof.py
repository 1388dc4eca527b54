"""Proofs by a secret that is sent with each request."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from berinia_webhookd.channels.declared.proof import Proof
from berinia_webhookd.channels.declared.request import Request
from berinia_webhookd.errors import SignatureInvalid
from berinia_webhookd.urlencoded import as_bytes

_TOKEN_CHARACTERS: Final = 8


@dataclass(frozen=True)
class BasicProof(Proof):
    """`Authorization: Basic …`, with user and password from the URL given to the provider."""

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
        """Whether the request has a user and a password."""
        user, colon, password = self._given(request).partition(b":")
        return bool(user and colon and password)

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`."""
        del request, now
        return {"Authorization": f"Basic {base64.b64encode(secret).decode()}"}


@dataclass(frozen=True)
class TokenProof(Proof):
    """A shared secret text, in a header or the query."""

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
        """Whether the request has a token of sufficient length."""
        return len(self._given(request)) >= _TOKEN_CHARACTERS

    def sign(self, request: Request, secret: bytes, now: datetime) -> dict[str, str]:
        """See `Proof.sign`; a token in the query is part of the URL."""
        del request, now
        where, _, name = self.source.partition(":")
        return {name: secret.decode("utf-8", "replace")} if where == "header" else {}


def _one_of(secrets: Sequence[bytes], given: bytes) -> bool:
    matches = False
    for secret in secrets:
        matches |= hmac.compare_digest(secret, given)
    return matches
