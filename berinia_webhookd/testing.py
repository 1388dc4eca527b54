"""Fakes for tests of channels, agents and stages: what this project's own tests use.

`Clock` stands still until it is moved. The functions make what one stage hands the next; a channel
signs its samples itself:

    request = channel.sign({"Body": "Bonjour"}, base_url="https://app.example.com", now=START)
    event, = channel.decode(channel.verify(arrived(channel.name, request))).events
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final

from multidict import CIMultiDict

from berinia_webhookd.channels.contract import SignedRequest
from berinia_webhookd.model import (
    AgentName,
    Caller,
    ChannelName,
    Conversation,
    Event,
    RawDelivery,
    VerifiedDelivery,
)

__all__ = [
    "AGENT",
    "CHANNEL",
    "FORM",
    "START",
    "Clock",
    "a_caller",
    "a_delivery",
    "a_raw_delivery",
    "an_event",
    "arrived",
]

AGENT: Final = AgentName("ResponseListenerAgent")
CHANNEL: Final = ChannelName("example")
FORM: Final = "application/x-www-form-urlencoded"
START: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)

_numbers = itertools.count(1)


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = START

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def move(self, seconds: float) -> None:
        """Go forward, or back."""
        self.now += timedelta(seconds=seconds)


def a_caller(
    *,
    peer: str | None = "127.0.0.1",
    client: str | None = "203.0.113.9",
    scheme: str = "https",
    host: str = "app.example.com",
    forwarded: bool = True,
    peer_trusted: bool = True,
) -> Caller:
    """Make a caller behind an nginx of ours, unless told otherwise."""
    return Caller(
        peer=None if peer is None else ip_address(peer),
        client=None if client is None else ip_address(client),
        scheme=scheme,
        host=host,
        forwarded=forwarded,
        peer_trusted=peer_trusted,
    )


def a_raw_delivery(
    channel: ChannelName,
    body: bytes,
    *,
    headers: Mapping[str, str] | None = None,
    target: str = "/",
    who: Caller | None = None,
    received_at: datetime = START,
) -> RawDelivery:
    """Make a request that nobody has verified; without a content type it is a form."""
    found = CIMultiDict(headers or {})
    content_type = found.get("Content-Type", FORM)
    return RawDelivery(
        channel=channel,
        caller=who or a_caller(),
        target=target,
        headers=found,
        content_type=content_type.partition(";")[0].strip().lower(),
        content_type_header=content_type,
        body=body,
        received_at=received_at,
    )


def arrived(
    channel: ChannelName,
    request: SignedRequest,
    *,
    who: Caller | None = None,
    received_at: datetime = START,
) -> RawDelivery:
    """Make the delivery of what a channel's `sign` returned, as `verify` gets it."""
    return a_raw_delivery(
        channel,
        request.body,
        headers=request.headers,
        target=request.path,
        who=who,
        received_at=received_at,
    )


def an_event(text: str = "", *, sender: str = "+33639980001", **changes: Any) -> Event:
    """Make an event; one of the same sender with the same text is the same event."""
    body = text or f"message {next(_numbers)}"
    channel = changes.pop("channel", CHANNEL)
    plain = Event(
        channel=channel,
        agent=AGENT,
        conversation=Conversation(channel, sender, "+33639980000"),
        digest=hashlib.sha256(f"{sender} {body}".encode("utf-8", "surrogatepass")).digest(),
        received_at=START,
        sender=sender,
        recipient="+33639980000",
        body=body,
        raw={"Body": body, "From": sender},
    )
    return plain._replace(**changes)


def a_delivery(event: Event, *, replay_key: bytes | None = None) -> VerifiedDelivery:
    """Make the delivery that an event came with."""
    return VerifiedDelivery(
        channel=event.channel,
        content_type_header=FORM,
        body=f"From={event.sender}&Body={event.body}".encode("utf-8", "surrogatepass"),
        received_at=event.received_at,
        replay_key=replay_key,
    )
