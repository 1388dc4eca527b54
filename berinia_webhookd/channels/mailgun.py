"""Mailgun's callback for an incoming mail: a route with `forward("https://…")`.

https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/receive-http
Mailgun posts an urlencoded form, or multipart as soon as there are attachments, or the raw message
where the route's URL ends in `mime`. It retries for about eight hours unless the answer is 200 or
406; this channel never answers 406, because a wrong key would throw mail away for ever.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlencode

import orjson

from berinia_webhookd.channels.addresses_of_people import (
    addresses_in,
    conversation,
    event_digest,
)
from berinia_webhookd.channels.automatic_mail import auto_submitted_of
from berinia_webhookd.channels.contract import Answer, Channel, SignedRequest, sample_mail
from berinia_webhookd.channels.form import MULTIPART, URLENCODED, Form, decode_form, first_values
from berinia_webhookd.channels.html_text import text_of_html
from berinia_webhookd.channels.mail_headers import MAX_LENGTH, decode_words, unfolded
from berinia_webhookd.channels.mail_key import bare, mail_key
from berinia_webhookd.channels.mime import MimeMessage, parse_mime
from berinia_webhookd.channels.provider import Provider, SecretSetting
from berinia_webhookd.channels.settings import MailgunSettings
from berinia_webhookd.channels.signatures import (
    mailgun_match,
    mailgun_signature,
    may_be_signed,
    resembles_mailgun,
)
from berinia_webhookd.errors import (
    ChannelNotConfigured,
    DeliveryRejected,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    Attachment,
    Decoded,
    Event,
    RawDelivery,
    Receipts,
    VerifiedDelivery,
)
from berinia_webhookd.urlencoded import Fields, as_bytes, raw_fields, readable

# Time stamp and token are signed without a separator: moving a character from one to the other
# keeps the signature, and would make a token that looks new.
_TIMESTAMP = re.compile(r"[0-9]{10}")
_TOKEN = re.compile(r"[0-9A-Za-z]{50}")
_MAX_AHEAD_SECONDS: Final = 300
_LARGE_BODY_BYTES: Final = 262_144  # a larger one is read only if it may be signed
_REPLAY_DOMAIN: Final = b"berinia-webhookd mailgun signature\0"

TEXT_FIELDS: Final = ("stripped-text", "body-plain", "stripped-html", "body-html", "body-mime")
# What a mail without any text has: only a subject, or only files.
_OTHER_SIGNS: Final = ("subject", "message-headers", "attachment-count")


def _run_input(event: Event) -> dict[str, Any]:
    """Return a mail as BerinIA's agents expect it."""
    data = {
        "sender": event.sender,
        "recipient": event.recipient,
        "subject": event.subject or "",
        "body": event.body,
        "timestamp": event.received_at.isoformat(),
        "message_id": event.message_id or "",
        "raw_data": dict(event.raw),
    }
    return {"action": "process_email_response", "data": data}


MAILGUN: Final = Provider(
    name="Mailgun",
    console="Mailgun, Receiving, Routes, forward()",
    secret=SecretSetting(
        "signing_keys", "Mailgun: Send, Webhooks, HTTP webhook signing key", "MAILGUN_SIGNING_KEY"
    ),
    text_field="stripped-text",
    sample="an e-mail",
    # https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-retries
    retries="Mailgun tries again for eight hours, then drops the mail",
    signs_body=False,
    signs_time=True,
    run_input=_run_input,
)


class MailgunChannel(Channel):
    """Mailgun behind one path."""

    kind = "mailgun"
    provider = MAILGUN
    media_types = frozenset({URLENCODED, MULTIPART})

    def __init__(self, settings: MailgunSettings, public_urls: Sequence[str] = ()) -> None:
        super().__init__(settings, public_urls)
        self._keys = [key.reveal() for key in settings.signing_keys]
        # Mailgun retries for eight hours, and does not document whether it signs retries again.
        self._max_age_seconds = settings.max_age_seconds

    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` without any signing key."""
        if not self._keys:
            raise ChannelNotConfigured(
                f"This channel has no secret yet: set channels.{self.name}.signing_keys."
            )

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Verify that Mailgun signed it, and recently. The signature does not cover the body, so
        `replay_key` lets it be used for one message only.
        """
        self.require_secret()
        multipart = _may_have_files(delivery.content_type_header)
        large = len(delivery.body) > _LARGE_BODY_BYTES
        if large and not may_be_signed(self._keys, delivery.body, multipart=multipart):
            raise SignatureInvalid("The signature is missing or wrong.")
        form = decode_form(delivery.content_type_header, delivery.body)
        timestamp, token, signature = _signed_values(form.fields)
        if not _TIMESTAMP.fullmatch(timestamp) or not _TOKEN.fullmatch(token):
            raise SignatureInvalid("The signature is missing or incomplete.")
        if not mailgun_match(self._keys, signature, timestamp, token):
            raise SignatureInvalid("The signature is wrong.")
        age_seconds = delivery.received_at.timestamp() - int(timestamp)
        if not -_MAX_AHEAD_SECONDS <= age_seconds <= self._max_age_seconds:
            raise SignatureInvalid("The signature is too old, or from the future.")
        return self._verified(
            delivery,
            replay_key=hashlib.sha256(_REPLAY_DOMAIN + signature.encode()).digest(),
            # A form with files is large: it is decoded again rather than kept in memory.
            fields=None if multipart else form.fields,
        )

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Read the mail; its text is the first of `TEXT_FIELDS` that is not blank."""
        form = _form_of(delivery)
        message = MailMessage(form.fields)
        _require_well_formed(form, message)
        sender, recipient = message.field("sender") or "", message.field("recipient") or ""
        body, message_id = message.body, message.header("Message-Id")
        subject = message.field("subject") or message.header("Subject")
        subject = None if subject is None else unfolded(decode_words(subject))
        automatic, marks = auto_submitted_of(message.all, sender, subject)
        raw, raw_multi = raw_fields(form.fields)
        parties, date = conversation(self.name, sender, recipient), message.header("Date")
        event = Event(
            channel=self.name,
            agent=self.agent,
            conversation=parties,
            digest=event_digest(
                self.name,
                recipient,
                None if message_id is None else bare(message_id),
                sender,
                subject,
                date,
                body,
            ),
            received_at=delivery.received_at,
            sender=sender,
            recipient=recipient,
            body=body,
            subject=subject,
            message_id=message_id,
            auto_submitted=automatic,
            marks=marks,
            authors=message.authors - {parties.sender},
            attachments=tuple(_attachment(*file) for file in _files(form, message)),
            raw=raw,
            raw_multi=raw_multi,
            reconcile_key=mail_key(parties, message_id, date),
        )
        return Decoded((event,))

    def answer(self, receipts: Receipts) -> Answer:
        """Return 200, which ends Mailgun's retries."""
        event_id = receipts[0].event_id if receipts else None
        body = orjson.dumps({"status": "accepted", "event_id": event_id})
        return Answer(200, "application/json", body)

    def resembles_provider(self, delivery: RawDelivery) -> bool:
        """Whether it has a time stamp, a token and a signature of the right shape."""
        multipart = _may_have_files(delivery.content_type_header)
        return resembles_mailgun(delivery.body, multipart=multipart)

    def diagnose(self, delivery: RawDelivery) -> str | None:
        """Recognise a wrong clock, or a key with blanks or quotes around it."""
        try:
            form = decode_form(delivery.content_type_header, delivery.body)
        except DeliveryRejected:
            return None
        timestamp, token, signature = _signed_values(form.fields)
        if not _TIMESTAMP.fullmatch(timestamp) or not _TOKEN.fullmatch(token):
            return None
        if mailgun_match(self._keys, signature, timestamp, token):
            age_seconds = round(delivery.received_at.timestamp() - int(timestamp))
            if age_seconds < 0:
                return (
                    f"signed correctly, {-age_seconds} seconds from now by this machine's clock, "
                    "which is behind: `timedatectl set-ntp true`"
                )
            return (
                f"signed correctly, {age_seconds} seconds ago by this machine's clock: check the "
                f"clock (`timedatectl`), then channels.{self.name}.max_age_seconds"
            )
        clean = [key.strip().strip("\"'").strip() for key in self._keys]
        if mailgun_match(clean, signature, timestamp, token):
            return (
                f"take the blanks or quotes off channels.{self.name}.signing_keys (MAILGUN_API_KEY)"
            )
        return None

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """Return an incoming mail without attachments, as Mailgun would post it at `now`."""
        del base_url  # Mailgun does not sign the URL
        text = "Bonjour, je suis intéressé."
        timestamp = fields.get("timestamp", str(int(now.timestamp())))
        token = fields.get("token", secrets.token_hex(25))
        key = self._keys[0] if valid else secrets.token_hex(16)
        sender = fields.get("sender", sample_mail())
        sample = {
            "recipient": "contact@example.com",
            "sender": sender,
            "from": f"Camille <{sender}>",
            "subject": "Votre proposition",
            "body-plain": fields.get("stripped-text", text),
            "stripped-text": fields.get("body-plain", text),
            "Message-Id": f"<{secrets.token_hex(16)}@example.com>",
            "Date": format_datetime(now),
            "timestamp": timestamp,
            "token": token,
            "signature": mailgun_signature(key, timestamp, token),
        }
        given = {name.lower() for name in fields}
        kept = {name: value for name, value in sample.items() if name.lower() not in given}
        body = urlencode({**kept, **fields}).encode()
        return SignedRequest(self.path, {"Content-Type": URLENCODED}, body)

    def attachment_contents(self, delivery: VerifiedDelivery) -> Iterable[bytes]:
        """Read the files out of the stored body again."""
        form = decode_form(delivery.content_type_header, delivery.body)
        return (content for _, _, content in _files(form, MailMessage(form.fields)))


def _signed_values(fields: Fields) -> tuple[str, str, str]:
    """Return the last value of each field: user variables of an outgoing message come back as
    fields of the same name before Mailgun's own (django-anymail, anymail/webhooks/mailgun.py).
    """
    last = dict(fields)
    return last.get("timestamp", ""), last.get("token", ""), last.get("signature", "")


def _may_have_files(content_type_header: str) -> bool:
    return content_type_header.lstrip().lower().startswith(MULTIPART)


def _form_of(delivery: VerifiedDelivery) -> Form:
    """Return the form, decoded again if `verify` did not keep it."""
    if isinstance(delivery.fields, tuple):
        return Form(delivery.fields)
    return decode_form(delivery.content_type_header, delivery.body)


def _require_well_formed(form: Form, message: MailMessage) -> None:
    missing = [name for name in ("sender", "recipient") if message.field(name) is None]
    signs = (*TEXT_FIELDS, *_OTHER_SIGNS)
    if not form.files and all(message.field(name) is None for name in signs):
        missing.append(" or ".join(signs))
    invalid = () if (message.field("recipient") or "-").strip() else ("recipient",)
    if missing or invalid:
        text = "Fields are missing or ill-formed."
        values = {name: message.field(name) for name in invalid}
        raise MalformedDelivery(text, missing=tuple(missing), invalid=invalid, values=values)


def _files(form: Form, message: MailMessage) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, type and content of each file, whatever `attachment-count` says."""
    for part in form.files:
        yield unfolded(part.file_name), part.content_type, part.content
    for file in message.mime.files if message.mime is not None else ():
        yield file.file_name, file.content_type, file.content


def _attachment(file_name: str, content_type: str, content: bytes) -> Attachment:
    digest = hashlib.sha256(content).hexdigest()
    return Attachment(file_name, content_type, len(content), digest)


class MailMessage:
    """A mail, read lazily from the fields of a form.

    User variables of an outgoing message come back as fields of the same name, before or after
    Mailgun's own: its documentation leaves the order open, django-anymail takes the first of each,
    https://github.com/anymail/django-anymail/blob/main/anymail/webhooks/mailgun.py.
    """

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = fields
        self._values = first_values(fields)

    def field(self, name: str) -> str | None:
        """Return a field's first value, or None."""
        value = self._values.get(name)
        return None if value is None else readable(value)

    @cached_property
    def mime(self) -> MimeMessage | None:
        """The raw message, posted by routes whose URL ends in `mime`.

        Raises:
            MalformedDelivery: there is one, but it cannot be read.
        """
        content = self._values.get("body-mime")
        return None if content is None else parse_mime(as_bytes(content))

    def header(self, name: str) -> str | None:
        """Return a header that is not blank, by its name in any letter case."""
        return next((value for value in self.all(name) if value.strip()), None)

    def all(self, name: str) -> Sequence[str]:
        """Return every value of a header, unfolded, and cut to the length that raw mails have."""
        found = self._headers.get(name.lower(), ())
        return [unfolded(readable(value[:MAX_LENGTH])) for value in found]

    @cached_property
    def _headers(self) -> Mapping[str, Sequence[str]]:
        """First `message-headers`, then the fields (older forms have each header line as one),
        then the raw message.
        """
        headers: dict[str, list[str]] = {}
        found = [_listed_headers(self._values.get("message-headers", "")), self._fields]
        if self.mime is not None:
            found.append(self.mime.headers)
        for pairs in found:
            for name, value in pairs:
                headers.setdefault(name.lower(), []).append(value)
        return headers

    @property
    def authors(self) -> frozenset[str]:
        """The addresses in From and Reply-To, in normal form."""
        return addresses_in((*self.all("From"), *self.all("Reply-To")))

    @property
    def body(self) -> str:
        """The first text that is not blank, else the first one."""
        first: str | None = None
        for text in self._texts():
            if text.strip():
                return text
            first = text if first is None else first
        return first or ""

    def _texts(self) -> Iterator[str]:
        for name in TEXT_FIELDS[:-1]:
            text = self.field(name)
            if text is not None:
                yield text_of_html(text) if name.endswith("html") else text
        if self.mime is not None:
            yield self.mime.body


def _listed_headers(text: str) -> Iterable[tuple[str, str]]:
    """Yield the pairs of `message-headers`, a JSON list; a value can be a list itself, as that of
    Content-Type. Anything else is left out.
    """
    try:
        pairs: Any = orjson.loads(readable(text))
    except orjson.JSONDecodeError:
        return
    for pair in pairs if isinstance(pairs, list) else ():
        match pair:
            case [str(name), str(value) | [str(value), *_]]:
                yield name, value
            case _:
                continue
