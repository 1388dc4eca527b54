"""An item of a provider's list, made into the delivery that it would have come as. The channel's
event blocks read it, so its event has the digest that its callback has.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from berinia_webhookd import json_text
from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.fields import Item, Unreadable, all_hold, text_of
from berinia_webhookd.channels.declared.listing import Listing
from berinia_webhookd.channels.declared.proof import instant_of
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import Decoded, VerifiedDelivery

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ListedEvent(NamedTuple):
    """What a provider says that it had for us."""

    id: str
    at: datetime  # its own time
    digest: bytes
    delivery: VerifiedDelivery  # as it would have come, but for when


def listed(
    channel: DeclaredChannel, listing: Listing, item: Item, since: datetime, until: datetime
) -> ListedEvent | None:
    """Return what an item is; None: it is not for us, not of this time, or to be ignored.

    Raises:
        MalformedDelivery: its callback could not have been read, or would have been several events.
    """
    if not isinstance(item.node, dict):
        raise MalformedDelivery("It is no object.")
    if not all_hold(listing.where, item):
        return None
    try:
        at = _time_of(listing, item)
        if at is None:
            raise MalformedDelivery("It says no time.", missing=(str(listing.time),))
        if not since <= at < until:
            return None
        delivery = _delivery(channel, listing, item)
    except (Unreadable, RecursionError, TypeError) as error:
        raise MalformedDelivery(f"It cannot be made a delivery: {error}.") from None
    decoded = channel.decode(delivery)
    if decoded.rejected:
        raise MalformedDelivery(decoded.rejected[0].reason)
    if not decoded.events:
        return None
    if len(decoded.events) > 1:
        raise MalformedDelivery(f"It is {len(decoded.events)} events, and must be one.")
    (event,) = decoded.events
    return ListedEvent(event.message_id or event.digest.hex(), at, event.digest, delivery)


def rebuilt(
    channel: DeclaredChannel, one: ListedEvent, now: datetime
) -> tuple[VerifiedDelivery, Decoded]:
    """Return the delivery, proven by who was asked, and what it means, with its own time."""
    delivery = one.delivery._replace(received_at=now)
    return delivery, channel.decode(delivery).as_reconciled(min(one.at, now))


def _time_of(listing: Listing, item: Item) -> datetime | None:
    said = listing.time.text(item)
    at = None if said is None else instant_of(said, listing.time_unit)
    try:
        return None if at is None else at.astimezone(UTC)
    except OverflowError:
        return None


def _delivery(channel: DeclaredChannel, listing: Listing, item: Item) -> VerifiedDelivery:
    settings = channel.settings
    headers, query = listing.headers_and_query(item)
    document = listing.document(item)
    body, kind = b"", ""
    match settings.body:
        case "json":
            body, kind = json_text.encode(document), settings.media_type
        case "form":
            body, kind = urlencode(_texts(document), errors="replace").encode(), settings.media_type
        case _:
            query |= _texts(document)
    if len(body) > channel.max_body_bytes:
        raise MalformedDelivery("It is longer than a delivery may be.")
    target = f"{channel.path}?{urlencode(query, errors='replace')}" if query else channel.path
    return VerifiedDelivery(channel.name, kind, body, _EPOCH, target=target, headers=headers)


def _texts(document: Any) -> dict[str, str]:
    """What can stand in a form.

    Raises:
        Unreadable: one is an object or a list.
    """
    if not isinstance(document, Mapping):
        raise Unreadable("a form has names")
    for name, value in document.items():
        if isinstance(value, dict | list):
            raise Unreadable(f"{name} is an object or a list")
    return {name: text_of(one) for name, one in document.items() if one is not None}
