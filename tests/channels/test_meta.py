"""The example of docs/adding-a-channel.md: one request with many events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from berinia_webhookd.channels.contract import Answer
from berinia_webhookd.errors import MalformedDelivery, SignatureInvalid
from berinia_webhookd.model import ChannelName, EventKind, RawDelivery, VerifiedDelivery

from .deliveries import AGENT, NOW, arrived, raw_delivery, secrets_of
from .meta import MetaChannel, MetaSettings

LEADS = ChannelName("leads")
SECRET = "0123456789abcdef0123456789abcdef"
# Computed here; the validator of https://github.com/david-lev/pywa agrees.
SIGNATURE = "sha256=3fc9f29d4c9def1a78202d1589bfe9094b7e63232d16b41d3400f308948fe87d"
BODY = (
    rb'{"object":"whatsapp_business_account","entry":[{"id":"100000000000001","changes":[{"'
    rb'value":{"messaging_product":"whatsapp","metadata":{"display_phone_number":"336399801'
    rb'00","phone_number_id":"200000000000002"},"contacts":[{"profile":{"name":"Camille"},"'
    rb'wa_id":"33639980111"}],"messages":[{"from":"33639980111","id":"wamid.AAA1","timestam'
    rb'p":"1792999990","text":{"body":"Bonjour, d\u00e9j\u00e0 re\u00e7u ?"},"type":"text"}'
    rb',{"from":"33639980112","id":"wamid.AAA2","timestamp":"1792999991","type":"interactiv'
    rb'e","interactive":{"type":"button_reply","button_reply":{"id":"yes","title":"Oui"}}}]'
    rb'},"field":"messages"},{"value":{"messaging_product":"whatsapp","metadata":{"display_'
    rb'phone_number":"33639980100","phone_number_id":"200000000000002"},"statuses":[{"id":"'
    rb'wamid.OUT9","status":"delivered","timestamp":"1792999992","recipient_id":"3363998011'
    rb'3"},{"id":"wamid.OUT9","status":"read","timestamp":"1792999995","recipient_id":"3363'
    rb'9980113"}]},"field":"messages"}]}]}'
)


def channel(*secrets: str, verify_token: str | None = "verify-me") -> MetaChannel:
    given = MetaSettings(
        name=LEADS,
        kind=MetaChannel.kind,
        enabled=True,
        path="/webhook/leads",
        max_body_bytes=3 << 20,
        retry_schedule_seconds=None,
        skip=(),
        block=(),
        country=None,
        opt_out_words=None,
        agent=AGENT,
        ack_timeout_seconds=None,
        later_status=503,
        unproven_status=403,
        app_secrets=secrets_of(secrets),
        verify_token=None if verify_token is None else secrets_of([verify_token])[0],
    )
    return MetaChannel(given)


def posted(body: bytes = BODY, **headers: str) -> RawDelivery:
    """A request with these headers, `_` for `-`."""
    return raw_delivery(
        LEADS, body, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


def changed(change: Callable[[Any], None]) -> VerifiedDelivery:
    """The delivery with something in its body made otherwise, verified before that."""
    document = json.loads(BODY)
    change(document["entry"][0]["changes"])
    verified = channel(SECRET).verify(posted(X_Hub_Signature_256=SIGNATURE))
    return verified._replace(body=json.dumps(document).encode())


@pytest.mark.parametrize("secrets", [[SECRET], ["f" * 32, SECRET]])
def test_a_known_answer(secrets: Sequence[str]) -> None:
    """Any of the secrets, for as long as one replaces another."""
    assert channel(*secrets).verify(posted(X_Hub_Signature_256=SIGNATURE)).body == BODY


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (BODY + b" ", {"X-Hub-Signature-256": SIGNATURE}),
        (json.dumps(json.loads(BODY)).encode(), {"X-Hub-Signature-256": SIGNATURE}),
        (BODY, {"X-Hub-Signature": "sha1=ae757d64838f46d2348f3af711d2a67867e9621f"}),
        (BODY, {"X-Hub-Signature-256": SIGNATURE.removeprefix("sha256=")}),
        (BODY, {"X-Hub-Signature-256": "é"}),
        (BODY, {}),
    ],
)
def test_what_proves_nothing(body: bytes, headers: Mapping[str, str]) -> None:
    """Other bytes of the same JSON, the older header alone, nothing."""
    with pytest.raises(SignatureInvalid):
        channel(SECRET).verify(raw_delivery(LEADS, body, headers=headers))


def test_each_message_and_status_is_an_event() -> None:
    """Two of each in one request, none of which is the other."""
    one = channel(SECRET)
    decoded = one.decode(one.verify(posted(X_Hub_Signature_256=SIGNATURE)))
    assert [(event.kind, event.sender, event.body) for event in decoded.events] == [
        (EventKind.MESSAGE, "33639980111", "Bonjour, déjà reçu ?"),
        (EventKind.MESSAGE, "33639980112", ""),
        (EventKind.RECEIPT, "33639980113", "delivered"),
        (EventKind.RECEIPT, "33639980113", "read"),
    ]
    assert decoded.rejected == ()
    assert len({event.digest for event in decoded.events}) == 4


def test_a_bad_item_is_named_and_the_others_go_on() -> None:
    """By its place; its values are nobody's business."""
    verified = changed(lambda changes: changes[0]["value"]["messages"][0].pop("from"))
    decoded = channel(SECRET).decode(verified)
    assert len(decoded.events) == 3
    (rejected,) = decoded.rejected
    assert rejected.path == "entry.0.changes.0.value.messages.0"


def test_a_body_without_any_is_malformed() -> None:
    """It is kept as rejected."""
    with pytest.raises(MalformedDelivery):
        channel(SECRET).decode(changed(list.clear))


@pytest.mark.parametrize("token", ["", "guessed", "é", "verify-m"])
def test_a_handshake_without_the_token(token: str) -> None:
    """Refused, also where none is configured."""
    asked = posted(b"")._replace(
        method="GET",
        target=f"/?hub.mode=subscribe&hub.challenge=1&hub.verify_token={token}",
    )
    for expected in ("verify-me", None):
        with pytest.raises(SignatureInvalid):
            channel(SECRET, verify_token=expected).handshake(asked)


def test_a_handshake_with_the_token() -> None:
    """The challenge, and nothing beside it."""
    target = "/?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=verify-me"
    asked = posted(b"")._replace(method="GET", target=target)
    assert channel(SECRET).handshake(asked) == Answer(200, "text/plain", b"1158201444")
    assert channel(SECRET).handshake(posted()) is None


def test_a_sample_is_verified_and_read() -> None:
    """What `send` sends; wrongly signed on request."""
    one = channel(SECRET)
    sample = one.sign({"body": "é 🙂", "from": "1"}, base_url="", now=NOW)
    (event,) = one.decode(one.verify(arrived(LEADS, sample))).events
    assert (event.sender, event.body) == ("1", "é 🙂")
    with pytest.raises(SignatureInvalid):
        one.verify(arrived(LEADS, one.sign({}, base_url="", now=NOW, valid=False)))
