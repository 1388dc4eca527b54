"""A form of a kind that was read before means what it means to whoever reads one for the first
time.
"""

from __future__ import annotations

from urllib.parse import urlencode

from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.known_forms import MOST_FIELDS, MOST_KINDS, KnownForms
from berinia_webhookd.channels.signatures import signed_text
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.errors import DeliveryRejected
from berinia_webhookd.model import Decoded, RawDelivery
from berinia_webhookd.urlencoded import decode_urlencoded

from .deliveries import MESSAGE_SID, SMS_FIELDS, signed_sms, sms_channel

VALUES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [*SMS_FIELDS.values(), "&", "a=b", "%26", "+33 6", "\udcff", "STOP", "x" * 200]
    ),
)
NAMES = st.sampled_from([*SMS_FIELDS, "OptOutType", "NewSid", "New%5B1%5D", "Twice", ""])


def outcome(channel: TwilioChannel, delivery: RawDelivery) -> Decoded | tuple[object, ...]:
    try:
        return channel.decode(channel.verify(delivery))
    except DeliveryRejected as error:
        return type(error), str(error), vars(error)


@given(
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.dictionaries(NAMES, VALUES, max_size=2),
    st.data(),
)
def test_a_known_kind_is_read_and_refused_like_an_unknown_one(
    added: dict[str, str], changed: dict[str, str], data: st.DataObject
) -> None:
    """Whatever stands in the fields: what is read, what is refused, and why."""
    known = sms_channel()
    names = data.draw(st.permutations([*{**SMS_FIELDS, **added}]))
    plain = {name: SMS_FIELDS.get(name, "") for name in names}
    outcome(known, signed_sms(plain))
    values = {**plain, **added, **changed}
    try:
        delivery = signed_sms(values)
    except UnicodeEncodeError:  # lone surrogates cannot be signed
        return
    assert outcome(known, delivery) == outcome(sms_channel(), delivery)


@given(st.lists(st.tuples(NAMES, VALUES), min_size=2, max_size=6, unique_by=lambda pair: pair[0]))
def test_the_fields_are_those_of_the_form(pairs: list[tuple[str, str]]) -> None:
    """Names, values and what is signed of them are as they are read field by field."""
    forms = KnownForms(lambda _: None)
    forms.learn(tuple(name for name, _ in pairs))
    body = urlencode(pairs, errors="surrogateescape").encode()
    fields = decode_urlencoded(body)
    found = forms.read(body)
    if found is None:
        assert any(escape in body for escape in (b"%26", b"%3D"))
        return
    kind, values = found
    assert tuple(zip(kind.names, values, strict=True)) == fields
    assert kind.signed(values) == signed_text(fields)


def test_a_form_that_nobody_signed_is_not_learned() -> None:
    """A stranger's forms make nobody compile patterns; the second message of Twilio's is known."""
    channel = sms_channel()
    outcome(channel, signed_sms(token="0" * 32))
    assert channel.verify(signed_sms()).fields == tuple(SMS_FIELDS.items())
    outcome(channel, signed_sms())
    assert channel.verify(signed_sms()).fields == SMS_FIELDS


def test_kinds_of_as_many_fields_are_told_apart_and_bounded() -> None:
    """The last few are known; the one that is longest unused is not."""
    forms = KnownForms(lambda _: None)
    for number in range(MOST_KINDS + 1):
        forms.learn((f"a{number}", "b"))
        forms.learn((f"a{number}", "b"))
    assert forms.read(b"a0=1&b=2") is None
    for number in range(1, MOST_KINDS + 1):
        found = forms.read(b"a%d=1&b=2" % number)
        assert found is not None
        assert found[1] == ("1", "2")


def test_the_shape_of_a_value_of_a_known_kind_is_checked() -> None:
    """A message id that is none is refused, and named."""
    channel = sms_channel()
    outcome(channel, signed_sms())
    refused = outcome(channel, signed_sms({**SMS_FIELDS, "SmsSid": MESSAGE_SID[:-1]}))
    assert isinstance(refused, tuple)
    assert "SmsSid" in str(refused)


def test_forms_of_very_many_fields_are_not_learnt() -> None:
    """Patterns of all the sizes that a form may have would take a gigabyte."""
    kinds = KnownForms(lambda _: None)
    few = tuple(f"Name{number}" for number in range(MOST_FIELDS))
    for names in (few, (*few, "Another")):
        kinds.learn(names)
    body = urlencode(dict.fromkeys(few, "x"))
    assert kinds.read(body.encode()) is not None
    assert kinds.read(f"{body}&Another=x".encode()) is None
