"""A fourth kind of channel, made by docs/adding-a-channel.md: WhatsApp by Meta's Cloud API.

https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/create-webhook-endpoint
Meta asks by a GET before it sends anything, signs the bytes of the body, puts up to a thousand
messages and statuses into one request, and tries again for days unless the answer is 200.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from berinia_webhookd.channels.addresses_of_people import conversation, event_digest
from berinia_webhookd.channels.contract import Answer, Channel, Kind, SignedRequest
from berinia_webhookd.channels.json_body import decode_json_object
from berinia_webhookd.channels.provider import Provider, SecretSetting
from berinia_webhookd.channels.signatures import secret_match
from berinia_webhookd.config import values
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.fields import setting
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.errors import ChannelNotConfigured, MalformedDelivery, SignatureInvalid
from berinia_webhookd.model import (
    Decoded,
    Event,
    EventKind,
    RawDelivery,
    Receipts,
    RejectedItem,
    VerifiedDelivery,
)

_SHAPE = re.compile(r"sha256=[0-9a-f]{64}")
SIGNATURE_HEADER: Final = "X-Hub-Signature-256"
JSON: Final = "application/json"

META: Final = Provider(
    name="Meta",
    console="Meta's app dashboard, WhatsApp, Configuration, Callback URL",
    secret=SecretSetting("app_secrets", "Meta's app dashboard: Settings, Basic"),
    text_field="body",
    sample="a message of the Cloud API",
    retries="Meta tries again for seven days, ever more seldom",
)


@dataclass(frozen=True, slots=True)
class MetaSettings(ChannelSettings):
    """A channel of kind `meta-cloud`."""

    app_secrets: tuple[Secret, ...] = setting(
        values.many(values.secret), (), "Meta app secrets; all are accepted", secret=True
    )
    verify_token: Secret | None = setting(
        values.secret, None, "what Meta's dashboard was told to prove itself with", secret=True
    )


class MetaChannel(Channel):
    """The Cloud API behind one path."""

    kind = "meta-cloud"
    provider = META
    media_types = frozenset({JSON})
    methods = frozenset({"GET", "POST"})

    def __init__(self, settings: MetaSettings, public_urls: Sequence[str] = ()) -> None:
        super().__init__(settings, public_urls)
        self._secrets = [secret.reveal().encode() for secret in settings.app_secrets]
        self._verify_token = settings.verify_token

    def require_secret(self) -> None:
        if not self._secrets:
            raise ChannelNotConfigured(
                f"This channel has no secret yet: set channels.{self.name}.app_secrets."
            )

    def handshake(self, delivery: RawDelivery) -> Answer | None:
        """`GET ?hub.mode=subscribe&hub.challenge=…&hub.verify_token=…`: the challenge, if the token
        is ours.
        """
        if delivery.method != "GET":
            return None
        query = parse_qs(delivery.target.partition("?")[2])
        mode, token, challenge = (
            query.get(f"hub.{name}", [""])[0] for name in ("mode", "verify_token", "challenge")
        )
        expected = None if self._verify_token is None else self._verify_token.reveal()
        if mode != "subscribe" or expected is None or not secret_match(expected, token):
            raise SignatureInvalid("The verify token is missing or wrong.")
        return Answer(200, "text/plain", challenge[:512].encode("utf-8", "surrogatepass"))

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """HMAC-SHA256 over the bytes received; the older SHA-1 header proves nothing."""
        self.require_secret()
        presented = delivery.headers.get(SIGNATURE_HEADER, "").encode("utf-8", "surrogatepass")
        matches = False
        for secret in self._secrets:
            matches |= hmac.compare_digest(_signature(secret, delivery.body), presented)
        if not matches:
            raise SignatureInvalid("The signature is missing or wrong.")
        return self._verified(delivery)

    def resembles_provider(self, delivery: RawDelivery) -> bool:
        return bool(_SHAPE.fullmatch(delivery.headers.get(SIGNATURE_HEADER, "")))

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Every message and status, each an event of its own; an item that is none is kept."""
        document = decode_json_object(delivery.body)
        events: list[Event] = []
        rejected: list[RejectedItem] = []
        for path, value in _values(document):
            for name, read in (("messages", self._message), ("statuses", self._status)):
                for number, item in enumerate(_list(value.get(name))):
                    try:
                        events.append(read(delivery, value, item))
                    except (KeyError, TypeError, AttributeError):
                        where = f"{path}.{name}.{number}"
                        rejected.append(RejectedItem(where, "a field is missing or ill-formed"))
        if not events and not rejected:
            raise MalformedDelivery("There is no message in it.", missing=("entry",))
        return Decoded(tuple(events), tuple(rejected))

    def _message(self, delivery: VerifiedDelivery, value: Any, item: Any) -> Event:
        sender, number = str(item["from"]), str(value["metadata"]["phone_number_id"])
        return Event(
            channel=self.name,
            agent=self.agent,
            conversation=conversation(self.name, sender, number),
            digest=event_digest(self.name, str(item["id"])),
            received_at=delivery.received_at,
            sender=sender,
            recipient=number,
            body=str(item.get("text", {}).get("body", "")),
            message_id=str(item["id"]),
            raw=item,
        )

    def _status(self, delivery: VerifiedDelivery, value: Any, item: Any) -> Event:
        id_, status, when = str(item["id"]), str(item["status"]), str(item["timestamp"])
        recipient, number = str(item["recipient_id"]), str(value["metadata"]["phone_number_id"])
        return Event(
            channel=self.name,
            agent=self.agent,
            conversation=conversation(self.name, recipient, number),
            digest=event_digest(self.name, id_, status, when),
            received_at=delivery.received_at,
            sender=recipient,
            recipient=number,
            body=status,
            message_id=id_,
            kind=EventKind.RECEIPT,
            raw=item,
        )

    def answer(self, receipts: Receipts) -> Answer:
        """200, and nothing to read."""
        del receipts
        return Answer(200, "text/plain", b"")

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """One text message; `from`, `id` and `body` can be set, others stand beside `entry`."""
        del base_url
        message = {
            "from": "33639980001",
            "id": f"wamid.{secrets.token_hex(16)}",
            "timestamp": str(int(now.timestamp())),
            "type": "text",
            "text": {"body": fields.get("body", "Bonjour")},
            **{name: fields[name] for name in ("from", "id") if name in fields},
        }
        metadata = {"display_phone_number": "33639980000", "phone_number_id": "200000000000002"}
        change = {"field": "messages", "value": {"metadata": metadata, "messages": [message]}}
        others = {name: fields[name] for name in fields.keys() - {"body", "from", "id"}}
        body = orjson.dumps({"entry": [{"id": "1", "changes": [change]}], **others})
        secret = self._secrets[0] if valid else secrets.token_bytes(16)
        headers = {"Content-Type": JSON, SIGNATURE_HEADER: _signature(secret, body).decode()}
        return SignedRequest(self.path, headers, body)


KIND: Final = Kind(MetaChannel, MetaSettings)


def _signature(secret: bytes, body: bytes) -> bytes:
    return b"sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest().encode()


def _values(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for one, entry in enumerate(_list(document.get("entry"))):
        changes = entry.get("changes") if isinstance(entry, Mapping) else None
        for other, change in enumerate(_list(changes)):
            value = change.get("value") if isinstance(change, Mapping) else None
            if isinstance(value, Mapping):
                yield f"entry.{one}.changes.{other}.value", value


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()
