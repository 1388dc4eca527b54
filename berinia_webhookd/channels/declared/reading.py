"""Reading the events of a verified delivery, by the blocks of a declaration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from berinia_webhookd.channels.addresses_of_people import event_digest, normal_party
from berinia_webhookd.channels.declared.events import MOST_EVENTS, PHONE, Block
from berinia_webhookd.channels.declared.fields import Field, Item, Unreadable, all_hold, never_held
from berinia_webhookd.channels.declared.proof import Proof, instant_of
from berinia_webhookd.channels.declared.request import query_of
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.channels.json_body import decode_json
from berinia_webhookd.channels.signatures import in_signing_order
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import (
    Conversation,
    Decoded,
    Event,
    EventKind,
    EventMark,
    OptOut,
    RejectedItem,
    VerifiedDelivery,
)
from berinia_webhookd.urlencoded import as_bytes, decode_urlencoded, raw_fields, readable

_NO_MARKS: Final[frozenset[EventMark]] = frozenset()


class Reader:
    """Reads the deliveries of one channel; `proof` says which of their parts it covers."""

    def __init__(self, settings: DeclaredSettings, proof: Proof) -> None:
        self.name = settings.name
        self.settings = settings
        by_fields = settings.signed is not None and "fields" in settings.signed.names
        names = frozenset(name for block in settings.event for name in block.recognised_by)
        # The fields of a form that identify its events, if the form is signed.
        self.recognised_by = names if by_fields else None
        self._alike = [  # blocks grouped by their items
            [block for block in settings.event if block.items == steps]
            for steps in dict.fromkeys(block.items for block in settings.event)
        ]
        self._recognising = {id(block) for block in settings.event if block.is_recognised(proof)}

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Read all events by the blocks; items that match no block are kept as rejected."""
        root = self._root(delivery)
        events: list[Event] = []
        rejected: list[RejectedItem] = []
        ignored = 0
        ignore = self.settings.ignore
        for block, item in self._items(root):
            if ignore and all_hold(ignore, item):
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
        """Yield every item with its matching block, if any, and the whole delivery if it is
        declared as ignored.
        """
        found = False
        for alike in self._alike:
            for item in alike[0].reached(root):
                for block in alike:
                    if block.takes(item):
                        break
                else:
                    block = None
                if block is not None or alike[0].items:
                    found = True
                    yield block, item
        if not found and self.settings.ignore and all_hold(self.settings.ignore, root):
            yield None, root

    def unmet(self, delivery: VerifiedDelivery) -> list[str]:
        """Describe which condition of which block a delivery does not meet.

        Raises:
            MalformedDelivery: its body cannot be read at all.
        """
        root = self._root(delivery)
        said: list[str] = []
        for number, block in enumerate(self.settings.event, 1):
            items = list(block.reached(root))
            if block.items and not items:
                said.append(f"block {number} ({block}): nothing stands there")
            said += [f"block {number}: {one}" for one in never_held(block.where, items)]
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
        sender, recipient, thread, status, message, said = [
            None if field is None else field.text(item) for field in block.texts
        ]
        digest = self._digest(delivery, block, item)
        node = item.nodes[-1]
        text = _soft(block.text, item)
        at = None if said is None else instant_of(said, block.time_unit)
        # The sender of a receipt is the recipient of the message.
        person = (recipient or sender) if block.kind is EventKind.RECEIPT else sender
        country = self.settings.country if block.address == PHONE else None
        return Event(
            channel=self.name,
            agent=block.agent or self.settings.agent,
            conversation=self._conversation(
                normal_party(person or "", country),
                normal_party(thread) if thread else normal_party(recipient or "", country),
                message if status is not None else None,
                digest,
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
            raw=node if isinstance(node, dict) else {"value": node},
        )

    def _digest(self, delivery: VerifiedDelivery, block: Block, item: Item) -> bytes:
        """Return the digest of an event: by `id` if its fields are proven, else by the body."""
        if id(block) in self._recognising:
            parts = [one.text(item) for one in block.id]
            if parts.count(None) == len(parts):
                raise Unreadable("all fields of id are missing")
            return event_digest(self.name, block.kind, *parts)
        content = delivery.body or as_bytes(delivery.target)
        if self.recognised_by is not None:  # a form, whose order and escapes may vary
            content = repr(in_signing_order(decode_urlencoded(content))).encode()
        body = hashlib.sha256(content).hexdigest()
        return event_digest(self.name, block.kind, body, item.path)

    def _conversation(
        self, person: str, party: str, message: str | None, digest: bytes
    ) -> Conversation:
        """Return the conversation; receipts of one message share one."""
        if message is not None:
            return Conversation(self.name, person, f"message:{message[:300]}")
        if not person and not party:
            return Conversation(self.name, "", f"event:{digest.hex()}")
        return Conversation(self.name, person, party)


def _soft(field: Field | None, item: Item) -> str | None:
    """Return an optional text; None for an object or a list."""
    try:
        return None if field is None else field.text(item)
    except Unreadable:
        return None


def _marks(block: Block, item: Item, text: str | None) -> frozenset[EventMark]:
    if not block.marks and text and not text.isspace():
        return _NO_MARKS
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
