"""A channel that is declared in the file: proof, events, handshake and answers from its settings.

What each key means stands in the README; the schemes are in `proof.py`, the places of values in
`fields.py`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus, urlencode

from berinia_webhookd import json_text
from berinia_webhookd.addresses import in_networks
from berinia_webhookd.channels.addresses_of_people import event_digest, normal_party
from berinia_webhookd.channels.contract import Answer, Channel, SignedRequest
from berinia_webhookd.channels.declared.events import MOST_EVENTS, Block
from berinia_webhookd.channels.declared.fields import Field, Item, Unreadable, all_hold
from berinia_webhookd.channels.declared.presets import provider_of
from berinia_webhookd.channels.declared.proof import NoProof, Proof, instant_of
from berinia_webhookd.channels.declared.request import Request, query_of
from berinia_webhookd.channels.declared.sample import names_of, sample_of, with_value
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.channels.form import URLENCODED, raw_fields, readable
from berinia_webhookd.channels.json_body import decode_json
from berinia_webhookd.channels.provider import Provider
from berinia_webhookd.channels.signatures import in_signing_order
from berinia_webhookd.channels.twilio_boundaries import require_apart
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.errors import (
    AddressRefused,
    CannotSign,
    ChannelNotConfigured,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    Caller,
    ChannelName,
    Conversation,
    Decoded,
    Event,
    EventKind,
    EventMark,
    OptOut,
    RawDelivery,
    Receipts,
    RejectedItem,
    VerifiedDelivery,
)
from berinia_webhookd.urlencoded import as_bytes, decode_urlencoded

JSON: Final = "application/json"


class DeclaredChannel(Channel):
    """One declared channel."""

    kind = "declared"
    provider = provider_of(None, ChannelName("declared"))

    def __init__(self, settings: DeclaredSettings, public_urls: Sequence[str] = ()) -> None:
        self.provider = self.provider_of(settings)  # type: ignore[misc] # each has its own
        super().__init__(settings, public_urls)
        self.settings = settings
        self._public_urls = public_urls
        try:
            self._proof: Proof = settings.proof()
        except ValueError:  # a configuration that is refused is looked at all the same
            self._proof = NoProof()
        self.can_sign = self._proof.can_sign
        self._handshake_keys = [one.reveal().encode() for one in settings.handshake_secrets]
        asked = settings.handshake is not None and not settings.handshake.is_in_body
        self.methods = frozenset(settings.methods) | ({"GET"} if asked else set())
        form = settings.body == "form"
        self.media_types = frozenset({URLENCODED} if form else {JSON})  # type: ignore[misc]
        self.allowed_networks = settings.allowed_ips
        self.address_is_proof = settings.verify == "address"
        read = [block.headers for block in settings.event]
        self.kept_headers = frozenset().union(
            *read, *(one.field.headers for one in settings.ignore)
        )
        # A MAC that answers a question is over a word: none passes for an object or a list.
        self._signs_questions = settings.signs_questions
        by_fields = settings.signed is not None and "fields" in settings.signed.names
        names = frozenset(name for block in settings.event for name in block.recognised_by)
        self._recognised_by = names if by_fields else None
        self._alike = [  # blocks of the same items
            [block for block in settings.event if block.items == steps]
            for steps in dict.fromkeys(block.items for block in settings.event)
        ]
        self._recognising = [block for block in settings.event if self._proves(block)]
        source = settings.token or ""
        self.secret_parameter = source.removeprefix("query:") if source[:6] == "query:" else None
        self.sample_names = names_of(settings)

    @classmethod
    def provider_of(cls, settings: ChannelSettings) -> Provider:
        """Return what its preset says, or what is true of any."""
        preset = settings.preset if isinstance(settings, DeclaredSettings) else None
        return provider_of(preset, settings.name)

    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` while nothing can be proved."""
        if not self.settings.secrets and self.settings.verify != "address":
            raise ChannelNotConfigured(
                f"This channel has no secret yet: set channels.{self.name}.secrets."
            )

    def handshake(self, delivery: RawDelivery) -> Answer | None:
        """See `Channel.handshake`; a question in a body must have the channel's proof first."""
        declared = self.settings.handshake
        if declared is None:
            return None
        request = Request(delivery, self._public_urls)
        if not declared.may_ask(request):
            return None
        if declared.is_in_body:
            self._prove(request)
        if not declared.asks(request):
            return None
        if not declared.checks(request, self._handshake_keys):
            raise SignatureInvalid("The verify token is missing or wrong.")
        answer = declared.answer(request, self._handshake_keys or self.settings.keys)
        if answer is None:
            raise SignatureInvalid("The question has nothing that can be answered.")
        return Answer(200, *answer)

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Prove it as the declaration says."""
        self.require_secret()
        if delivery.method not in self.settings.methods:
            raise SignatureInvalid("This method is for the provider's question alone.")
        replay_key = self._prove(Request(delivery, self._public_urls))
        if self.secret_parameter is not None:
            delivery = delivery._replace(target=self._without_secret(delivery.target))
        if self.settings.body == "query":  # a body is neither read nor proven
            delivery = delivery._replace(body=b"")
        return self._verified(delivery, replay_key=replay_key)

    def _without_secret(self, target: str) -> str:
        """Return a request target as it may be stored and shown."""
        path, mark, query = target.partition("?")
        if self.secret_parameter is None or not mark:
            return target
        shown = [
            f"{name}=***" if unquote_plus(name) == self.secret_parameter else pair
            for pair in query.split("&")
            for name in (pair.partition("=")[0],)
        ]
        return path + mark + "&".join(shown)

    def _prove(self, request: Request) -> bytes | None:
        client = request.delivery.caller.client
        networks = self.allowed_networks
        if networks is not None and (client is None or not in_networks(networks, client)):
            raise AddressRefused("This address is not allowed.")
        if self._signs_questions and request.body.lstrip()[:1] not in (b"{", b"["):
            raise SignatureInvalid("What this channel answers questions with could have signed it.")
        replay_key = self._proof.prove(request)
        if self._recognised_by is not None:
            require_apart(request.fields, self._recognised_by)
        return replay_key

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Read every event that a block declares; items that none takes are kept as rejected."""
        root = self._root(delivery)
        events: list[Event] = []
        rejected: list[RejectedItem] = []
        ignored = 0
        for block, item in self._items(root):
            if self.settings.ignore and all_hold(self.settings.ignore, item):
                ignored += 1
            elif block is None:
                rejected.append(RejectedItem(item.path, "no block of the channel takes it"))
            else:
                try:
                    events.append(self._event(delivery, block, item))
                except Unreadable as error:
                    rejected.append(RejectedItem(item.path, str(error)))
            if len(events) + len(rejected) > MOST_EVENTS:
                raise MalformedDelivery(f"It has more than {MOST_EVENTS} items.")
        if not events and [one.path for one in rejected] == [""]:
            raise MalformedDelivery(rejected[0].reason)
        if not events and not rejected and not ignored:
            raise MalformedDelivery("No block of the channel found an event in it.")
        return Decoded(tuple(events), tuple(rejected), ignored=ignored)

    def _items(self, root: Item) -> Iterator[tuple[Block | None, Item]]:
        """Yield every item with the block that takes it, if one does, and the whole delivery where
        it is named as nothing to keep.
        """
        found = False
        for alike in self._alike:
            for item in alike[0].reached(root):
                block = next((one for one in alike if one.takes(item)), None)
                if block is not None or alike[0].items:
                    found = True
                    yield block, item
        if not found and self.settings.ignore and all_hold(self.settings.ignore, root):
            yield None, root

    def unmet(self, delivery: VerifiedDelivery) -> list[str]:
        """Say which condition of which block named a value that a delivery does not have.

        Raises:
            MalformedDelivery: its body cannot be read at all.
        """
        root = self._root(delivery)
        said: list[str] = []
        for number, block in enumerate(self.settings.event, 1):
            items = list(block.reached(root))
            if block.items and not items:
                said.append(f"block {number} ({block}): nothing stands there")
            for condition in block.where:
                if items and not any(condition.holds(item) for item in items):
                    values = {condition.field.value(item) for item in items}
                    found = ", ".join(sorted(str(one) for one in values if one is not None)[:3])
                    said.append(
                        f"block {number}: where = {str(condition)!r} never holds: there is "
                        f"{found or 'nothing'}"
                    )
        return said

    def _root(self, delivery: VerifiedDelivery) -> Item:
        asked = query_of(delivery.target)
        query = {readable(name): readable(value) for name, value in asked.items()}
        match self.settings.body:
            case "json":
                document: Any = decode_json(delivery.body)
            case "form":
                document = raw_fields(decode_urlencoded(delivery.body))[0]
            case _:
                document = query
        headers = {name.lower(): readable(value) for name, value in delivery.headers.items()}
        return Item((document,), lambda name: headers.get(name.lower()), query)

    def _event(self, delivery: VerifiedDelivery, block: Block, item: Item) -> Event:
        for one in block.required:
            if one.text(item) is None:
                raise Unreadable(f"{one} is missing")
        sender, recipient, thread, status, message, said = (
            None if field is None else field.text(item)
            for field in (
                *(block.sender, block.recipient, block.thread),
                *(block.status, block.message, block.time),
            )
        )
        digest = self._digest(delivery, block, item)
        raw = item.node if isinstance(item.node, dict) else {"value": item.node}
        text = _soft(block.text, item)
        at = None if said is None else instant_of(said, block.time_unit)
        # A receipt belongs to the person whom the message was sent to.
        person = (recipient or sender) if block.kind is EventKind.RECEIPT else sender
        return Event(
            channel=self.name,
            agent=block.agent or self.agent,
            conversation=self._conversation(
                person, thread or recipient, message if status is not None else None, digest
            ),
            digest=digest,
            received_at=delivery.received_at,
            sender=sender or "",
            recipient=recipient or "",
            body=text if text is not None else status or "",
            subject=_soft(block.subject, item),
            message_id=message or (_soft(block.id[0], item) if block.id else None),
            kind=block.kind,
            status=status,
            thread=thread,
            opt_out=_opt_out(block, item) if block.opt_out else None,
            marks=_marks(block, item, text),
            rank=_rank(block, status),
            about=None if status is None else message,
            said_at=at,
            time_unknown=block.time is not None and at is None,
            raw=raw,
        )

    def _digest(self, delivery: VerifiedDelivery, block: Block, item: Item) -> bytes:
        """What makes it the same event: the fields of `id`, unless nothing proves them."""
        if any(one is block for one in self._recognising):
            parts = [one.text(item) for one in block.id]
            if parts.count(None) == len(parts):
                raise Unreadable("all fields of id are missing")
            return event_digest(self.name, block.kind, *parts)
        content = delivery.body or as_bytes(delivery.target)
        if self._recognised_by is not None:  # a form of which the order and the escapes are free
            content = repr(in_signing_order(decode_urlencoded(content))).encode()
        body = hashlib.sha256(content).hexdigest()
        return event_digest(self.name, block.kind, body, item.path)

    def _proves(self, block: Block) -> bool:
        """Whether the proof is over all that an event is recognised by."""
        proof = self._proof
        return bool(block.id) and all(
            one.headers <= proof.headers and (proof.covers_query or not one.is_in_query)
            for one in block.id
        )

    def _conversation(
        self, sender: str | None, party: str | None, message: str | None, digest: bytes
    ) -> Conversation:
        """All receipts of a message are one; what names nobody is one of its own."""
        if message is not None:
            return Conversation(self.name, normal_party(sender or ""), f"message:{message[:300]}")
        if not sender and not party:
            return Conversation(self.name, "", f"event:{digest.hex()}")
        return Conversation(self.name, normal_party(sender or ""), normal_party(party or ""))

    def is_empty(self, event: Event) -> bool:
        """Whether there is nothing in it, which `read` marks: it knows of files elsewhere."""
        return EventMark.EMPTY in event.marks

    def answer(self, receipts: Receipts) -> Answer:
        """What the declaration says, whatever arrived."""
        del receipts
        fixed = self.settings.answer
        return Answer(fixed.status, fixed.content_type, fixed.body.encode())

    def rejected_answer(self) -> Answer | None:
        """Answer what is kept and cannot be read like the rest: providers repeat or give up."""
        status = self.settings.rejected_status
        return self.answer(()) if status is None else Answer(status, "text/plain", b"")

    def resembles_provider(self, delivery: RawDelivery) -> bool:
        """A signature, token or password of the declared shape."""
        return self._proof.is_shaped(Request(delivery, self._public_urls))

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """Return a sample of the first block, with fields of that block laid over it.

        Raises:
            CannotSign: only the provider has the key.
        """
        settings = self.settings
        if valid and not self.can_sign:
            raise CannotSign(
                f"A sample for {self.name} cannot be signed: only the provider has the key.",
                hint=f"berinia-webhookd channels test {self.name} FILE reads a captured request",
            )
        secret = settings.keys[0] if valid and settings.secrets else secrets.token_bytes(16)
        document = sample_of(settings, fields, now)
        parameter = self.secret_parameter
        query = {} if parameter is None else {parameter: secret.decode("utf-8", "replace")}
        headers, body = {}, b""
        if settings.body == "query":
            query |= document
        else:
            headers["Content-Type"] = next(iter(self.media_types))
            body = urlencode(document).encode() if settings.body == "form" else _json(document)
        for name in settings.signed.names if settings.signed else ():
            if name.startswith("header:"):  # such as a nonce
                headers[name.removeprefix("header:")] = secrets.token_hex(16)
        if settings.body_hash_query is not None:
            query[settings.body_hash_query] = hashlib.sha256(body).hexdigest()
        target = f"{self.path}?{urlencode(query)}" if query else self.path
        kind = headers.get("Content-Type", "")
        made = VerifiedDelivery(self.name, kind, body, now, target=target, headers=headers)
        request = Request(_as_raw(made, settings.methods[0]), (base_url,))
        proof = self._proof.sign(request, secret, now)
        source, _, path = (settings.signature.source if settings.signature else "").partition(":")
        if source == "json":
            body = _json(with_value(document, path, proof.pop(path)))
        return SignedRequest(target, {**headers, **proof}, body)


_NOBODY: Final = Caller(None, None, "https", "", forwarded=False, peer_trusted=False)


def _as_raw(delivery: VerifiedDelivery, method: str = "") -> RawDelivery:
    """Return a delivery as a request, to read it by its names."""
    kind = delivery.content_type_header
    return RawDelivery(
        delivery.channel,
        _NOBODY,
        delivery.target,
        delivery.headers,
        kind,
        kind,
        delivery.body,
        delivery.received_at,
        method,
    )


def _json(document: Any) -> bytes:
    return json_text.encode(document)


def _soft(field: Field | None, item: Item) -> str | None:
    """Return a text of which nothing depends; an object or a list is none."""
    try:
        return None if field is None else field.text(item)
    except Unreadable:
        return None


def _marks(block: Block, item: Item, text: str | None) -> frozenset[EventMark]:
    marks = {mark for mark, when in block.marks.items() if when.holds(item)}
    if block.kind is EventKind.MESSAGE and not (text and text.strip()):
        files = None if block.attachments is None else block.attachments.value(item)
        if not files:
            marks.add(EventMark.EMPTY)
    return frozenset(marks)


def _opt_out(block: Block, item: Item) -> OptOut | None:
    return next((one for one, when in block.opt_out.items() if when.holds(item)), None)


def _rank(block: Block, status: str | None) -> int | None:
    return block.rank.index(status) if status in block.rank else None
