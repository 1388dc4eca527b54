"""What a channel is to the rest of the daemon. It refuses to do I/O: time, secrets and bytes come
in as arguments; nothing here opens a socket, reads a clock, logs or looks a setting up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Event,
    RawDelivery,
    Receipt,
    VerifiedDelivery,
)

# Marks a signed request of `doctor`: verified and answered, never journaled.
PROBE_FIELD: Final = "BeriniaProbe"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider gets to read."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A sample callback as the provider would send it: what `send`, tests and benchmarks use."""

    path: str  # request target
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Channel(Protocol):
    """One configured way in: a provider, a path, a secret."""

    name: ChannelName
    path: str
    media_types: frozenset[str]
    max_body_bytes: int
    replies: bool  # whether the caller may wait for the agent's answer

    @property
    def agents(self) -> frozenset[AgentName]:
        """Every agent this channel can route to."""

    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` while nothing can be proved on this channel."""

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Prove who sent it, over the bytes received.

        Raises:
            SignatureInvalid, AddressRefused: the proof fails.
            MalformedDelivery: the body cannot be decoded far enough to be verified.
        """

    def decode(self, delivery: VerifiedDelivery) -> Event:
        """Read, validate and normalise; also used again when a rejected delivery is replayed.

        Raises:
            MalformedDelivery: fields are missing or ill-formed.
            AccountRefused: it is not for us.
        """

    def is_probe(self, delivery: VerifiedDelivery) -> bool:
        """Whether this is `doctor` asking: verified and answered, never journaled."""

    def answer(self, receipt: Receipt | None) -> Answer:
        """What the provider expects once the event is on disk (None: a probe)."""

    def diagnose(self, delivery: RawDelivery) -> str | None:
        """Which likely mistake explains a failed signature, and the setting or nginx line to
        change; None when there is no idea. Never accepts, never shows a signature.
        """

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """A sample callback with the given fields laid over the sample's own."""

    def attachment_contents(self, delivery: VerifiedDelivery) -> Iterable[bytes]:
        """The contents of the event's attachments, in the order of `Event.attachments`."""
