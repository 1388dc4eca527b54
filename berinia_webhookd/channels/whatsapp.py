"""Messages of the BerinIA WhatsApp bot, a program on the same machine, built on whatsapp-web.js.

The bot signs nothing, waits for the answer, writes its `response` into the chat, and never retries.
It is verified by the address that it calls from, and by a shared secret if set; the group decides
which agent gets a message. Ids are those of https://docs.wwebjs.dev/Message.html: a person's is
`336…@c.us`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import orjson

from berinia_webhookd.addresses import require_allowed
from berinia_webhookd.channels.addresses_of_people import (
    event_digest,
    normal_group,
    normal_party,
)
from berinia_webhookd.channels.contract import Answer, Channel, Replies, SignedRequest, sample_phone
from berinia_webhookd.channels.json_body import decode_json_object
from berinia_webhookd.channels.provider import Provider, SecretSetting
from berinia_webhookd.channels.settings import WhatsAppSettings
from berinia_webhookd.channels.signatures import secret_match
from berinia_webhookd.errors import (
    ChannelNotConfigured,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    LONGEST_PAUSE_SECONDS,
    Conversation,
    Decoded,
    Event,
    EventMark,
    Pause,
    PauseRequest,
    RawDelivery,
    Receipts,
    VerifiedDelivery,
)

RECIPIENT: Final = "BerinIA"
DIRECT_MESSAGE: Final = "Direct Message"  # in place of a group
MEDIA_TYPE: Final = "application/json"
PAUSE: Final = "pause"  # the `type` of a request to pause a conversation

_REQUIRED = ("source", "type", "author", "content", "timestamp", "messageId")
_NOT_BLANK = ("author", "messageId")
_STORY: Final = "@broadcast"  # ends the sender of a status or story: status@broadcast
_PLACES: Final = ("from", "author", "sender", "group", "to", "chatId")


def _run_input(event: Event) -> dict[str, Any]:
    """Return a chat message as BerinIA's agents expect it."""
    group = event.group or DIRECT_MESSAGE
    return {
        "message": event.body,
        "content": event.body,
        "sender": event.sender,
        "recipient": RECIPIENT,
        "profile_name": event.profile_name or f"{group} (WhatsApp)",
        "message_type": "whatsapp",
        "source": "whatsapp",
        "group": group,
        "author": event.sender,
    }


BOT: Final = Provider(
    name="the WhatsApp bot",
    console="the WhatsApp bot's webhook URL",
    secret=SecretSetting("allowed_ips", "the addresses of the bot, such as 127.0.0.1"),
    text_field="content",
    sample="a WhatsApp message",
    retries="the bot does not send again",
    retries_by_itself=False,
    from_outside=False,
    signs_body=False,
    run_input=_run_input,
)


class WhatsAppChannel(Channel):
    """The WhatsApp bot."""

    kind = "berinia-whatsapp"
    provider = BOT
    media_types = frozenset({MEDIA_TYPE})

    def __init__(self, settings: WhatsAppSettings, public_urls: Sequence[str] = ()) -> None:
        super().__init__(settings, public_urls)
        self.replies = Replies(
            wait_seconds=settings.reply_wait_seconds,
            late_url=settings.late_reply_url,
            late_max_age_seconds=settings.late_reply_max_age_seconds,
            failure_text=settings.failure_reply,
        )
        self.allowed_networks = settings.allowed_ips
        self.address_is_proof = settings.address_alone
        self.listen = settings.listen
        self._secret = None if settings.secret is None else settings.secret.reveal()
        self._groups = {normal_group(group): agent for group, agent in settings.groups.items()}

    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` if nobody may call."""
        if not self.allowed_networks:
            raise ChannelNotConfigured(
                f"Nobody may call this yet: set channels.{self.name}.allowed_ips."
            )

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Require an allowed address and, if set, the secret."""
        self.require_secret()
        caller = delivery.caller
        if not self.address_is_proof:
            caller = replace(caller, loopback_locked=False)  # it is verified by something else
        require_allowed(self.allowed_networks or (), caller, "This address is not allowed here.")
        if self._secret is not None:
            scheme, _, token = delivery.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secret_match(self._secret, token.strip()):
                raise SignatureInvalid("The bearer token is missing or wrong.")
        return self._verified(delivery)

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Read a message of either form, or a request to pause."""
        document = decode_json_object(delivery.body)
        if document.get("type") == PAUSE:
            return Decoded((), pauses=self._pauses(document))
        if isinstance(document.get("message"), dict) and "author" not in document:
            return Decoded((self._older_event(document, delivery),))
        _require_well_formed(document)
        group = _group(document)
        author, message_id = document["author"], document["messageId"]
        event = self._event(
            delivery,
            document,
            digest=event_digest(self.name, message_id, author, group),
            sender=author,
            body=document["content"],
            group=group,
            message_id=message_id,
            profile_name=_optional_text(document, "profile_name"),
        )
        return Decoded((event,))

    def _pauses(self, document: dict[str, Any]) -> tuple[PauseRequest, ...]:
        """Read a request to pause: an author, a group, or an author in a group. An author alone
        means all their conversations, and the direct one even if there is none yet.
        """
        _require_pause(document)
        group, author = _group(document), _optional_text(document, "author") or ""
        party = normal_party(RECIPIENT if group is None else group)
        sender = normal_party(author, self.country) if author.strip() else None
        seconds = document.get("for_seconds")
        pause = Pause(
            by=self.provider.name,
            reason=_optional_text(document, "reason"),
            seconds=None if seconds is None else float(seconds),
        )
        request = PauseRequest(self.name, sender, party, pause, of_group=group is not None)
        return (request,) if group is not None else (request, replace(request, party=None))

    def _older_event(self, document: dict[str, Any], delivery: VerifiedDelivery) -> Event:
        """Read `{"sender", "profile_name", "message": {"text"}}` of the bot's first version."""
        text = document["message"].get("text")
        sender = document.get("sender")
        missing = tuple(
            name for name, value in (("sender", sender), ("message.text", text)) if value is None
        )
        invalid = [] if isinstance(text, str | None) else ["message.text"]
        if sender is not None and not (isinstance(sender, str) and sender.strip()):
            invalid.append("sender")
        invalid.extend(_invalid_options(document))
        if missing or invalid:
            raise _malformed(document, missing, invalid)
        # Without a time stamp, a retry looks like a person who says the same again.
        timestamp = document.get("timestamp") or delivery.received_at.isoformat()
        return self._event(
            delivery,
            document,
            digest=event_digest(self.name, sender, str(timestamp), text),
            sender=str(sender),
            body=str(text),
            group=_group(document),
            message_id=_optional_text(document, "messageId"),
            profile_name=_optional_text(document, "profile_name"),
        )

    def _event(
        self,
        delivery: VerifiedDelivery,
        document: dict[str, Any],
        *,
        digest: bytes,
        sender: str,
        body: str,
        group: str | None,
        message_id: str | None,
        profile_name: str | None,
    ) -> Event:
        agent = self.agent
        if group is not None:
            agent = self._groups.get(normal_group(group), agent)
        return Event(
            channel=self.name,
            agent=agent,
            conversation=Conversation(
                self.name,
                normal_party(sender, self.country),
                normal_party(RECIPIENT if group is None else group),
            ),
            digest=digest,
            received_at=delivery.received_at,
            sender=sender,
            recipient=RECIPIENT,
            body=body,
            message_id=message_id,
            group=group,
            profile_name=profile_name,
            raw=document,
            marks=frozenset(_marks(document)),
        )

    def answer(self, receipts: Receipts) -> Answer:
        """Return 202, as no reply came in time; for a probe and for skipped messages, 200."""
        event_id = receipts[0].event_id if receipts else None
        to_come = any(receipt.skipped is None for receipt in receipts)
        status = "ok" if receipts and not to_come else "accepted"
        body = orjson.dumps({"status": status, "event_id": event_id})
        return Answer(202 if to_come else 200, MEDIA_TYPE, body)

    def resembles_provider(self, delivery: RawDelivery) -> bool:
        """Return True: only a request from the bot's address gets as far as the secret."""
        del delivery
        return True

    def diagnose(self, delivery: RawDelivery) -> str | None:
        """Recognise a missing or wrong bearer token."""
        if self._secret is None:
            return None
        if not delivery.headers.get("Authorization"):
            return (
                f"channels.{self.name}.secret is set, but the request carries no Authorization "
                "header: let the bot send `Authorization: Bearer …`, or unset the secret"
            )
        return f"the Authorization header is not `Bearer` and channels.{self.name}.secret"

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """Return a message in a group, as the bot posts it; `group=` makes it a direct one."""
        del base_url  # nothing here depends on the URL
        document = {
            "source": "whatsapp",
            "type": "group",
            "group": "🤖 Support IA / Chatbot",
            "author": f"{sample_phone()[1:]}@c.us",
            "content": "Bonjour",
            "timestamp": now.isoformat(),
            "messageId": secrets.token_hex(16).upper(),
            **fields,
        }
        if document["group"] in ("", DIRECT_MESSAGE):
            document |= {"type": "direct", "group": DIRECT_MESSAGE}
        headers = {"Content-Type": MEDIA_TYPE}
        if self._secret is not None:
            token = self._secret if valid else secrets.token_hex(16)
            headers["Authorization"] = f"Bearer {token}"
        elif not valid:  # only the address can be wrong
            headers["X-Forwarded-For"] = "192.0.2.1"
        return SignedRequest(self.path, headers, orjson.dumps(document))


def _require_well_formed(document: Mapping[str, Any]) -> None:
    missing = [name for name in _REQUIRED if document.get(name) is None]
    texts = ("source", "type", "author", "content", "messageId")
    invalid = [name for name in texts if not isinstance(document.get(name), str | None)]
    for name in _NOT_BLANK:
        value = document.get(name)
        if isinstance(value, str) and not value.strip():
            invalid.append(name)
    invalid.extend(_invalid_options(document))
    if missing or invalid:
        raise _malformed(document, missing, invalid)


def _invalid_options(document: Mapping[str, Any]) -> list[str]:
    """Return the ill-formed fields among those of both forms."""
    invalid = []
    group = document.get("group")
    if not isinstance(group, str | None):
        invalid.append("group")
    timestamp = document.get("timestamp")
    # The bot sends ISO 8601; whatsapp-web.js itself counts seconds.
    if isinstance(timestamp, bool) or not isinstance(timestamp, str | int | float | None):
        invalid.append("timestamp")
    return invalid


def _require_pause(document: Mapping[str, Any]) -> None:
    texts = ("source", "author", "group", "reason")
    invalid = [name for name in texts if not isinstance(document.get(name), str | None)]
    missing = ["source"] if document.get("source") is None else []
    if not invalid and _group(document) is None and not (document.get("author") or "").strip():
        missing.append("author or group")
    seconds = document.get("for_seconds")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (is_number and 0 <= seconds <= LONGEST_PAUSE_SECONDS):
        invalid.append("for_seconds")
    if missing or invalid:
        raise _malformed(document, missing, invalid)


def _malformed(
    document: Mapping[str, Any], missing: Sequence[str], invalid: Sequence[str]
) -> MalformedDelivery:
    message = "Fields are missing or ill-formed."
    return MalformedDelivery(
        message, missing=tuple(missing), invalid=tuple(invalid), values=document
    )


def _group(document: Mapping[str, Any]) -> str | None:
    """Return the group exactly as received; None for a direct message, which has no group or says
    so in it, whatever its `type`.
    """
    group = _optional_text(document, "group")
    if document.get("type") == "direct" or group in ("", DIRECT_MESSAGE):
        return None
    return group


def _marks(document: Mapping[str, Any]) -> Iterator[EventMark]:
    """Yield the marks of what is no message to us."""
    if any((_optional_text(document, place) or "").endswith(_STORY) for place in _PLACES):
        yield EventMark.BROADCAST
    if document.get("fromMe") is True:
        yield EventMark.ECHO


def _optional_text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None
