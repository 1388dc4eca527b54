"""Every decoder of the daemon that reads what a stranger wrote, as a function of bytes. What may be
raised is a refusal; anything else, or an event that does not survive being stored, is a bug.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import orjson

from berinia_webhookd import addresses
from berinia_webhookd.channels import (
    addresses_of_people,
    opt_out,
    signatures,
    twilio_boundaries,
)
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.form import decode_form
from berinia_webhookd.channels.html_text import text_of_html
from berinia_webhookd.channels.json_body import decode_json_object
from berinia_webhookd.channels.mime import parse_mime
from berinia_webhookd.channels.settings import WhatsAppSettings
from berinia_webhookd.channels.whatsapp import WhatsAppChannel
from berinia_webhookd.errors import DeliveryRejected
from berinia_webhookd.journal import event_text
from berinia_webhookd.logs.personal_data import scrub
from berinia_webhookd.model import ChannelName, Event, VerifiedDelivery
from berinia_webhookd.urlencoded import raw_fields
from tests.channels.deliveries import (
    FORM,
    NOW,
    WHATSAPP,
    email_channel,
    raw_delivery,
    settings_for,
    sms_channel,
)

MULTIPART = "multipart/form-data; boundary=x"
CHAT = WhatsAppChannel(settings_for(WhatsAppSettings))
SMS_CHANNEL, EMAIL_CHANNEL = sms_channel(), email_channel()


def _verified(name: ChannelName, content_type: str, body: bytes) -> VerifiedDelivery:
    return VerifiedDelivery(name, content_type, body, NOW)


def _decode(channel: Channel, content_type: str, body: bytes) -> None:
    """What follows verification, to the text that is stored, and back."""
    with contextlib.suppress(DeliveryRejected):
        delivery = _verified(channel.name, content_type, body)
        decoded = channel.decode(delivery)
        # The bot's word to pause a conversation is no event.
        assert len(decoded.events) == (not decoded.pauses)
        for event in decoded.events:
            _store_and_read(event, delivery)
        for _ in channel.attachment_contents(delivery):
            continue


def _store_and_read(event: Event, delivery: VerifiedDelivery) -> None:
    stored = event._replace(
        marks=frozenset(),
        authors=frozenset(),
        as_start=None,
        said_at=None,
        time_unknown=False,
        skipped=None,
        reconcile_key=None,
    )
    for form in (None, delivery.fields):
        text, in_form = event_text.encode(event, form)
        text.encode()
        assert "\0" not in text
        assert event_text.decode(text, delivery.body if in_form else None) == stored


def _verify(channel: Channel, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type, "X-Twilio-Signature": body[:28].decode("latin-1")}
    delivery = raw_delivery(channel.name, body, headers=headers)
    with contextlib.suppress(DeliveryRejected):
        channel.verify(delivery)
        raise AssertionError("a forgery was believed")
    channel.diagnose(delivery)


def sms(body: bytes) -> None:
    _verify(SMS_CHANNEL, FORM, body)
    _decode(SMS_CHANNEL, FORM, body)


def mail(body: bytes) -> None:
    _verify(EMAIL_CHANNEL, FORM, body)
    _decode(EMAIL_CHANNEL, FORM, body)


def mail_with_files(body: bytes) -> None:
    _verify(EMAIL_CHANNEL, MULTIPART, body)
    _decode(EMAIL_CHANNEL, MULTIPART, body)


def chat(body: bytes) -> None:
    _decode(CHAT, "application/json", body)


def form(body: bytes) -> None:
    """The content type is a stranger's as well: it stands before the first line end."""
    content_type, _, rest = body.partition(b"\n")
    with contextlib.suppress(DeliveryRejected):
        fields = decode_form(content_type.decode("latin-1"), rest).fields
        orjson.dumps(raw_fields(fields))
        with contextlib.suppress(DeliveryRejected):
            twilio_boundaries.require_unmoved(dict(fields))
        twilio_boundaries.reaches_into_url("/x?" + content_type.decode("latin-1"), fields)


def json_object(body: bytes) -> None:
    with contextlib.suppress(DeliveryRejected):
        orjson.dumps(decode_json_object(body))


def mime(body: bytes) -> None:
    with contextlib.suppress(DeliveryRejected):
        message = parse_mime(body)
        orjson.dumps([message.headers, message.body])


def html(body: bytes) -> None:
    text_of_html(body.decode("utf-8", "surrogateescape"))


def names(body: bytes) -> None:
    """Senders, groups, hosts and words, and what of them is shown in logs."""
    text = body.decode("utf-8", "surrogateescape")
    addresses_of_people.normal_party(text)
    addresses_of_people.normal_group(text)
    addresses_of_people.event_digest(WHATSAPP, text, None)
    opt_out.OptOutWords(opt_out.WORDS, None).meaning(text)
    addresses.is_loopback(text)
    signatures.port_forms(text)
    scrub(text)


DECODERS: Mapping[str, Callable[[bytes], None]] = {
    decoder.__name__: decoder
    for decoder in (sms, mail, mail_with_files, chat, form, json_object, mime, html, names)
}
