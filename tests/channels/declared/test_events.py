"""What declared blocks read of a delivery."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from berinia_webhookd.channels.declared.events import blocks
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import Conversation, EventKind, EventMark, OptOut

from .declarations import channel_with, read, texts

META = {
    "items": ["entry", "changes", "value.messages"],
    "id": ["id"],
    "sender": "from",
    "recipient": "^value.metadata.phone_number_id",
    "text": ["text.body", "button.text"],
    "time": "timestamp",
    "address": "phone",
}
STATUS = {
    "kind": "receipt",
    "items": ["entry", "changes", "value.statuses"],
    "id": ["id", "status", "timestamp"],
    "sender": "recipient_id",
    "status": "status",
    "message": "id",
    "rank": ["sent", "delivered", "read"],
}


def change(**value: Any) -> dict[str, Any]:
    return {"value": {"metadata": {"phone_number_id": "2000"}, **value}}


def test_every_item_of_nested_lists() -> None:
    """Messages and statuses of one delivery, each with its digest, conversation and time."""
    message = {"from": "33639980001", "id": "a", "timestamp": "1792999990", "text": {"body": "Oui"}}
    button = {"from": "33639980002", "id": "b", "button": {"text": "Non"}}
    status = {"id": "o", "status": "read", "timestamp": "1", "recipient_id": "33639980003"}
    body = {"entry": [{"changes": [change(messages=[message, button]), change(statuses=[status])]}]}
    found = read(body, META, STATUS)
    assert [event.body for event in found.events] == ["Oui", "Non", "read"]
    first, second, third = found.events
    assert first.conversation.sender == "+33639980001"
    assert first.recipient == "2000"
    assert first.said_at is not None
    assert first.digest != second.digest
    assert (third.kind, third.status, third.rank) == (EventKind.RECEIPT, "read", 2)
    assert (third.about, third.message_id) == ("o", "o")
    assert third.conversation.party == "message:o"
    assert found.rejected == ()


def test_a_bad_item_does_not_hold_back_the_others() -> None:
    """It is named by its place, and why."""
    items = [{"id": 1, "t": "one"}, {"t": "no id"}, {"id": {"a": 1}, "t": "odd"}, 7, {"id": 2}]
    block = {"items": ["list"], "id": "id", "text": "t"}
    found = read({"list": items}, block)
    assert texts(found) == ["one", ""]
    assert [(one.path, one.reason) for one in found.rejected] == [
        ("list.1", "all fields of id are missing"),
        ("list.2", "id is an object or a list"),
        ("list.3", "all fields of id are missing"),
    ]


def test_what_no_block_takes_is_kept_as_rejected_unless_it_is_ignored() -> None:
    """An item alone; a delivery as a whole."""
    block = {"items": ["list"], "where": "type=message", "id": "id"}
    body = {"list": [{"id": 1, "type": "message"}, {"type": "typing"}, {"type": "other"}]}
    found = read(body, block, ignore="type=typing")
    assert (len(found.events), found.ignored) == (1, 1)
    assert [one.path for one in found.rejected] == ["list.2"]
    with pytest.raises(MalformedDelivery):
        read({"type": "other"}, {"where": "type=message", "id": "id"})
    assert read({"type": "typing"}, {"where": "type=message"}, ignore="type=typing").ignored == 1


@pytest.mark.parametrize(
    ("body", "items"),
    [([{"id": 1}, {"id": 2}], [""]), ({"a": [{"b": [{"id": 1}]}, {"b": [{"id": 2}]}]}, ["a", "b"])],
)
def test_lists(body: object, items: list[str]) -> None:
    """A bare one, and lists in lists."""
    assert len(read(body, {"items": items, "id": "id"}).events) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("a.b", "deep"),
        ("list.1", "two"),
        ("list.9", ""),
        ("=fixed", "fixed"),
        ("header:X-Name", "head"),
        ("query:q", "asked"),
        (["none", "a.b"], "deep"),
        (["null", "a.b"], "deep"),
        ("big", "9007199254740993"),
        ("yes", "true"),
        ("a", ""),
    ],
)
def test_places(field: object, value: str) -> None:
    """Of a text: an object is none, and numbers keep their digits."""
    body = (
        b'{"id":1,"a":{"b":"deep"},"list":["one","two"],"null":null,"big":9007199254740993,'
        b'"yes":true}'
    )
    block = {"id": "id", "text": field}
    found = read(body, block, headers={"x-name": "head"}, target="/x?q=asked&q=no")
    assert texts(found) == [value]


def test_an_id_that_nothing_proves_makes_nothing_new() -> None:
    """A captured body under a new id is the same event."""
    block = {"id": "header:X-Id", "text": "t"}
    one, other = (read({"t": "x"}, block, headers={"x-id": id_}) for id_ in ("1", "2"))
    assert one.events[0].digest == other.events[0].digest


def test_marks_opt_outs_and_agents() -> None:
    """What the rules of a channel ask about."""
    block = {
        "id": "id",
        "sender": "who",
        "text": "t",
        "agent": "Other",
        "marks": {"echo": "mine"},
        "opt_out": {"stop": "event=unsubscribe|spam"},
        "attachments": "files",
    }
    (event,) = read({"id": 1, "who": "a@example.com", "mine": True, "event": "spam"}, block).events
    assert (event.agent, event.opt_out) == ("Other", OptOut.STOP)
    assert event.marks == {EventMark.ECHO, EventMark.EMPTY}
    (event,) = read({"id": 1, "files": [{"url": "x"}], "mine": False}, block).events
    assert event.marks == frozenset()


def test_a_receipt_speaks_for_the_person_it_is_about() -> None:
    """Whom the message was sent to: with `unsubscribed` the person asks for an end, at a time that
    its provider tells, or that nobody knows.
    """
    block = {
        "kind": "receipt",
        "id": "id",
        "sender": "from",
        "recipient": "to",
        "time": "at",
        "status": "event",
        "message": "id",
        "opt_out": {"stop": "event=unsubscribed"},
    }
    said = {"id": "1", "from": "us@example.com", "to": "Lead@example.com", "event": "unsubscribed"}
    (event,) = read({**said, "at": 1764500000}, block).events
    assert (event.conversation.sender, event.opt_out) == ("lead@example.com", OptOut.STOP)
    assert (event.said_at, event.time_unknown) == (datetime.fromtimestamp(1764500000, UTC), False)
    assert event.asks_consent
    for odd in ({}, {"at": "yesterday"}):
        (event,) = read({**said, **odd}, block).events
        assert (event.said_at, event.time_unknown) == (None, True)


def test_conversations() -> None:
    """By sender and thread, else recipient; without either an event is one of its own."""
    block = {"id": "id", "sender": "from", "recipient": "to", "thread": "in"}

    def of(**body: str) -> Conversation:
        return read({"id": 1, **body}, block).events[0].conversation

    assert of(**{"from": "A", "to": "B", "in": "C"})[1:] == ("a", "c")
    assert of(**{"from": "A", "to": "B"})[1:] == ("a", "b")
    assert of().party.startswith("event:")


def test_every_header_that_is_read_is_kept() -> None:
    """Also those of conditions: what is read is read again when a delivery is replayed."""
    conditions = {"where": "header:A", "unless": "header:B", "marks": {"echo": "header:C"}}
    fields = {"id": "header:D", "attachments": "header:E", "opt_out": {"stop": "header:F=x"}}
    channel = channel_with({**conditions, **fields}, ignore="header:X-Event=ping")
    assert channel.kept_headers == {*"abcdef", "x-event"}


@pytest.mark.parametrize(
    "body",
    [b"{", b"[" * 100_000, b'{"id":1,"id":2}', b"\xff", b"null", b'{"id":1e999}'],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    """It is kept, since it was proven."""
    with pytest.raises(MalformedDelivery):
        read(body, {"id": "id", "where": "id"})


def test_a_thousand_items_and_no_more() -> None:
    """More are no delivery that anybody makes."""
    block = {"items": ["list"], "id": "id"}
    assert len(read({"list": [{"id": n} for n in range(1000)]}, block).events) == 1000
    with pytest.raises(MalformedDelivery):
        read({"list": [{"id": n} for n in range(1001)]}, block)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"sendr": "a"}, "did you mean sender?"),
        ({"text": "a..b"}, "text: give a path"),
        ({"text": "cookie:a"}, "give a path"),
        ({"id": "^id"}, "leads out of the body"),
        ({"kind": "receipt"}, "needs status and message"),
        ({"status": "s"}, "of receipts"),
        ({"marks": {"odd": "a"}}, "marks are"),
        ({"opt_out": {"no": "a"}}, "stop"),
        ({"where": 7}, "condition"),
    ],
)
def test_a_block_that_makes_no_sense(block: dict[str, Any], words: str) -> None:
    """All that is wrong is said at once, with the block's number."""
    with pytest.raises(ValueError, match="block 2") as caught:
        blocks([{"id": "id"}, block])
    assert words in str(caught.value)
