"""A message as Twilio's Messages API lists it, made into the form that its callback would have
brought: https://www.twilio.com/docs/messaging/api/message-resource.

The API does not tell the profile's name, the places and what a person tapped on: those fields are
missing. What the two share is the `MessageSid`, and so the digest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

from berinia_webhookd.channels.addresses_of_people import event_digest
from berinia_webhookd.channels.form import URLENCODED
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import ChannelName, Decoded, VerifiedDelivery
from berinia_webhookd.urlencoded import decode_urlencoded

if TYPE_CHECKING:
    from twilio.rest.api.v2010.account.message import MessageInstance

INBOUND: Final = "inbound"
_COUNT: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_PATH: Final = re.compile(r"/[A-Za-z0-9/._-]{1,500}", re.ASCII)


class ListedMessage(NamedTuple):
    """A message that somebody sent us, by Twilio's account of it."""

    id: str  # its SID
    account_sid: str
    to: str  # as Twilio spells it
    at: datetime  # its own time
    digest: bytes
    media: int  # how many files it has, which are asked for one message at a time
    form: bytes


class ListedFile(NamedTuple):
    """A file of a message."""

    url: str
    content_type: str


def listed(channel: ChannelName, message: MessageInstance, account: str) -> ListedMessage | None:
    """Return a message of an account's list; None if we sent it, or it is none.

    Raises:
        MalformedDelivery: it is not as documented.
    """
    sent_at = message.date_sent or message.date_created
    if str(message.direction) != INBOUND or not message.sid or sent_at is None:
        return None
    sid = message.sid
    fields: dict[str, Any] = {
        "AccountSid": message.account_sid or account,
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
    wrong = [name for name, value in fields.items() if not isinstance(value, str)]
    if not wrong and not _COUNT.fullmatch(fields["NumMedia"]):
        wrong.append("NumMedia")
    if not wrong and fields["AccountSid"] != account:
        wrong.append("AccountSid")
    if wrong or not isinstance(sent_at, datetime):
        raise MalformedDelivery("It is not as Twilio lists messages.", invalid=tuple(wrong))
    return ListedMessage(
        sid,
        account,
        fields["To"],
        sent_at.astimezone(UTC),
        event_digest(channel, sid),
        int(fields["NumMedia"]),
        urlencode(fields, errors="replace").encode(),  # half a character may have been cut off
    )


def listed_file(record: object) -> ListedFile:
    """Return a file of a message.

    Raises:
        MalformedDelivery: it is not as documented.
    """
    uri, content_type = getattr(record, "uri", None), getattr(record, "content_type", None)
    if not isinstance(uri, str) or not _PATH.fullmatch(uri) or not isinstance(content_type, str):
        raise MalformedDelivery("One of its files cannot be read.", invalid=("uri",))
    return ListedFile(f"https://api.twilio.com{uri.removesuffix('.json')}", content_type)


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
