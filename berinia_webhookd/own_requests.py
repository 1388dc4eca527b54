"""The mark by which the daemon recognises requests of its own installation, such as probes: a
header with an HMAC, besides the provider's signature. The key is in the state folder.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from berinia_webhookd import secret_files

HEADER: Final = "Berinia-Probe"  # of an answer to a probe: how the request looked when it arrived
KEY_FILE: Final = "installation.key"
MAX_AGE_SECONDS: Final = 60.0
_DOMAIN: Final = b"berinia-webhookd own request\0"
_MARK: Final = re.compile(
    r"(?P<said>(?P<purpose>[a-z]+)\.(?P<time>[0-9]{10})\.(?P<nonce>[0-9a-f]{32})"
    r"\.(?P<body>[0-9a-f]{64}))\.(?P<mac>[0-9a-f]{64})"
)


class Purpose(StrEnum):
    """What a request of ours is for."""

    PROBE = "probe"  # of `doctor`: verified and answered, never journaled
    SAMPLE = "sample"  # of `send`: taken as any message, and counted for nothing
    ARRIVAL = "arrival"  # of `serve` itself, to see how a request from outside arrives


@dataclass(frozen=True, slots=True)
class Mark:
    """What a request of ours says of itself."""

    purpose: Purpose
    nonce: str
    body_sha256: str

    def is_of(self, body: bytes) -> bool:
        """Whether the body is the one that was sent."""
        return hmac.compare_digest(self.body_sha256, hashlib.sha256(body).hexdigest())


class InstallationKey:
    """The key of one installation."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def made(cls, folder: Path) -> Self:
        """Read the key of a state folder; make it, for its owner alone, where there is none.

        Raises:
            OSError: the folder cannot be written.
            ValueError: what lies there is no key, or others may read it.
        """
        return cls._of(secret_files.made(folder / KEY_FILE))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the key of a state folder.

        Raises:
            OSError: there is none, or this user may not read it.
            ValueError: what lies there is no key, or others may read it.
        """
        return cls._of(secret_files.read(folder / KEY_FILE))

    @classmethod
    def _of(cls, text: str) -> Self:
        return cls(bytes.fromhex(text))

    def mark(self, purpose: Purpose, now: datetime, body: bytes = b"", nonce: str = "") -> str:
        """Return the value of the header."""
        digest = hashlib.sha256(body).hexdigest()
        nonce = nonce or secrets.token_hex(16)
        said = f"{purpose}.{int(now.timestamp()):010}.{nonce}.{digest}"
        return f"{said}.{self._mac(said)}"

    def proven(self, header: str, now: datetime) -> Mark | None:
        """Return the mark of a request; None where this installation did not make it just now."""
        found = _MARK.fullmatch(header)
        if found is None or not hmac.compare_digest(found["mac"], self._mac(found["said"])):
            return None
        if abs(now.timestamp() - int(found["time"])) > MAX_AGE_SECONDS:
            return None
        return Mark(Purpose(found["purpose"]), found["nonce"], found["body"])

    def _mac(self, said: str) -> str:
        return hmac.new(self._secret, _DOMAIN + said.encode(), hashlib.sha256).hexdigest()
