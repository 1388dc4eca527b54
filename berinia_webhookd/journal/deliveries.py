"""Converts a verified delivery to a row of the journal, and back."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import uuid_utils

from berinia_webhookd import json_text
from berinia_webhookd.journal.database import Row, instant, stored
from berinia_webhookd.journal.event_text import storable, to_text
from berinia_webhookd.model import ChannelName, VerifiedDelivery
from berinia_webhookd.urlencoded import as_bytes

# How many numbers each delivery has for its events, starting at its number times this; also for
# places that are drawn together. Statements contain it as a literal.
EVENTS_EACH: Final = 1_048_576


def new_id() -> str:
    """Return a UUIDv7: unique, and sorted by time."""
    return str(uuid_utils.uuid7())


def key_digest(replay_key: bytes) -> bytes:
    """Return the digest of a used replay key in `seen`, distinct from every event's digest."""
    return hashlib.sha256(b"signature\0" + replay_key).digest()


def once_key(delivery: VerifiedDelivery) -> bytes:
    """Return the key by which a rejected delivery is stored once."""
    if delivery.replay_key is not None:
        return key_digest(delivery.replay_key)
    content = delivery.body or as_bytes(delivery.target)  # the content of a GET is its URL
    return hashlib.sha256(delivery.channel.encode() + b"\0" + content).digest()


def row_of(
    delivery: VerifiedDelivery,
    node: str,
    *,
    state: str = "accepted",
    rejection: str | None = None,
    once_key: bytes | None = None,
) -> tuple[Any, ...]:
    """Return the parameters of `insert_delivery`, without the number; the state is accepted unless
    it was rejected.
    """
    headers = delivery.headers
    return (
        new_id(),
        delivery.channel,
        storable(delivery.target),
        to_text(dict(headers)) if headers else None,
        storable(delivery.content_type_header),
        node,
        stored(delivery.received_at),
        state,
        rejection,
        delivery.replay_key,
        once_key,
        delivery.body,
    )


def restored(row: Row) -> VerifiedDelivery:
    """Return the delivery of a row, which was verified on arrival."""
    return VerifiedDelivery(
        channel=ChannelName(row["channel"]),
        content_type_header=row["content_type"],
        body=bytes(row["body"]),
        received_at=instant(row["received_at"]),
        replay_key=row["replay_key"],
        target=row["target"],
        headers=json_text.decode(row["headers"]) if row["headers"] else {},
    )
