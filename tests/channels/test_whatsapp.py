"""The bot's messages: believed by where they come from, routed by their group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.settings import WhatsAppSettings
from berinia_webhookd.channels.whatsapp import WhatsAppChannel
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.errors import (
    AddressRefused,
    ChannelNotConfigured,
    DeliveryRejected,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import (
    AgentName,
    Caller,
    Conversation,
    Event,
    EventId,
    EventMark,
    OptOut,
    RawDelivery,
    Receipt,
    VerifiedDelivery,
)

from .deliveries import NOW, WHATSAPP, arrived, caller, event_of, raw_delivery, settings_for

META = AgentName("MetaAgent")
ADMIN = AgentName("AdminInterpreterAgent")
JSON = "application/json"
LOOPBACK = ("127.0.0.1/32", "::1/128")
MESSAGE = {
    "source": "whatsapp",
    "type": "group",
    "group": "🤖 Support IA / Chatbot",
    "author": "33639980001@c.us",
    "content": " Combien de leads ? 🙂\n",
    "isVoiceMessage": False,
    "timestamp": "2026-11-24T09:29:59.000Z",
    "messageId": "3EB0C767D097B7C7C030",
}
OLDER = {
    "sender": "+33639980001",
    "profile_name": "Ada",
    "message": {"text": "Bonjour"},
    "timestamp": "2026-11-24T09:29:59Z",
}


def whatsapp_channel(
    *, allowed: Sequence[str] = LOOPBACK, secret: str | None = None, **more: Any
) -> WhatsAppChannel:
    return WhatsAppChannel(
        settings_for(
            WhatsAppSettings,
            allowed_ips=tuple(ip_network(network) for network in allowed),
            secret=None if secret is None else Secret(secret),
            **more,
        )
    )


def local(*, peer: str | None = "127.0.0.1", host: str = "127.0.0.1:8001") -> Caller:
    """A program on this machine that calls us directly."""
    return caller(peer=peer, client=peer, scheme="http", host=host, forwarded=False)


def bot(
    message: Mapping[str, Any] = MESSAGE,
    *,
    who: Caller | None = None,
    headers: Mapping[str, str] | None = None,
) -> RawDelivery:
    return raw_delivery(
        WHATSAPP,
        json.dumps(message).encode(),
        headers={"Content-Type": JSON, **(headers or {})},
        target="/webhook/whatsapp",
        who=who or local(),
    )


def read(message: Mapping[str, Any], **more: Any) -> Event:
    channel = whatsapp_channel(**more)
    return event_of(channel, channel.verify(bot(message)))


def changed(**changes: Any) -> dict[str, Any]:
    """The sample with some fields replaced, added or (...) left out."""
    merged = {**MESSAGE, **changes}
    return {name: value for name, value in merged.items() if value is not ...}


def pause_of(**fields: Any) -> list[tuple[Any, ...]]:
    channel = whatsapp_channel()
    word = {"source": "whatsapp", "type": "pause", **fields}
    decoded = channel.decode(channel.verify(bot(word)))
    assert decoded.events == ()
    return [(one.sender, one.party, one.pause.seconds) for one in decoded.pauses]


def test_the_bot_may_say_that_somebody_has_taken_over() -> None:
    """In a group, for one of its authors, or for an author wherever they wrote, and directly."""
    author, group = "33639980001@c.us", MESSAGE["group"]
    party = "🤖 support ia / chatbot"
    assert pause_of(group=group, for_seconds=60) == [(None, party, 60.0)]
    assert pause_of(group=group, author=author) == [("+33639980001", party, None)]
    wherever = [("+33639980001", "berinia", None), ("+33639980001", None, None)]
    assert pause_of(author=author) == wherever
    assert pause_of(author=author, group="Direct Message") == wherever


@pytest.mark.parametrize(
    ("fields", "missing", "invalid"),
    [
        ({}, ("author or group",), ()),
        ({"author": " ", "group": ""}, ("author or group",), ()),
        ({"group": "Direct Message"}, ("author or group",), ()),
        ({"author": "a", "source": None}, ("source",), ()),
        ({"author": 7}, (), ("author",)),
        ({"author": "a", "group": ["b"]}, (), ("group",)),
        ({"author": "a", "reason": {}}, (), ("reason",)),
        *(
            ({"author": "a", "for_seconds": value}, (), ("for_seconds",))
            for value in (-1, "60", True, 1e300)
        ),
    ],
)
def test_a_pause_says_whose(
    fields: dict[str, Any], missing: tuple[str, ...], invalid: tuple[str, ...]
) -> None:
    """What it lacks, and what cannot be read, is named."""
    with pytest.raises(MalformedDelivery) as refused:
        pause_of(**fields)
    assert (refused.value.missing, refused.value.invalid) == (missing, invalid)


def test_a_group_message_is_read() -> None:
    """Every value reaches the event as the bot sent it."""
    channel: Channel = whatsapp_channel()
    event = event_of(channel, channel.verify(bot()))
    assert event.channel == "whatsapp"
    assert event.agent == ADMIN
    assert (event.sender, event.recipient) == ("33639980001@c.us", "BerinIA")
    assert event.body == MESSAGE["content"]
    assert event.group == "🤖 Support IA / Chatbot"
    assert event.message_id == MESSAGE["messageId"]
    assert event.received_at == NOW
    assert event.raw == MESSAGE
    assert event.raw_multi == {}
    party = "🤖 support ia / chatbot"
    assert event.conversation == Conversation(WHATSAPP, "+33639980001", party)
    assert channel.replies


@pytest.mark.parametrize(
    "who",
    [
        local(),
        local(host="localhost:8001"),
        local(peer="::1", host="[::1]:8001"),
        local(peer=None, host="localhost"),
    ],
    ids=["loopback", "by name", "IPv6", "Unix socket"],
)
def test_callers_that_are_believed(who: Caller) -> None:
    """This machine itself."""
    whatsapp_channel().verify(bot(who=who))


@pytest.mark.parametrize(
    "who",
    [
        caller(),
        caller(client=None),
        caller(client="127.0.0.1"),
        caller(client="::1"),
        local(host="app.example.com"),
        local(host=""),
        local(host="127.0.0.1.example.com"),
        local(peer=None, host="app.example.com"),
        caller(peer="203.0.113.9", client="203.0.113.9", peer_trusted=False, forwarded=False),
        caller(peer="203.0.113.9", client="127.0.0.1", peer_trusted=False),
        caller(peer=None, client=None, peer_trusted=False, forwarded=False, host="localhost"),
        caller(peer="10.0.0.5", client="10.0.0.5", forwarded=False, host="localhost"),
    ],
    ids=[
        "a stranger through nginx",
        "nobody named by nginx",
        "nginx handing on a made-up address",
        "nginx handing on a made-up IPv6 address",
        "nginx without its headers",
        "no Host",
        "a Host that looks like loopback",
        "nginx over a Unix socket without its headers",
        "a stranger directly",
        "a stranger who claims to be forwarded",
        "a peer that is gone",
        "a proxy that is not listed itself",
    ],
)
def test_callers_that_are_refused(who: Caller) -> None:
    """Everybody else, whatever they claim."""
    with pytest.raises(AddressRefused):
        whatsapp_channel().verify(bot(who=who))


def test_other_networks_can_be_allowed() -> None:
    """A bot elsewhere: its address directly, or as the proxy forwards it, and no other."""
    channel = whatsapp_channel(allowed=["198.51.100.0/24", "2001:db8::/32"])
    channel.verify(bot(who=caller(client="198.51.100.7")))
    channel.verify(bot(who=caller(client="2001:db8::7")))
    direct = caller(peer="198.51.100.7", client="198.51.100.7", peer_trusted=False, forwarded=False)
    channel.verify(bot(who=direct))
    for who in (local(), local(peer=None), caller(client="127.0.0.1")):
        with pytest.raises(AddressRefused):
            channel.verify(bot(who=who))


def test_a_secret_is_required_as_well() -> None:
    """With a secret the address alone is not enough, nor is the secret."""
    channel = whatsapp_channel(secret="s3cret")
    for value in ("Bearer s3cret", "bearer  s3cret"):
        channel.verify(bot(headers={"Authorization": value}))
    for value in ("", "Bearer", "Bearer s3cre", "Basic s3cret", "s3cret", "Bearer \udcff"):
        delivery = bot(headers={"Authorization": value})
        with pytest.raises(SignatureInvalid):
            channel.verify(delivery)
        assert "s3cret" not in (channel.diagnose(delivery) or "")
        assert channel.diagnose(delivery)
    with pytest.raises(AddressRefused):
        channel.verify(bot(who=caller(), headers={"Authorization": "Bearer s3cret"}))
    assert whatsapp_channel().diagnose(bot()) is None


def test_without_an_allowed_address_nobody_is_believed() -> None:
    """An empty list allows nobody, secret or not."""
    channel = whatsapp_channel(allowed=[], secret="s3cret")
    for call in (channel.require_secret, lambda: channel.verify(bot())):
        with pytest.raises(ChannelNotConfigured):
            call()


@pytest.mark.parametrize(
    ("group", "agent"),
    [
        ("Support IA / Chatbot", ADMIN),
        ("🤖 support ia / CHATBOT  ", ADMIN),
        ("💬 Discussion libre", ADMIN),
        ("Discussion", META),
        ("🤖", META),
        ("Direct Message", META),
        (None, META),
    ],
)
def test_groups_decide_the_agent(group: str | None, agent: AgentName) -> None:
    """By name without emoji, letter case and blanks; everything else goes to the default."""
    event = read(changed(type="message", group=group))
    assert event.agent == agent
    assert event.group == (None if group == "Direct Message" else group)


def test_all_agents_are_known() -> None:
    """The default and those of all groups."""
    assert whatsapp_channel().agents == {META, ADMIN}


@pytest.mark.parametrize("group", [None, "Direct Message", "", ..., "odd"])
def test_direct_messages_have_no_group(group: Any) -> None:
    """However the bot says it; the conversation is with BerinIA."""
    event = read(changed(type="direct", group=group))
    assert event.group is None
    assert event.agent == META
    assert event.conversation == Conversation(WHATSAPP, "+33639980001", "berinia")


@pytest.mark.parametrize("name", ["source", "type", "author", "content", "timestamp", "messageId"])
def test_missing_fields_are_named(name: str) -> None:
    """A field that is absent or null."""
    for value in (..., None):
        with pytest.raises(MalformedDelivery) as caught:
            read(changed(**{name: value}))
        assert caught.value.missing == (name,)


@pytest.mark.parametrize("group", [None, "", ...])
def test_what_comes_without_a_group_is_a_direct_message(group: Any) -> None:
    """Whatever its type says."""
    event = read(changed(group=group))
    assert (event.group, event.agent, event.conversation.party) == (None, META, "berinia")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 1) for name in ("source", "type", "author", "content", "messageId", "group")),
        ("author", " "),
        ("messageId", ""),
        ("content", ["x"]),
        ("timestamp", True),
        ("timestamp", {}),
    ],
)
def test_ill_formed_fields_are_named(name: str, value: Any) -> None:
    """A field of another type, or blank where it must not be."""
    with pytest.raises(MalformedDelivery) as caught:
        read(changed(**{name: value}))
    assert caught.value.invalid == (name,)


def test_optional_shapes() -> None:
    """Empty messages, seconds as a time stamp, a profile name and unknown fields are fine."""
    event = read(changed(content="", timestamp=1795512599, profile_name="Ada", new={"x": [1]}))
    assert (event.body, event.profile_name) == ("", "Ada")
    assert event.raw["new"] == {"x": [1]}


def test_the_older_form() -> None:
    """Sender, profile name and a text inside `message`."""
    event = read(OLDER)
    assert event.agent == META
    assert (event.sender, event.body, event.profile_name) == ("+33639980001", "Bonjour", "Ada")
    assert (event.group, event.message_id) == (None, None)
    assert event.raw == OLDER
    assert event.conversation == read(changed(type="direct")).conversation


@pytest.mark.parametrize(
    ("changes", "missing", "invalid"),
    [
        ({"sender": None}, ("sender",), ()),
        ({"message": {}}, ("message.text",), ()),
        ({"message": {"text": 1}}, (), ("message.text",)),
        ({"sender": ""}, (), ("sender",)),
        ({"sender": 33}, (), ("sender",)),
        ({"timestamp": []}, (), ("timestamp",)),
        ({"group": 1}, (), ("group",)),
    ],
)
def test_the_older_forms_fields(
    changes: dict[str, Any], missing: tuple[str, ...], invalid: tuple[str, ...]
) -> None:
    """Missing and ill-formed fields are named."""
    with pytest.raises(MalformedDelivery) as caught:
        read({**OLDER, **changes})
    assert (caught.value.missing, caught.value.invalid) == (missing, invalid)


def test_the_digest_is_the_messages() -> None:
    """Id, author and group make a message; the older form has sender, time and text."""
    first = read(MESSAGE).digest
    assert first == read(changed(content="edited", timestamp=1)).digest
    direct = read(changed(type="direct")).digest
    assert direct == read(changed(type="direct", group="Direct Message")).digest
    others = [changed(messageId="x"), changed(author="x@c.us"), changed(group="x"), OLDER]
    others += [{**OLDER, "sender": "+33639980002"}, {**OLDER, "timestamp": "x"}]
    others += [{**OLDER, "message": {"text": "x"}}]
    digests = {read(message).digest for message in others} | {direct, first}
    assert len(digests) == len(others) + 2
    assert read(OLDER).digest == read({**OLDER, "profile_name": "Eve"}).digest


def test_the_same_words_again_are_not_lost() -> None:
    """Without a time stamp two equal messages of the older form stay two."""
    channel = whatsapp_channel()
    body = json.dumps({"sender": "33639980001@c.us", "message": {"text": "ok"}}).encode()
    later = NOW.replace(microsecond=1)
    deliveries = [VerifiedDelivery(WHATSAPP, JSON, body, at) for at in (NOW, NOW, later)]
    digests = [event_of(channel, delivery).digest for delivery in deliveries]
    assert digests[0] == digests[1] != digests[2]


def test_no_word_is_an_opt_out_unless_the_channel_says_so() -> None:
    """In a chat "stop" and "yes" are words like others."""
    assert read(changed(content=" STOP ")).opt_out is None
    words = {OptOut.STOP: ("+",), OptOut.START: ("+",)}
    assert read(changed(content=" STOP "), opt_out_words=words).opt_out is OptOut.STOP
    start = read(changed(content="yes"), opt_out_words=words)
    assert start.opt_out is None
    assert start.as_start is not None
    assert start.as_start.opt_out is OptOut.START


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"content": ""}, "empty"),
        ({"content": " \n"}, "empty"),
        ({"from": "status@broadcast"}, "broadcast"),
        ({"author": "status@broadcast"}, "broadcast"),
        ({"group": "33639980001@broadcast"}, "broadcast"),
        ({"content": "", "from": "status@broadcast"}, "broadcast"),
        ({}, None),
        ({"fromMe": True}, None),
        ({"content": "my@broadcast"}, None),
    ],
)
def test_what_says_nothing_to_us_is_skipped(changes: dict[str, Any], reason: str | None) -> None:
    """Pictures without a text, and contacts' stories."""
    assert read(changed(**changes)).skipped == reason


def test_marks_and_senders_can_be_chosen() -> None:
    """An event is skipped by the marks of its channel, and by who sent it in any spelling."""
    assert read(changed(content=""), skip=()).skipped is None
    assert read(changed(fromMe=True), skip=(EventMark.ECHO,)).skipped == "echo"
    assert read(changed(), block=("+33 6 39 98 00 01",)).skipped == "blocked"
    assert read(changed(), block=("+33 6 39 98 00 02",)).skipped is None


def test_an_opt_out_is_skipped_by_no_other_mark() -> None:
    words = {OptOut.STOP: ("+",)}
    stop = changed(content="STOP", fromMe=True)
    assert read(stop, opt_out_words=words, skip=(EventMark.ECHO,)).skipped is None
    assert read(stop, opt_out_words=words, skip=(EventMark.OPT_OUT,)).skipped == "opt_out"
    assert read(stop, opt_out_words=words, block=(MESSAGE["author"],)).skipped == "blocked"


def test_what_is_skipped_is_answered_200() -> None:
    """Without a `response`, so that the bot says nothing; a late reply may still come of others."""
    skipped = Receipt(EventId("0190"), META, duplicate=False, skipped="empty")
    answer = whatsapp_channel().answer((skipped,))
    assert answer.status == 200
    assert json.loads(answer.body) == {"status": "ok", "event_id": "0190"}


def test_answers() -> None:
    """202 where no reply came in time; a probe is simply fine."""
    answer = whatsapp_channel().answer((Receipt(EventId("0190"), META, duplicate=False),))
    assert (answer.status, answer.content_type) == (202, JSON)
    assert json.loads(answer.body) == {"status": "accepted", "event_id": "0190"}
    assert whatsapp_channel().answer(()).status == 200


@pytest.mark.parametrize("secret", [None, "s3cret"])
def test_samples_verify(secret: str | None) -> None:
    """What `sign` makes is taken from this machine, is new each time, and carries the fields."""
    channel = whatsapp_channel(secret=secret)
    events = []
    for fields in ({"content": "é"}, {"content": "é"}, {"content": "é", "group": ""}):
        request = channel.sign(fields, base_url="", now=NOW)
        events.append(event_of(channel, channel.verify(arrived(WHATSAPP, request, who=local()))))
    assert len({event.digest for event in events}) == 3
    assert [event.group is None for event in events] == [False, False, True]
    assert {event.body for event in events} == {"é"}


def test_badly_signed_samples_are_refused() -> None:
    """A wrong secret; without one, a sample that says it comes from elsewhere."""
    channel = whatsapp_channel(secret="s3cret")
    request = channel.sign({}, base_url="", now=NOW, valid=False)
    with pytest.raises(SignatureInvalid):
        channel.verify(arrived(WHATSAPP, request, who=local()))
    request = whatsapp_channel().sign({}, base_url="", now=NOW, valid=False)
    assert request.headers["X-Forwarded-For"] == "192.0.2.1"


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
field_names = st.one_of(st.sampled_from([*MESSAGE, *OLDER]), st.text())


@given(
    st.one_of(
        st.binary(),
        st.dictionaries(field_names, json_values).map(lambda value: json.dumps(value).encode()),
        st.dictionaries(field_names, json_values).map(
            lambda value: json.dumps({**MESSAGE, **value}).encode()
        ),
    )
)
def test_any_body_is_read_or_malformed(body: bytes) -> None:
    """Decoding raises nothing but `DeliveryRejected`, whatever the bot's place sends."""
    channel = whatsapp_channel()
    verified = channel.verify(raw_delivery(WHATSAPP, body, who=local()))
    try:
        event_of(channel, verified)
    except DeliveryRejected:
        return
