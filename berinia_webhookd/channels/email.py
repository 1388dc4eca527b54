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
from typing import Final
from urllib.parse import urlencode

import orjson

from berinia_webhookd.channels.contract import PROBE_FIELD, Answer, SignedRequest
from berinia_webhookd.channels.email_message import TEXT_FIELDS, MailMessage
from berinia_webhookd.channels.email_proof import may_be_signed
from berinia_webhookd.channels.form import MULTIPART, URLENCODED, Fields, Form, decode_form
from berinia_webhookd.channels.form import raw_fields as read_raw_fields
from berinia_webhookd.channels.identity import conversation, event_digest
from berinia_webhookd.channels.opt_out import opt_out_of
from berinia_webhookd.channels.signatures import mailgun_match, mailgun_signature
from berinia_webhookd.errors import (
    ChannelNotConfigured,
    DeliveryRejected,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    AgentName,
    Attachment,
    ChannelName,
    Event,
    RawDelivery,
    Receipt,
    VerifiedDelivery,
)

EMAIL: Final = ChannelName("email")

# Time stamp and token are signed without a separator: a character moved from one to the other
# keeps the signature, but makes a token that was never seen.
_TIMESTAMP = re.compile(r"[0-9]{10}")
_TOKEN = re.compile(r"[0-9A-Za-z]{50}")
_MAX_AHEAD_SECONDS: Final = 300
_LARGE_BODY_BYTES: Final = 262_144  # above, a proof is looked for before the form is read
_REPLAY_DOMAIN: Final = b"berinia-webhookd mailgun signature\0"


class EmailChannel:
    """Mailgun behind one path.

    Args:
        signing_keys: HTTP webhook signing keys (not API keys), any of which may have signed.
        max_age_seconds: how old a signature may be; Mailgun's retries go on for eight hours, and
            its documentation leaves open whether they are signed anew.
    """

    media_types = frozenset({URLENCODED, MULTIPART})
    replies = False

    def __init__(
        self,
        *,
        signing_keys: Sequence[str],
        max_age_seconds: float,
        agent: AgentName,
        path: str,
        max_body_bytes: int,
    ) -> None:
        self.name = EMAIL
        self.path = path
        self.max_body_bytes = max_body_bytes
        self._agent = agent
        self._keys = tuple(signing_keys)
        self._max_age_seconds = max_age_seconds

    @property
    def agents(self) -> frozenset[AgentName]:
        """The one agent that gets every mail."""
        return frozenset({self._agent})

    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` without any signing key."""
        if not self._keys:
            raise ChannelNotConfigured(
                "This channel has no secret yet: set channels.email.signing_keys."
            )

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Prove that Mailgun signed this lately. The body is not covered by the signature, so it
        may be used for one message only: that is what `replay_key` is for.
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
        return VerifiedDelivery(
            channel=self.name,
            content_type_header=delivery.content_type_header,
            body=delivery.body,
            received_at=delivery.received_at,
            replay_key=hashlib.sha256(_REPLAY_DOMAIN + signature.encode()).digest(),
            # With files it is read once more: until then its texts would only weigh on memory.
            fields=None if multipart else form.fields,
        )

    def decode(self, delivery: VerifiedDelivery) -> Event:
        """Read the mail; the body is the first of `TEXT_FIELDS` that is not blank."""
        form = _form_of(delivery)
        message = MailMessage(form.fields)
        _require_well_formed(message)
        sender, recipient = message.field("sender") or "", message.field("recipient") or ""
        subject, body = message.field("subject") or message.header("Subject"), message.body
        message_id = message.header("Message-Id")
        raw, raw_multi = read_raw_fields(form.fields)
        return Event(
            channel=self.name,
            agent=self._agent,
            conversation=conversation(self.name, sender, recipient),
            digest=event_digest(
                self.name,
                recipient,
                None if message_id is None else message_id.strip().strip("<>"),
                sender,
                subject,
                message.header("Date"),
                body,
            ),
            received_at=delivery.received_at,
            sender=sender,
            recipient=recipient,
            body=body,
            subject=subject,
            message_id=message_id,
            opt_out=opt_out_of(body),
            auto_submitted=message.is_auto_submitted,
            attachments=tuple(_attachment(*file) for file in _files(form, message)),
            raw=raw,
            raw_multi=raw_multi,
        )

    def is_probe(self, delivery: VerifiedDelivery) -> bool:
        """Whether the form has the field that `doctor` adds."""
        if PROBE_FIELD.encode() not in delivery.body:
            return False
        return any(name == PROBE_FIELD for name, _ in _form_of(delivery).fields)

    def answer(self, receipt: Receipt | None) -> Answer:
        """200, which ends Mailgun's retries."""
        event_id = None if receipt is None else receipt.event_id
        body = orjson.dumps({"status": "accepted", "event_id": event_id})
        return Answer(200, "application/json", body)

    def diagnose(self, delivery: RawDelivery) -> str | None:
        """A wrong clock, or a key that was pasted with blanks or quotes."""
        try:
            form = decode_form(delivery.content_type_header, delivery.body)
        except DeliveryRejected:
            return None
        timestamp, token, signature = _signed_values(form.fields)
        if not _TIMESTAMP.fullmatch(timestamp) or not _TOKEN.fullmatch(token):
            return None
        if mailgun_match(self._keys, signature, timestamp, token):
            age_seconds = round(delivery.received_at.timestamp() - int(timestamp))
            return (
                f"signed correctly, {age_seconds} seconds ago by this machine's clock: check the "
                "clock (`timedatectl`), then channels.email.max_age_seconds"
            )
        clean = [key.strip().strip("\"'").strip() for key in self._keys]
        if mailgun_match(clean, signature, timestamp, token):
            return "take the blanks or quotes off channels.email.signing_keys (MAILGUN_API_KEY)"
        return None

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """An incoming mail without attachments as Mailgun would post it at `now`."""
        del base_url  # Mailgun does not sign the URL
        text = "Bonjour, je suis intéressé."
        timestamp = fields.get("timestamp", str(int(now.timestamp())))
        token = fields.get("token", secrets.token_hex(25))
        key = self._keys[0] if valid else secrets.token_hex(16)
        sample = {
            "recipient": "contact@example.com",
            "sender": "lead@example.com",
            "from": "Camille <lead@example.com>",
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
        """Read out of the stored body again."""
        form = decode_form(delivery.content_type_header, delivery.body)
        return (content for _, _, content in _files(form, MailMessage(form.fields)))


def _signed_values(fields: Fields) -> tuple[str, str, str]:
    """The last value of each: an outgoing message's user variables come back as fields of the same
    name, before Mailgun's own (django-anymail, anymail/webhooks/mailgun.py).
    """
    last = dict(fields)
    return last.get("timestamp", ""), last.get("token", ""), last.get("signature", "")


def _may_have_files(content_type_header: str) -> bool:
    return content_type_header.lstrip().lower().startswith(MULTIPART)


def _form_of(delivery: VerifiedDelivery) -> Form:
    """Files are not kept beside the fields, so a form that may have some is read once more."""
    if delivery.fields is None:
        return decode_form(delivery.content_type_header, delivery.body)
    return Form(delivery.fields)


def _require_well_formed(message: MailMessage) -> None:
    missing = [name for name in ("sender", "recipient") if message.field(name) is None]
    if all(message.field(name) is None for name in TEXT_FIELDS):
        missing.append(" or ".join(TEXT_FIELDS))
    invalid = () if (message.field("recipient") or "-").strip() else ("recipient",)
    if missing or invalid:
        text = "Fields are missing or ill-formed."
        raise MalformedDelivery(text, missing=tuple(missing), invalid=invalid)


def _files(form: Form, message: MailMessage) -> Iterator[tuple[str, str, bytes]]:
    """Name, type and content: what arrived counts, not what `attachment-count` says."""
    for part in form.files:
        yield part.file_name, part.content_type, part.content
    for file in message.mime.files if message.mime is not None else ():
        yield file.file_name, file.content_type, file.content


def _attachment(file_name: str, content_type: str, content: bytes) -> Attachment:
    digest = hashlib.sha256(content).hexdigest()
    return Attachment(file_name, content_type, len(content), digest)
