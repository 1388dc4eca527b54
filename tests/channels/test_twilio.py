"""Twilio's incoming messages: proven by signature and shape, then read untouched."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import (
    AccountRefused,
    ChannelNotConfigured,
    DeliveryRejected,
    FieldsMoved,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    AgentName,
    Caller,
    Conversation,
    EventId,
    EventKind,
    EventMark,
    OptOut,
    Receipt,
    VerifiedDelivery,
)

from .deliveries import (
    ACCOUNT_SID,
    AGENT,
    FORM,
    MESSAGE_SID,
    NOW,
    OLD_TOKEN,
    PUBLIC_URL,
    SMS,
    SMS_FIELDS,
    SMS_PATH,
    TOKEN,
    arrived,
    caller,
    event_of,
    raw_delivery,
    signed_sms,
    sms_channel,
    twilio_signs,
)


def changed(**changes: str | None) -> dict[str, str]:
    """The sample's fields with some replaced, added or (None) left out."""
    merged = {**SMS_FIELDS, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def test_a_signed_message_is_read() -> None:
    """Every value reaches the event as Twilio sent it."""
    channel: Channel = sms_channel()
    delivery = signed_sms(changed(Body="  Oui 🙂\n", ProfileName="Ada"))
    verified = channel.verify(delivery)
    assert verified.body == delivery.body
    assert verified.received_at == NOW
    assert verified.replay_key is None
    event = event_of(channel, verified)
    assert event.channel == "sms"
    assert event.agent == AGENT
    assert (event.sender, event.recipient) == ("+33639980001", "+33639980000")
    assert event.body == "  Oui 🙂\n"
    assert event.message_id == MESSAGE_SID
    assert event.profile_name == "Ada"
    assert event.received_at == NOW
    assert event.conversation == Conversation(SMS, "+33639980001", "+33639980000")
    assert event.raw == changed(Body="  Oui 🙂\n", ProfileName="Ada")
    assert event.raw_multi == {}
    assert (event.opt_out, event.subject, event.group) == (None, None, None)


def test_a_stored_delivery_is_read_the_same() -> None:
    """What the journal restores, without the decoded fields, gives the same event."""
    channel = sms_channel()
    verified = channel.verify(signed_sms())
    stored = VerifiedDelivery(SMS, FORM, verified.body, verified.received_at)
    assert event_of(channel, stored) == event_of(channel, verified)


text_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.]{0,9}", fullmatch=True)


@given(
    st.lists(st.tuples(names, text_values), max_size=8),
    text_values,
    st.sampled_from(["", "?", "?a=1&b=%20+", "?x=%zz", "?a=1&a=1#", "?q='é'"]),
)
def test_whatever_twilios_library_signs_is_accepted(
    extra: list[tuple[str, str]], body: str, query: str
) -> None:
    """Repeats, blanks, empty values, any text and any query verify as twilio's library signs."""
    fields = [*changed(Body=body).items(), *extra]
    target = SMS_PATH + query
    delivery = signed_sms(fields, url=PUBLIC_URL + target, target=target)
    assert sms_channel().verify(delivery).fields == tuple(fields)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([*changed(Body="Non").items()], id="changed value"),
        pytest.param([*SMS_FIELDS.items(), ("Extra", "")], id="added field"),
        pytest.param([*changed(FromCity=None).items()], id="missing empty field"),
        pytest.param([*changed(Body=SMS_FIELDS["Body"] + " ").items()], id="added blank"),
        pytest.param([], id="nothing"),
    ],
)
def test_an_altered_form_is_refused(sent: Sequence[tuple[str, str]]) -> None:
    """Whatever differs from what was signed is no proof."""
    with pytest.raises(SignatureInvalid):
        sms_channel().verify(signed_sms(sent=sent))


@pytest.mark.parametrize(
    "signature", ["", "x", "\xff" * 28, "\udcff" * 28, "A" * 27 + "=", "é", "a" * 100_000]
)
def test_other_signatures_are_refused(signature: str) -> None:
    """No signature, another one, or one that is not even ASCII."""
    for headers in ({"X-Twilio-Signature": signature}, {}):
        body = urlencode(SMS_FIELDS).encode()
        with pytest.raises(SignatureInvalid):
            sms_channel().verify(raw_delivery(SMS, body, headers=headers, target=SMS_PATH))


def test_bytes_that_are_no_text_never_verify() -> None:
    """A replacement character that Twilio signed is not matched by a broken byte in its place."""
    signature = twilio_signs(changed(Body="caf\ufffd").items())
    for body_value in (b"caf%E9", b"caf\xe9"):
        body = urlencode(changed(Body=None)).encode() + b"&Body=" + body_value
        headers = {"X-Twilio-Signature": signature}
        with pytest.raises(SignatureInvalid):
            sms_channel().verify(raw_delivery(SMS, body, headers=headers, target=SMS_PATH))


def test_a_target_that_is_no_text_is_refused() -> None:
    """Broken bytes in the request target end as a wrong signature."""
    with pytest.raises(SignatureInvalid):
        sms_channel().verify(signed_sms(target=SMS_PATH + "?\udcff"))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://app.example.com", "app.example.com"),
        ("https://app.example.com:443", "app.example.com"),
        ("https://app.example.com", "app.example.com:443"),
        ("https://app.example.com", "app.example.com:8443"),
        ("https://app.example.com:8443", "app.example.com:8443"),
        ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        ("https://[2001:db8::1]:443", "[2001:db8::1]"),
        ("https://App.Example.com", "App.Example.com"),
    ],
)
def test_both_port_forms_of_the_forwarded_host(url: str, host: str) -> None:
    """The host as forwarded, with its port or without, and with the default one."""
    delivery = signed_sms(url=url + SMS_PATH, who=caller(host=host))
    sms_channel().verify(delivery)


@pytest.mark.parametrize(
    "who", [caller(scheme="http"), caller(host="other.example.com"), caller(host="")]
)
def test_the_url_is_what_counts(who: Caller) -> None:
    """Another scheme or host than Twilio called is refused."""
    delivery = signed_sms(who=who)
    with pytest.raises(SignatureInvalid):
        sms_channel().verify(delivery)


@pytest.mark.parametrize(
    "signed_for", [PUBLIC_URL, PUBLIC_URL + ":443", "https://b.example.com:8443", "http://c.d:80"]
)
def test_public_urls_replace_what_the_request_says(signed_for: str) -> None:
    """With `public_url` neither scheme nor Host of the request matter, and any of them counts."""
    public_urls = ("https://u:p@b.example.com:8443", PUBLIC_URL, "http://c.d")
    who = caller(scheme="http", host="127.0.0.1:8001")
    delivery = signed_sms(url=signed_for + SMS_PATH, who=who)
    sms_channel(public_urls=public_urls).verify(delivery)
    with pytest.raises(SignatureInvalid):
        sms_channel(public_urls=["https://other.example.com"]).verify(
            signed_sms(url=PUBLIC_URL + SMS_PATH)
        )


def test_several_tokens() -> None:
    """While tokens are rotated, both are accepted; a third is not."""
    channel = sms_channel(tokens=[TOKEN, OLD_TOKEN])
    for token in (TOKEN, OLD_TOKEN):
        channel.verify(signed_sms(token=token))
    with pytest.raises(SignatureInvalid):
        channel.verify(signed_sms(token="e" * 32))


def test_without_a_token_nothing_is_believed() -> None:
    """A channel without its secret refuses, even a signature with an empty key."""
    channel = sms_channel(tokens=[])
    with pytest.raises(ChannelNotConfigured):
        channel.require_secret()
    with pytest.raises(ChannelNotConfigured):
        channel.verify(signed_sms(token=""))
    sms_channel().require_secret()


def test_a_body_digest_in_the_url_must_hold() -> None:
    """A signed URL that names the digest of another body proves nothing about this one."""
    digest = hashlib.sha256(b"{}").hexdigest()
    target = f"{SMS_PATH}?bodySHA256={digest}"
    delivery = signed_sms({}, url=PUBLIC_URL + target, target=target)
    with pytest.raises(SignatureInvalid):
        sms_channel().verify(delivery)


@pytest.mark.parametrize("name", ["From", "To", "Body", "MessageSid"])
def test_missing_fields_are_named(name: str) -> None:
    """A verified form without a required field is malformed, and says which."""
    channel = sms_channel()
    verified = channel.verify(signed_sms(changed(**{name: None})))
    with pytest.raises(MalformedDelivery) as caught:
        event_of(channel, verified)
    assert caught.value.missing == (name,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MessageSid", ""),
        ("MessageSid", MESSAGE_SID.upper()),
        ("MessageSid", MESSAGE_SID + "\n"),
        ("AccountSid", "AC_this_is_a_fake_account_sid"),
        ("SmsSid", MESSAGE_SID[:-1]),
        ("MessagingServiceSid", "MG" + "0" * 31 + "NumMedia0"),
        ("From", ""),
        ("From", "+33639980001\n"),
        ("From", "+33639980001\x85"),
        ("To", "x" * 161),
        ("NumMedia", "0NumSegments1"),
        ("NumSegments", "1OptOutTypeSTOP"),
        ("OptOutType", "MAYBE"),
    ],
)
def test_ill_formed_fields_are_named(name: str, value: str) -> None:
    """The name is told, the value never."""
    channel = sms_channel()
    verified = channel.verify(signed_sms(changed(**{name: value})))
    with pytest.raises(MalformedDelivery) as caught:
        event_of(channel, verified)
    assert caught.value.invalid == (name,)
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        *("+33639980001", "whatsapp:+33639980001", "36180", "BERINIA", "Ma Boite-1", "+12", "3M"),
        *("12", "whatsapp:US.1349ABC", "rcs:berinia_agent", "rcs:+33639980001", "messenger:123456"),
        *("teams:19:abc@thread", "Chez L'Ami.Jean", "Électricité de Strasbourg", "x" * 160),
    ],
)
def test_addresses(address: str) -> None:
    """Whatever kind of address it is, of whatever prefix."""
    channel = sms_channel()
    event = event_of(channel, channel.verify(signed_sms(changed(From=address, To=address))))
    assert event.sender == event.recipient == address


def test_a_recipient_that_swallowed_the_next_field_is_refused() -> None:
    """`To=12345&ToCity=` signs like `To=12345ToCity`; the true message must not be its double."""
    channel = sms_channel()
    honest = changed(To="12345", ToCity="")
    glued = changed(To="12345ToCity", ToCity=None)
    assert twilio_signs(honest.items()) == twilio_signs(glued.items())
    with pytest.raises(FieldsMoved):
        event_of(channel, channel.verify(signed_sms(glued)))
    assert event_of(channel, channel.verify(signed_sms(honest))).recipient == "12345"


def test_blank_and_unknown_fields_are_fine() -> None:
    """An empty message and fields that Twilio adds without notice are taken."""
    channel = sms_channel()
    fields = [*changed(Body="", MessagingServiceSid="", NumMedia=None).items()]
    fields += [("New.Field", "a"), ("New.Field", "b")]
    event = event_of(channel, channel.verify(signed_sms(fields)))
    assert event.body == ""
    assert event.raw["New.Field"] == "b"
    assert event.raw_multi == {"New.Field": ["a", "b"]}


@pytest.mark.parametrize("name", ["From", "To", "Body", "MessageSid", "AccountSid", "NumMedia"])
def test_single_fields_must_not_repeat(name: str) -> None:
    """Repeating a field with an equal value keeps the signature valid; it is refused after it."""
    channel = sms_channel()
    sent = [*SMS_FIELDS.items(), (name, SMS_FIELDS[name])]
    verified = channel.verify(signed_sms(sent=sent))
    with pytest.raises(MalformedDelivery) as caught:
        event_of(channel, verified)
    assert caught.value.invalid == (name,)


@pytest.mark.parametrize("index", range(len(SMS_FIELDS) - 1))
def test_glued_fields_are_refused_or_harmless(index: int) -> None:
    """Two fields as one keep the signature; who wrote what to whom must not change by it."""
    channel = sms_channel()
    pairs = sorted(SMS_FIELDS.items())
    (name, value), (next_name, next_value) = pairs[index : index + 2]
    glued = [*pairs[:index], (name, value + next_name + next_value), *pairs[index + 2 :]]
    verified = channel.verify(signed_sms(sent=glued))
    try:
        event = event_of(channel, verified)
    except MalformedDelivery:
        return
    true = event_of(channel, channel.verify(signed_sms()))
    assert event._replace(raw={}) == true._replace(raw={})


def test_a_sender_cannot_be_written_into_the_message() -> None:
    """A text that looks like the next field, cut off the message, is not taken for the sender."""
    channel = sms_channel()
    crafted = changed(Body="Oui", From="+33639980001") | {"From+33639980002FromCity": ""}
    honest = changed(Body="OuiFrom+33639980001", From="+33639980002")
    assert twilio_signs(crafted.items()) != twilio_signs(honest.items())
    del crafted["FromCity"]
    assert twilio_signs(crafted.items()) == twilio_signs(honest.items())
    with pytest.raises(MalformedDelivery) as caught:
        event_of(channel, channel.verify(signed_sms(honest, sent=[*crafted.items()])))
    assert "33639980002" not in repr(caught.value.invalid)


def test_other_accounts_are_refused() -> None:
    """With `account_sids` a verified request must name one of them."""
    allowed = sms_channel(account_sids=[ACCOUNT_SID])
    event_of(allowed, allowed.verify(signed_sms()))
    for account in ("AC" + "2c" * 16, None):
        verified = allowed.verify(signed_sms(changed(AccountSid=account)))
        with pytest.raises(AccountRefused):
            event_of(allowed, verified)


@pytest.mark.parametrize(
    ("fields", "opt_out"),
    [
        ({"Body": "STOP"}, OptOut.STOP),
        ({"Body": " stop\n"}, OptOut.STOP),
        ({"Body": "Unsubscribe"}, OptOut.STOP),
        ({"Body": "ARRÊT"}, OptOut.STOP),
        ({"Body": "yes"}, None),
        ({"Body": "yes", "OptOutType": "START"}, OptOut.START),
        ({"Body": "Info"}, OptOut.HELP),
        ({"Body": "Stop it"}, None),
        ({"Body": ""}, None),
        ({"Body": "Arrêtez", "OptOutType": "STOP"}, OptOut.STOP),
        ({"Body": "stop", "OptOutType": "HELP"}, OptOut.HELP),
        ({"Body": "stop", "OptOutType": ""}, OptOut.STOP),
    ],
)
def test_opt_out_words(fields: dict[str, str], opt_out: OptOut | None) -> None:
    """Twilio's word counts first, then a message that is such a word and nothing else."""
    channel = sms_channel()
    event = event_of(channel, channel.verify(signed_sms(changed(**fields))))
    assert event.opt_out is opt_out


def test_words_that_resume_count_only_for_who_stopped() -> None:
    """Which the journal knows: a customer's "Yes" is an answer."""
    channel = sms_channel()
    assert event_of(channel, channel.verify(signed_sms(changed(Body="Yes!")))).as_start
    assert not event_of(channel, channel.verify(signed_sms(changed(Body="STOP")))).as_start


RECEIPT = {
    "AccountSid": ACCOUNT_SID,
    "ApiVersion": "2010-04-01",
    "From": "+33639980000",
    "MessageSid": MESSAGE_SID,
    "MessageStatus": "delivered",
    "SmsSid": MESSAGE_SID,
    "SmsStatus": "delivered",
    "To": "+33639980001",
}


def test_a_status_callback_is_a_receipt() -> None:
    """It is kept, with an order of its own, and handed to nobody unless an agent is named."""
    channel = sms_channel()
    event = event_of(channel, channel.verify(signed_sms(RECEIPT)))
    assert (event.kind, event.status) == (EventKind.RECEIPT, "delivered")
    assert (event.sender, event.recipient, event.body) == ("+33639980000", "+33639980001", "")
    assert event.conversation == Conversation(SMS, "+33639980001", MESSAGE_SID.lower())
    assert (event.agent, event.skipped) == (AGENT, "receipt")
    assert "channels.sms.receipt_agent" in (channel.receipts_hint or "")


def test_receipts_can_have_an_agent() -> None:
    channel = sms_channel(receipt_agent=AgentName("ReceiptAgent"))
    event = event_of(channel, channel.verify(signed_sms(RECEIPT)))
    assert (event.agent, event.skipped) == ("ReceiptAgent", None)
    assert channel.receipts_hint is None
    skipping = sms_channel(receipt_agent=AgentName("ReceiptAgent"), skip=(EventMark.RECEIPT,))
    assert event_of(skipping, skipping.verify(signed_sms(RECEIPT))).skipped == "receipt"


def test_each_status_of_a_message_is_a_receipt_of_its_own() -> None:
    """And none is the message itself."""
    channel = sms_channel()
    digests = {
        event_of(channel, channel.verify(signed_sms(fields))).digest
        for fields in (RECEIPT, RECEIPT | {"MessageStatus": "sent"}, SMS_FIELDS)
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("changes", "missing", "invalid"),
    [
        ({"MessageSid": None}, ("MessageSid",), ()),
        ({"To": None}, ("To",), ()),
        ({"MessageStatus": "De livered"}, (), ("MessageStatus",)),
    ],
)
def test_odd_receipts_are_malformed(
    changes: dict[str, str | None], missing: tuple[str, ...], invalid: tuple[str, ...]
) -> None:
    fields = {k: v for k, v in (RECEIPT | changes).items() if v is not None}
    channel = sms_channel()
    with pytest.raises(MalformedDelivery) as caught:
        channel.decode(channel.verify(signed_sms(fields)))
    assert (caught.value.missing, caught.value.invalid) == (missing, invalid)


@pytest.mark.parametrize(
    ("changes", "skipped"),
    [
        ({"Body": " "}, "empty"),
        ({"Body": "", "NumMedia": "1", "MediaUrl0": "https://example.com/1"}, None),
        ({"Body": "", "Latitude": "48.85", "Longitude": "2.35"}, None),
        ({"Body": "Oui"}, None),
    ],
)
def test_a_picture_or_a_place_is_not_empty(changes: dict[str, str], skipped: str | None) -> None:
    channel = sms_channel(skip=(EventMark.EMPTY,))
    assert event_of(channel, channel.verify(signed_sms(changed(**changes)))).skipped == skipped


def test_the_digest_is_the_messages() -> None:
    """The same MessageSid is the same event, whatever else Twilio adds on a retry."""
    channel = sms_channel()

    def digest(**changes: str) -> bytes:
        return event_of(channel, channel.verify(signed_sms(changed(**changes)))).digest

    assert len(digest()) == 32
    assert digest() == digest(ErrorCode="11200", Body="x")
    assert digest() != digest(MessageSid="MM" + MESSAGE_SID[2:])


def test_the_answer_is_empty_twiml() -> None:
    """Nothing that Twilio would send on to the person."""
    receipt = Receipt(EventId("id"), AGENT, duplicate=False)
    for answer in (sms_channel().answer(()), sms_channel().answer((receipt,))):
        assert (answer.status, answer.content_type) == (200, "text/xml")
        assert answer.body == b'<?xml version="1.0" encoding="UTF-8"?><Response/>'


def test_samples_verify() -> None:
    """What `sign` makes is taken, is new each time, and carries the given fields."""
    channel = sms_channel(account_sids=[ACCOUNT_SID])
    requests = [channel.sign({"Body": "é 🙂"}, base_url=PUBLIC_URL + "/", now=NOW) for _ in "ab"]
    events = [event_of(channel, channel.verify(arrived(SMS, request))) for request in requests]
    assert events[0].digest != events[1].digest
    assert [event.body for event in events] == ["é 🙂"] * 2
    assert re.fullmatch(r"\+33639980\d{3}|\+3363998\d{4}", events[0].sender)
    assert channel.path == requests[0].path == SMS_PATH


def test_samples_for_a_public_url() -> None:
    """Sent to the daemon itself, a sample is signed for the URL that it believes in."""
    channel = sms_channel(public_urls=[PUBLIC_URL])
    request = channel.sign({}, base_url="http://127.0.0.1:8001", now=NOW)
    channel.verify(arrived(SMS, request, who=caller(scheme="http", host="127.0.0.1:8001")))


def test_badly_signed_samples_are_refused() -> None:
    """A wrong signature of the right shape."""
    channel = sms_channel()
    request = channel.sign({}, base_url=PUBLIC_URL, now=NOW, valid=False)
    assert re.fullmatch(r"[A-Za-z0-9+/]{27}=", request.headers["X-Twilio-Signature"])
    with pytest.raises(SignatureInvalid):
        channel.verify(arrived(SMS, request))


@given(st.binary(max_size=200), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_strangers_only_get_refused(body: bytes, signature: str, target: str, host: str) -> None:
    """Any bytes, headers and targets end in a `DeliveryRejected`, diagnosis included."""
    channel = sms_channel()
    headers = {"X-Twilio-Signature": signature, "Content-Type": target, "X-Forwarded-Host": host}
    delivery = raw_delivery(SMS, body, headers=headers, target=target, who=caller(host=host))
    with pytest.raises(DeliveryRejected):
        channel.verify(delivery)
    channel.diagnose(delivery)


@given(st.lists(st.tuples(st.one_of(st.sampled_from(sorted(SMS_FIELDS)), st.text()), st.text())))
def test_verified_forms_are_read_or_malformed(fields: list[tuple[str, str]]) -> None:
    """Decoding raises nothing but `DeliveryRejected`, whatever the form holds."""
    channel = sms_channel()
    verified = VerifiedDelivery(SMS, FORM, b"", NOW, fields=tuple(fields))
    try:
        event_of(channel, verified)
    except DeliveryRejected:
        return


def test_what_ill_formed_fields_held_is_kept_for_the_operator() -> None:
    """Beside the error's text, which a stranger reads and which has names only."""
    channel = sms_channel(public_urls=[PUBLIC_URL])
    delivery = signed_sms({**SMS_FIELDS, "From": "a\x00b"})
    with pytest.raises(MalformedDelivery) as caught:
        channel.decode(channel.verify(delivery))
    assert caught.value.values == {"From": "a\x00b"}
    assert "a\x00b" not in caught.value.in_full
