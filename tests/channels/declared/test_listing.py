"""How a provider is asked, as it is declared: what is understood, and what an item becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.fields import conditions, never_held
from berinia_webhookd.channels.declared.listed import ListedEvent, listed, rebuilt
from berinia_webhookd.channels.declared.listing import Auth, Paging, Url, item_of, listing
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import ChannelName, VerifiedDelivery

from .declarations import NOW, TOKEN, settings_from

BLOCK = {
    "where": "event=message.received",
    "id": ["data.id"],
    "sender": "data.from",
    "text": "data.text",
    "address": "phone",
}
BODY = {"event": "=message.received", "data": "."}
TABLE = {
    "url": "https://api.example.com/v1/messages?since={since}&until={until}",
    "time": "at",
    "time_unit": "iso",
}
ITEM = {"id": "m1", "from": "+33639980001", "text": "Oui ✔", "at": NOW.isoformat()}
SINCE, UNTIL = NOW - timedelta(hours=1), NOW + timedelta(hours=1)


def channel_of(
    table: Mapping[str, Any], *blocks: Mapping[str, Any], **more: Any
) -> DeclaredChannel:
    raw = {**TOKEN, "secrets": ["s"], "event": blocks, "reconcile": {**TABLE, **table}, **more}
    settings = settings_from(raw)
    assert list(settings.errors()) == []
    return DeclaredChannel(settings)


def listed_by(channel: DeclaredChannel, *nodes: Any) -> ListedEvent | None:
    table = channel.settings.reconcile
    assert table is not None
    return listed(channel, table, item_of(*nodes), SINCE, UNTIL)


def called(channel: DeclaredChannel, content: bytes, **more: Any) -> bytes:
    """The digest of what a callback brought."""
    name = ChannelName("x")
    verified = VerifiedDelivery(name, "", content, NOW, **{"target": "/x", **more})
    (event,) = channel.decode(verified).events
    return event.digest


def test_an_item_is_the_event_that_its_callback_is() -> None:
    """The same digest, whatever else of the callback is not in the list: `id` alone decides."""
    channel = channel_of({"body": BODY}, BLOCK)
    one = listed_by(channel, {**ITEM, "price": 4})
    assert one is not None
    body = {"event": "message.received", "attempt": 3, "data": {**ITEM, "text": "Oui"}}
    assert one.digest == called(channel, json.dumps(body, indent=1).encode())
    delivery, decoded = rebuilt(channel, one, NOW + timedelta(days=1))
    (event,) = decoded.events
    assert (event.body, event.sender, event.reconciled) == ("Oui ✔", "+33639980001", True)
    assert (event.received_at, event.said_at) == (NOW, NOW)
    assert delivery.received_at == NOW + timedelta(days=1)
    assert json.loads(delivery.body)["data"]["price"] == 4


def test_what_comes_as_a_form_or_in_the_url_is_rebuilt_so() -> None:
    block = {"id": ["MessageId", "To"], "sender": "From", "text": "Body"}
    body = {"MessageId": "id", "From": "from", "To": "^account", "Body": "text"}
    fields = {"To": "7", "Body": "x", "MessageId": "m1", "From": "+33639980001"}
    form = channel_of({"body": body, "items": "all"}, block, body="form")
    one = listed_by(form, {"account": 7, "all": [ITEM]}, ITEM)
    assert one is not None
    assert one.digest == called(form, urlencode(fields).encode())
    query = channel_of({"body": body}, block, body="query", methods=["GET"])
    two = listed_by(query, {"account": 7}, ITEM)
    assert two is not None
    assert two.digest == called(query, b"", target=f"/x?{urlencode(fields)}")


def test_what_stands_in_headers_is_rebuilt_there() -> None:
    """Where the proof covers the header by which an event is recognised."""
    block = {**BLOCK, "id": ["header:X-Id"]}
    signed = {
        "verify": "hmac-sha256",
        "signature": "X-Signature: {hex}",
        "signed": "{header:X-Id}.{body}",
    }
    table = {"body": {**BODY, "header:X-Id": "id"}}
    channel = channel_of(table, block, **signed)
    one = listed_by(channel, ITEM)
    assert one is not None
    content = json.dumps({"event": "message.received", "data": {}}).encode()
    assert one.digest == called(channel, content, headers={"x-id": "m1"})


def test_a_deep_place_is_made_with_its_lists() -> None:
    """An event below lists is rebuilt below them."""
    block = {"items": ["entry", "messages"], "id": ["id"], "text": "text", "sender": "from"}
    channel = channel_of({"body": {"entry.0.messages.0": ".", "entry.0.id": "=1"}}, block)
    one = listed_by(channel, ITEM)
    assert one is not None
    assert json.loads(one.delivery.body) == {"entry": [{"messages": [ITEM], "id": "1"}]}


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ("text", "no object"),
        ([], "no object"),
        (None, "no object"),
        ({**ITEM, "at": "yesterday"}, "no time"),
        ({**ITEM, "at": {"a": 1}}, "object or a list"),
        ({**ITEM, "at": "0001-01-01T00:00:00+23:59"}, "no time"),
        ({**ITEM, "id": None}, "all fields of id are missing"),
        ({**ITEM, "from": ["a"]}, "object or a list"),
    ],
)
def test_garbage_is_refused(item: object, why: str) -> None:
    with pytest.raises(MalformedDelivery, match=why):
        listed_by(channel_of({"body": BODY}, BLOCK), item)


def test_what_is_deeper_than_any_body_is_refused() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(MalformedDelivery):
        listed_by(channel_of({"body": BODY}, BLOCK), {**ITEM, "more": deep})


def test_an_item_is_one_event() -> None:
    """Several would be found by the first of them alone."""
    block = {"items": ["parts"], "id": ["id"], "text": "text"}
    with pytest.raises(MalformedDelivery, match="2 events"):
        listed_by(channel_of({}, block), {**ITEM, "parts": [{"id": 1}, {"id": 2}]})


def test_what_is_not_asked_for_is_nothing() -> None:
    """Sent by us, of another time, or to be ignored."""
    channel = channel_of({"body": BODY, "where": "dir=in"}, BLOCK, ignore="data.test")
    ours = {**ITEM, "dir": "in"}
    assert listed_by(channel, ours) is not None
    assert listed_by(channel, {**ours, "dir": "out"}) is None
    assert listed_by(channel, {**ours, "at": (NOW - timedelta(days=1)).isoformat()}) is None
    assert listed_by(channel, {**ours, "at": UNTIL.isoformat()}) is None
    assert listed_by(channel, {**ours, "test": True}) is None


def test_the_time_is_said_in_each_way() -> None:
    """The end is rounded up: what is beyond is left out here."""
    since = datetime(2026, 11, 29, 23, 0, 0, 700_000, tzinfo=UTC)
    until = datetime(2026, 11, 30, 0, 0, 0, 200_000, tzinfo=UTC)
    places = "{since}|{since.s}|{since.ms}|{since.day}|{until}|{until.s}|{until.day}|{region}"
    url = Url.parse(f"https://{{region}}.example.com/{places.replace('|', '/')}")
    assert url.names == {"region"}
    assert url.has_end
    assert url.of(since, until, {"region": "eu"}) == (
        "https://eu.example.com/2026-11-29T23%3A00%3A00Z/1795993200/1795993200000/2026-11-29"
        "/2026-11-30T00%3A00%3A01Z/1795996801/2026-11-30/eu"
    )


@pytest.mark.parametrize(
    ("paging", "first", "second"),
    [
        ({"link": "next"}, "?a=1", "/v2/more"),
        ({"cursor": "meta.at", "parameter": "c"}, "?a=1", "?a=1&c=x%26y"),
        ({"last": "id", "parameter": "after"}, "?a=1", "?a=1&after=2"),
        ({"number": "page[n]"}, "?a=1&page%5Bn%5D=1", "?a=1&page%5Bn%5D=2"),
        ({"number": "p", "first": 0}, "?a=1&p=0", "?a=1&p=1"),
        ({"offset": "skip"}, "?a=1&skip=0", "?a=1&skip=2"),
    ],
)
def test_a_page_leads_to_the_next(paging: dict[str, Any], first: str, second: str) -> None:
    """And ends where nothing leads on."""
    base = "https://api.example.com/v1"
    way = Paging.parse(paging)
    begun = way.begun(f"{base}?a=1")
    assert begun == base + first
    items = [{"id": 1}, {"id": 2}]
    answer = {"next": "/v2/more", "meta": {"at": "x&y"}}
    found = way.following(begun, answer, items, pages=1, received=2)
    assert found == (second if second.startswith("?") is False else base + second).replace(
        "/v2", "https://api.example.com/v2"
    )
    assert way.following(begun, {}, [], pages=2, received=2) is None


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("url", "https://api.example.com/v1", "give {since}"),
        ("url", "https://api.example.com/?a={since}&key={secret}", "gets into logs"),
        ("url", "https://u:p@api.example.com/?a={since}", "gets into logs"),
        ("url", "http://api.example.com/?a={since}", "https"),
        ("url", "https://api.example.com/?a={since}#x", "leave out #"),
        ("url", "https://api.example.com/?a={since}}", "close every {"),
        ("url", "https://api.example.com/?a={since.week}", "give {since}"),
        ("url", "file:///etc/passwd?{since}", "give a URL"),
        ("auth", "Bearer {secret}", "give .basic."),
        ("auth", "Host: {secret}", "give .basic."),
        ("auth", "X-Key: none", "give .basic."),
        ("auth", "X-Key: {secret}\r\nX: 1", "give .basic."),
        ("items", "a..b", "path of the list"),
        ("time", "", "give a path"),
        ("time_unit", "h", "give one of s"),
        ("where", 3, "give a condition"),
        ("body", {}, "give a table"),
        ("body", {"a": "b", "a.c": "d"}, "part"),
        ("body", {"a.1": "b"}, "0, 1 and so on"),
        ("body", {"header:X Y": "b"}, "give a table"),
        ("paging", {"link": "a", "offset": "b"}, "give one of"),
        ("paging", {"cursor": "a"}, "give one of"),
        ("paging", {"number": "a b"}, "give one of"),
        ("paging", {"number": "a", "first": "x"}, "give one of"),
        ("paging", "next", "give one of"),
        ("pages", 1, "pages"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(key: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        listing({**TABLE, key: value})
    assert key in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"url: is not set; .*time: is not set; .*paging: give"):
        listing({"paging": 1})


@pytest.mark.parametrize(
    ("more", "field", "says"),
    [
        ({"event": [{"text": "a"}]}, "event", "block 1 has no id that is proven"),
        ({"event": [BLOCK, {**BLOCK, "id": ["header:X"]}]}, "event", "block 2 has no id"),
        ({"reconcile": None, "reconcile_secret": "a"}, "reconcile", "and reconcile_secret is"),
        (
            {"reconcile": None, "reconcile_values": {"a": "b"}},
            "reconcile",
            "and reconcile_values is",
        ),
        ({"reconcile_secret": "a"}, "reconcile_secret", "auth is not"),
        ({"auth": "basic", "reconcile_secret": "a"}, "reconcile_secret", "not user:password"),
        ({"auth": "K: {secret}", "reconcile_secret": "é"}, "reconcile_secret", "no header"),
        ({"reconcile_values": {"region": "eu"}}, "reconcile_values", "has region"),
        ({"body": "form", "parts": {"a.b": "c"}}, "reconcile", "body has a.b"),
    ],
)
def test_contradictions_are_found(more: dict[str, Any], field: str, says: str) -> None:
    """Before anything starts."""
    table: dict[str, Any] | None = dict(TABLE)
    assert table is not None
    if "auth" in more:
        table["auth"] = more.pop("auth")
    if "parts" in more:
        table["body"] = more.pop("parts")
    raw = {**TOKEN, "secrets": ["s"], "event": [BLOCK], "reconcile": table, **more}
    raw = {name: value for name, value in raw.items() if value is not None}
    (found,) = settings_from(raw).errors()
    assert found.subject == f"channels.x.{field}"
    assert says in found.what


def test_both_ways_to_say_who_we_are_are_named() -> None:
    """With the whole key."""
    raw = {**TOKEN, "secrets": ["s"], "event": [BLOCK], "reconcile": TABLE, "reconcile_secret": "a"}
    (found,) = settings_from(raw).errors()
    assert 'channels.x.reconcile.auth = "basic"' in found.fix[0]
    assert '"Authorization: Bearer {secret}"' in found.fix[0]


def test_who_we_are_is_said_in_a_header() -> None:
    assert Auth.parse("basic").headers("u:p") == {"Authorization": "Basic dTpw"}
    assert Auth.parse("X-Key: {secret}").headers("k") == {"X-Key": "k"}
    assert str(Auth.parse("Authorization: Bearer {secret}")) == "Authorization: Bearer {secret}"


def test_a_condition_that_never_holds_is_named_with_what_stands_there() -> None:
    """Whatever that is."""
    items = [item_of({}, {"to": to}) for to in (["a"], {"b": 1}, None)]
    (said,) = never_held(conditions("to=us"), items)
    assert said == "where = 'to=us' never holds: there is ['a'], {'b': 1}"
    assert not list(never_held(conditions("to"), items))
