"""Twilio's callback for an incoming message (SMS, MMS, WhatsApp through Twilio).

https://www.twilio.com/docs/messaging/guides/webhook-request lists the fields; the list is open, so
unknown ones are verified, kept and passed on. Twilio answers STOP and HELP by itself, and does not
retry by default. This channel answers with an empty TwiML document, which sends no message.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from berinia_webhookd.channels import twilio_diagnosis
from berinia_webhookd.channels.addresses_of_people import conversation, event_digest
from berinia_webhookd.channels.contract import Answer, Channel, SignedRequest, sample_phone
from berinia_webhookd.channels.form import URLENCODED
from berinia_webhookd.channels.known_forms import KnownForms
from berinia_webhookd.channels.opt_out import WORDS
from berinia_webhookd.channels.provider import Provider, SecretSetting
from berinia_webhookd.channels.settings import TwilioSettings
from berinia_webhookd.channels.signatures import (
    TwilioKeys,
    body_digest_holds,
    is_plain,
    port_forms,
    signed_text,
)
from berinia_webhookd.channels.twilio_boundaries import (
    KINDS_OF_FORMS,
    KNOWN,
    reaches_into_url,
    require_unmoved,
)
from berinia_webhookd.channels.twilio_diagnosis import SIGNATURE_SHAPE
from berinia_webhookd.errors import (
    AccountRefused,
    ChannelNotConfigured,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    Decoded,
    Event,
    EventKind,
    OptOut,
    RawDelivery,
    Receipts,
    VerifiedDelivery,
)
from berinia_webhookd.urlencoded import Fields, decode_urlencoded, raw_fields

SIGNATURE_HEADER: Final = "X-Twilio-Signature"

REQUIRED: Final = ("From", "To", "Body", "MessageSid")
RECEIPT_REQUIRED: Final = ("From", "To", "MessageSid", "MessageStatus")
# What a person can send without a text.
_WITHOUT_TEXT: Final = ("MediaUrl0", "Latitude", "ButtonPayload", "FlowData", "InteractiveData")

# Twilio signs without separators: joining two fields, or splitting one, keeps the signature. So a
# field of known shape must have that shape, and names may not hold what only values do.
_SID = re.compile(r"[A-Z]{2}[0-9a-f]{32}")
_OPTIONAL_SID = re.compile(f"(?:{_SID.pattern})?")
_ACCOUNT = re.compile(rb"(?:^|&)AccountSid=(AC[0-9a-f]{32})(?![^&])")
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,100}")
_OPTIONAL_COUNT = re.compile(r"[0-9]{0,4}")
_OPT_OUT_TYPE = re.compile(f"(?ai:{'|'.join(OptOut)})?")
# Any kind, with any prefix (whatsapp:, rcs:, messenger:): carriers pass on senders of any form.
_ADDRESS = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,160}")
_SHAPES: Final[Mapping[str, re.Pattern[str]]] = {
    **{name: _OPTIONAL_SID for name in KNOWN if name.endswith("Sid")},
    "MessageSid": _SID,
    "AccountSid": _SID,
    "From": _ADDRESS,
    "To": _ADDRESS,
    "NumMedia": _OPTIONAL_COUNT,
    "NumSegments": _OPTIONAL_COUNT,
    "OptOutType": _OPT_OUT_TYPE,
    "MessageStatus": re.compile(r"[a-z_-]{1,32}"),
}
# Repeating a field with the same value keeps the signature as well. Twilio sends these once.
_SINGLE = frozenset(
    {
        *(
            "MessageStatus",
            "From",
            "To",
            "Body",
            "NumMedia",
            "NumSegments",
            "OptOutType",
            "ProfileName",
            "WaId",
        ),
        *("SmsStatus", "ApiVersion", "MessageType", "ButtonText", "ButtonPayload", "ButtonType"),
        *("InteractiveData", "FlowData", "ChannelMetadata", "Forwarded", "FrequentlyForwarded"),
        *("Latitude", "Longitude", "Address", "Label", "OriginalRepliedMessageSender"),
        *("FromCity", "FromState", "FromZip", "FromCountry"),
        *("ToCity", "ToState", "ToZip", "ToCountry"),
    }
)
_SINGLE_NUMBERED = re.compile(r"Media(?:ContentType|Url)[0-9]+")
_CACHED_HOSTS: Final = 16
# Twilio sends plain text to the person as a message, and reports other types as error 12300:
# https://www.twilio.com/docs/messaging/twiml.
_EMPTY_TWIML = Answer(200, "text/xml", b'<?xml version="1.0" encoding="UTF-8"?><Response/>')


def _run_input(event: Event) -> dict[str, Any]:
    """Return what BerinIA's agents read of an SMS."""
    data = {
        "sender": event.sender,
        "recipient": event.recipient,
        "body": event.body,
        "timestamp": event.received_at.isoformat(),
        "message_sid": event.message_id,
        "raw_data": dict(event.raw),
    }
    return {"action": "process_sms_response", "data": data}


TWILIO: Final = Provider(
    name="Twilio",
    console="Twilio's console, Phone Numbers, Messaging, A message comes in (HTTP POST)",
    secret=SecretSetting("tokens", "Twilio's console: Account, Auth Token", "TWILIO_TOKEN"),
    text_field="Body",
    sample="an SMS",
    # https://www.twilio.com/docs/usage/webhooks/webhooks-connection-overrides
    retries="Twilio does not send again, unless the URL in its console ends in #rc=5&rp=all",
    entered="{url}#rc=5&rp=all and, as the fallback URL, {url}",
    retries_by_itself=False,
    signs_url=True,
    run_input=_run_input,
)


class TwilioChannel(Channel):
    """Twilio behind one path."""

    kind = "twilio"
    provider = TWILIO
    media_types = frozenset({URLENCODED})
    opt_out_words = WORDS

    def __init__(self, settings: TwilioSettings, public_urls: Sequence[str] = ()) -> None:
        """Without `public_urls` the URL that was called is taken from the request."""
        super().__init__(settings)
        self._tokens = [token.reveal() for token in settings.tokens]  # the primary one signs
        self._keys = TwilioKeys(self._tokens)
        self._known_forms = KnownForms(_shape_of)
        self._account_sids = frozenset(settings.account_sids)
        self._public_urls = tuple(public_urls)
        self._public_forms = _both_forms(public_urls)
        self._receipt_agent = settings.receipt_agent or self.agent
        if settings.receipt_agent is None:
            self.receipts_hint = (
                f"Twilio sends status callbacks to {self.path}: take it out of StatusCallback "
                f"where messages are sent, or set channels.{self.name}.receipt_agent"
            )

    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` without any Auth Token."""
        if not self._tokens:
            raise ChannelNotConfigured(
                f"This channel has no secret yet: set channels.{self.name}.tokens."
            )

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Prove that Twilio signed this, over the URL it called and every field."""
        self.require_secret()
        fields: Fields | dict[str, str]
        known = self._known_forms.read(delivery.body)
        if known is None:
            fields = decode_urlencoded(delivery.body)
            signed = signed_text(fields)
        else:
            kind, values = known
            fields, signed = dict(zip(kind.names, values, strict=True)), kind.signed(values)
        signature = delivery.headers.get(SIGNATURE_HEADER, "")
        caller, target = delivery.caller, delivery.target
        forms = self._public_forms or _forms_called(caller.scheme, caller.host)
        matches = self._keys.match_text(signature, [form + target for form in forms], signed)
        if "?" in target and matches:
            matches = body_digest_holds(target, delivery.body) and not reaches_into_url(
                target, fields
            )
        if not matches:
            raise SignatureInvalid("The signature is missing or wrong.")
        return self._verified(delivery, fields=fields)

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Check what the signature leaves open, and read the message, or what became of one."""
        values, repeated = self._well_formed(delivery)  # what is read below is sent once
        receipt = _is_receipt(values)
        require_unmoved(values)
        if self._account_sids and values.get("AccountSid") not in self._account_sids:
            raise AccountRefused("This account is not accepted here.")
        sid, stated = values["MessageSid"], values.get("OptOutType")
        event = Event(
            self.name,
            self.agent,
            conversation(self.name, values["From"], values["To"], self.country),
            event_digest(self.name, sid),
            delivery.received_at,
            values["From"],  # the sender
            values["To"],
            values.get("Body", ""),
            message_id=sid,
            profile_name=values.get("ProfileName"),
            opt_out=OptOut(stated.upper()) if stated else None,  # with Advanced Opt-Out only
            raw=values,
            raw_multi=repeated,
        )
        return Decoded((self._receipt(event, values["MessageStatus"]) if receipt else event,))

    def _well_formed(
        self, delivery: VerifiedDelivery
    ) -> tuple[Mapping[str, str], Mapping[str, list[Any]]]:
        """Return name → last value, and of names that repeat all values."""
        fields = decode_urlencoded(delivery.body) if delivery.fields is None else delivery.fields
        if isinstance(fields, dict):  # of a kind that is known
            return fields, {}
        values, repeated = raw_fields(fields)
        _require_well_formed(fields, values, RECEIPT_REQUIRED if _is_receipt(values) else REQUIRED)
        if not repeated:
            self._known_forms.learn(tuple(values))
        return values, repeated

    def _receipt(self, event: Event, status: str) -> Event:
        """Return a receipt: the receipts of a message are a conversation of their own, with the
        person it was sent to.
        """
        sid = event.message_id or ""
        return event._replace(
            kind=EventKind.RECEIPT,
            status=status,
            agent=self._receipt_agent,
            conversation=conversation(self.name, event.recipient, sid, self.country),
            digest=event_digest(self.name, sid, status),
            opt_out=None,
        )

    def is_empty(self, event: Event) -> bool:
        """Whether it has neither text nor anything else that a person sent."""
        return super().is_empty(event) and not any(map(event.raw.get, _WITHOUT_TEXT))

    def answer(self, receipts: Receipts) -> Answer:
        """Return an empty TwiML document, which sends nothing to the person."""
        del receipts  # Twilio reads nothing but TwiML
        return _EMPTY_TWIML

    def resembles_provider(self, delivery: RawDelivery) -> bool:
        """Whether it has a signature of the right shape, and an account: ours, if those are set."""
        signature = delivery.headers.get(SIGNATURE_HEADER, "")
        if not SIGNATURE_SHAPE.fullmatch(signature):
            return False
        account = _ACCOUNT.search(delivery.body)
        return account is not None and (
            not self._account_sids or account[1].decode() in self._account_sids
        )

    def diagnose(self, delivery: RawDelivery) -> str | None:
        """Try the likely mistakes of an installation."""
        return twilio_diagnosis.diagnose(
            delivery,
            channel=self.name,
            signature=delivery.headers.get(SIGNATURE_HEADER, ""),
            tokens=self._tokens,
            public_urls=self._public_urls,
        )

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """Return an incoming SMS, as Twilio would send it to `base_url` or the public URL."""
        del now  # Twilio's requests carry no time
        sid = fields.get("MessageSid", f"SM{secrets.token_hex(16)}")
        account = min(self._account_sids, default="AC" + "0" * 32)
        sample = {
            "AccountSid": account,
            "ApiVersion": "2010-04-01",
            "Body": "Bonjour, je suis intéressé.",
            "From": sample_phone(),
            "FromCountry": "FR",
            "MessageSid": sid,
            "NumMedia": "0",
            "NumSegments": "1",
            "SmsMessageSid": sid,
            "SmsSid": sid,
            "SmsStatus": "received",
            "To": "+33639980000",
            "ToCountry": "FR",
            **fields,
        }
        url = port_forms(self._public_urls[0] if self._public_urls else base_url)[0] + self.path
        signature = base64.b64encode(secrets.token_bytes(20)).decode()
        if valid:
            signature = self._keys.signature(url, sample.items())
        headers = {"Content-Type": URLENCODED, SIGNATURE_HEADER: signature}
        return SignedRequest(self.path, headers, urlencode(sample).encode())


def _both_forms(base_urls: Iterable[str]) -> tuple[str, ...]:
    """Return both port forms, as written first: messaging callbacks keep the port of the configured
    URL, other products drop or add it, https://www.twilio.com/docs/usage/security.
    """
    forms = [port_forms(url) for url in base_urls]
    return tuple(dict.fromkeys([*(form[0] for form in forms), *(form[1] for form in forms)]))


@lru_cache(_CACHED_HOSTS)
def _forms_called(scheme: str, host: str) -> tuple[str, ...]:
    """Return both port forms of what a request was sent to; none where its host is no plain one."""
    return _both_forms([f"{scheme}://{host}"]) if is_plain(host) else ()


def _is_receipt(values: Mapping[str, str]) -> bool:
    return "MessageStatus" in values and "Body" not in values


def _require_well_formed(
    fields: Fields, values: Mapping[str, str], required: tuple[str, ...]
) -> None:
    missing, invalid_names, shapes = _checks_of(tuple(values), required)
    invalid = {name for name, fits in shapes if not fits(values[name])}
    if invalid_names:
        invalid.add("(field name)")  # not shown: it may hold part of a value
    if len(values) < len(fields):
        invalid |= _repeated(fields)
    if missing or invalid:
        message = "Fields are missing or ill-formed."
        raise MalformedDelivery(
            message, missing=missing, invalid=tuple(sorted(invalid)), values=values
        )


class _Checks(NamedTuple):
    """What the names of a form's fields say, and which of them have values of a known shape."""

    missing: tuple[str, ...]
    invalid_names: bool
    shapes: tuple[tuple[str, Callable[[str], object]], ...]


@lru_cache(KINDS_OF_FORMS)
def _checks_of(names: tuple[str, ...], required: tuple[str, ...]) -> _Checks:
    unknown = set(names) - KNOWN
    shapes = ((name, _shape_of(name)) for name in names)
    return _Checks(
        missing=tuple(name for name in required if name not in names),
        invalid_names=not all(map(_NAME.fullmatch, unknown)),
        shapes=tuple((name, shape.fullmatch) for name, shape in shapes if shape is not None),
    )


def _shape_of(name: str) -> re.Pattern[str] | None:
    return _SHAPES.get(name, _OPTIONAL_SID if name.endswith("Sid") else None)


def _repeated(fields: Fields) -> set[str]:
    """Return repeated names that Twilio sends only once."""
    counts = Counter(name for name, _ in fields)
    return {
        name
        for name, count in counts.items()
        if count > 1 and _is_single(name) and _NAME.fullmatch(name)
    }


def _is_single(name: str) -> bool:
    return name in _SINGLE or name.endswith("Sid") or bool(_SINGLE_NUMBERED.fullmatch(name))
