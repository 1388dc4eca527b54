"""Builds requests as providers send them, for the tests of this folder."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode

from twilio.request_validator import RequestValidator

from berinia_webhookd import testing
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.settings import MailgunSettings, TwilioSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.fields import settings_of
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.model import (
    Caller,
    ChannelName,
    Event,
    RawDelivery,
    VerifiedDelivery,
)

SettingsT = TypeVar("SettingsT", bound=ChannelSettings)

SMS, EMAIL, WHATSAPP = ChannelName("sms"), ChannelName("email"), ChannelName("whatsapp")
AGENT, FORM = testing.AGENT, testing.FORM
NOW = datetime(2026, 11, 24, 9, 30, 0, 123456, tzinfo=UTC)

caller = testing.a_caller
raw_delivery = partial(testing.a_raw_delivery, received_at=NOW)
arrived = partial(testing.arrived, received_at=NOW)

TOKEN = "0123456789abcdef0123456789abcdef"
OLD_TOKEN = "fedcba9876543210fedcba9876543210"
PUBLIC_URL = "https://app.example.com"
SMS_PATH = "/webhook/sms-response"
MESSAGE_SID = "SM" + "0a" * 16
ACCOUNT_SID = "AC" + "1b" * 16

SMS_FIELDS = {
    "AccountSid": ACCOUNT_SID,
    "ApiVersion": "2010-04-01",
    "Body": "Oui, rappelez-moi",
    "From": "+33639980001",
    "FromCity": "",
    "FromCountry": "FR",
    "MessageSid": MESSAGE_SID,
    "NumMedia": "0",
    "NumSegments": "1",
    "SmsMessageSid": MESSAGE_SID,
    "SmsSid": MESSAGE_SID,
    "SmsStatus": "received",
    "To": "+33639980000",
}


def event_of(channel: Channel, delivery: VerifiedDelivery) -> Event:
    """The one event of a delivery."""
    decoded = channel.decode(delivery)
    (event,) = decoded.events
    assert decoded.rejected == ()
    return event


def settings_for(section: type[SettingsT], **changes: Any) -> SettingsT:
    """What can be set on a channel of this kind, at its defaults, with these changes."""
    assert section.built_in is not None
    defaults = {name: one.default for name, one in settings_of(section).items()}
    named = {one.name: getattr(section.built_in, one.name) for one in fields(section.built_in)}
    return section(**{**defaults, "kind": "", **named, **changes})


def secrets_of(texts: Iterable[str]) -> tuple[Secret, ...]:
    """As settings hold them."""
    return tuple(Secret(text) for text in texts)


def sms_channel(
    *,
    tokens: Sequence[str] = (TOKEN,),
    account_sids: Sequence[str] = (),
    public_urls: Sequence[str] = (),
    **more: Any,
) -> TwilioChannel:
    given = settings_for(
        TwilioSettings, tokens=secrets_of(tokens), account_sids=tuple(account_sids), **more
    )
    return TwilioChannel(given, public_urls)


class Repeated(dict[str, list[str]]):
    """Fields with repeated names, as twilio's library takes them."""

    def getall(self, name: str) -> list[str]:
        return self[name]


def twilio_signs(
    fields: Iterable[tuple[str, str]], url: str = PUBLIC_URL + SMS_PATH, token: str = TOKEN
) -> str:
    """The signature by twilio's own library."""
    values = Repeated()
    for name, value in fields:
        values.setdefault(name, []).append(value)
    return str(RequestValidator(token).compute_signature(url, values))


def signed_sms(
    fields: Mapping[str, str] | Sequence[tuple[str, str]] = SMS_FIELDS,
    *,
    url: str = PUBLIC_URL + SMS_PATH,
    target: str = SMS_PATH,
    token: str = TOKEN,
    who: Caller | None = None,
    sent: Sequence[tuple[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawDelivery:
    """A request that twilio's library signed; `sent` replaces the fields after signing."""
    pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
    return raw_delivery(
        SMS,
        urlencode(pairs if sent is None else sent).encode(),
        headers={
            "Content-Type": FORM,
            "X-Twilio-Signature": twilio_signs(pairs, url, token),
            **(headers or {}),
        },
        target=target,
        who=who,
    )


MAILGUN_KEY = "key-3ax6xnjp29jd6fds4gc373sgvjxteol0"
EMAIL_PATH = "/webhook/email-response"
MAIL_TOKEN = "5egbgr1vjgqxtrnp65xfznchgdccwh5d6i09vijqi3whgowmn6"
MAIL_FIELDS = {
    "recipient": "contact@example.com",
    "sender": "lead@example.com",
    "from": "Camille <lead@example.com>",
    "subject": "Re: votre proposition",
    "body-plain": "Oui.\r\n> Bonjour",
    "stripped-text": "Oui.",
    "Message-Id": "<one@example.com>",
    "Date": "Tue, 24 Nov 2026 10:29:58 +0100",
}


def email_channel(
    *, keys: Sequence[str] = (MAILGUN_KEY,), max_age_seconds: float = 43_200, **more: Any
) -> MailgunChannel:
    given = settings_for(
        MailgunSettings, signing_keys=secrets_of(keys), max_age_seconds=max_age_seconds, **more
    )
    return MailgunChannel(given)


def mailgun_signs(
    *, timestamp: str | None = None, token: str = MAIL_TOKEN, key: str = MAILGUN_KEY
) -> dict[str, str]:
    """The three fields, by Mailgun's published recipe."""
    stamp = str(int(NOW.timestamp())) if timestamp is None else timestamp
    signature = hmac.new(key.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
    return {"timestamp": stamp, "token": token, "signature": signature}


def mail(
    fields: Mapping[str, str] | Sequence[tuple[str, str]] = MAIL_FIELDS,
    *,
    proof: Mapping[str, str] | None = None,
) -> RawDelivery:
    """An urlencoded mail with its signature behind the other fields."""
    pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
    pairs += list((mailgun_signs() if proof is None else proof).items())
    body = urlencode(pairs, errors="surrogateescape").encode()
    return raw_delivery(EMAIL, body, target=EMAIL_PATH)


def mail_with_files(
    fields: Mapping[str, str], files: Sequence[tuple[str, str, str, bytes]]
) -> RawDelivery:
    """A multipart mail; files are (field, file name, type, content)."""
    out = []
    for name, value in {**fields, **mailgun_signs()}.items():
        disposition = f'Content-Disposition: form-data; name="{name}"'
        out.append(f"--xyz\r\n{disposition}\r\n\r\n{value}\r\n".encode())
    for name, file_name, content_type, content in files:
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"'
        head = f"--xyz\r\n{disposition}\r\nContent-Type: {content_type}\r\n\r\n"
        out.append(head.encode() + content + b"\r\n")
    body = b"".join(out) + b"--xyz--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    return raw_delivery(EMAIL, body, headers=headers, target=EMAIL_PATH)
