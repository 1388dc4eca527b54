"""A message as Twilio's Messages API lists it, made into the form that its callback would have
brought: https://www.twilio.com/docs/messaging/api/message-resource.

The API does not tell the profile's name, the places and what a person tapped on: those fields are
missing. What the two share is the `MessageSid`, and so the digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

from berinia_webhookd.channels.addresses_of_people import event_digest
from berinia_webhookd.channels.form import URLENCODED
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.model import ChannelName, Decoded, VerifiedDelivery
from berinia_webhookd.urlencoded import decode_urlencoded

if TYPE_CHECKING:
    from twilio.rest.api.v2010.account.message import MessageInstance

INBOUND: Final = "inbound"


class ListedMessage(NamedTuple):
    """A message that somebody sent us, by Twilio's account of it."""

    id: str  # its SID
    account_sid: str
    at: datetime  # its own time
    digest: bytes
    media: int  # how many files it has, which are asked for one message at a time
    form: bytes


class ListedFile(NamedTuple):
    """A file of a message."""

    url: str
    content_type: str


def listed(channel: ChannelName, message: MessageInstance) -> ListedMessage | None:
    """Return a message of the list; None if we sent it, or it is none."""
    sent_at = message.date_sent or message.date_created
    if str(message.direction) != INBOUND or not message.sid or sent_at is None:
        return None
    sid, account = message.sid, message.account_sid or ""
    fields = {
        "AccountSid": account,
        "ApiVersion": message.api_version or "2010-04-01",
        "Body": message.body or "",
        "From": message.from_ or "",
        "MessageSid": sid,
        "NumMedia": message.num_media or "0",
        "NumSegments": message.num_segments or "1",
        "SmsMessageSid": sid,
        "SmsSid": sid,
        "SmsStatus": "received",
        "To": message.to or "",
    }
    if message.messaging_service_sid:
        fields["MessagingServiceSid"] = message.messaging_service_sid
    media = fields["NumMedia"]
    return ListedMessage(
        sid,
        account,
        sent_at.astimezone(UTC),
        event_digest(channel, sid),
        int(media) if media.isdecimal() else 0,
        urlencode(fields).encode(),
    )


def rebuilt(
    channel: TwilioChannel,
    message: ListedMessage,
    files: Sequence[ListedFile],
    *,
    now: datetime,
) -> tuple[VerifiedDelivery, Decoded]:
    """Return its callback, proven by who was asked, and what that means, with its own time.

    Raises:
        MalformedDelivery, AccountRefused: its callback would have been refused as well.
    """
    of_files = {
        name: value
        for number, file in enumerate(files)
        for name, value in (
            (f"MediaContentType{number}", file.content_type),
            (f"MediaUrl{number}", file.url),
        )
    }
    body = message.form + (b"&" + urlencode(of_files).encode() if of_files else b"")
    delivery = VerifiedDelivery(
        channel.name,
        URLENCODED,
        body,
        now,
        fields=decode_urlencoded(body),
        target=channel.path,
    )
    return delivery, channel.decode(delivery).as_reconciled(min(message.at, now))
