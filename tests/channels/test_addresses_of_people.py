"""Different spellings of one party are one; different events are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.addresses_of_people import (
    conversation,
    event_digest,
    normal_group,
    normal_party,
)
from berinia_webhookd.model import ChannelName

ONE = ChannelName("one")


@pytest.mark.parametrize(
    "spelling",
    ["+33639980001", "whatsapp:+33639980001", "WhatsApp:+33639980001", "33639980001@c.us",
     "+33639980001@c.us", "33639980001@s.whatsapp.net", "33639980001:12@s.whatsapp.net",
     "33639980001", "0033639980001", " +33 6 39 98 00 01 ", "+33 (0)6.39.98.00.01",
     "tel:+33-639-980-001", "sms:+33639980001", "+33639980001\x00"],
)  # fmt: skip
def test_phone_spellings(spelling: str) -> None:
    """One number, however it is written."""
    assert normal_party(spelling) == "+33639980001"


@pytest.mark.parametrize(
    ("spelling", "normal"),
    [
        ("Ada@Example.COM", "ada@example.com"),
        (" Ada <ada@example.com> ", "ada@example.com"),
        ("mailto:ada@example.com", "ada@example.com"),
        ("36180", "36180"),
        ("BerinIA", "berinia"),
        ("0639980001", "0639980001"),
        ("🤖 Support IA / Chatbot", "🤖 support ia / chatbot"),
        ("12036304@g.us", "12036304@g.us"),
        ("", ""),
    ],
)
def test_other_parties(spelling: str, normal: str) -> None:
    """Addresses without letter case; short codes, national numbers and groups as they are."""
    assert normal_party(spelling) == normal


@given(st.text(max_size=400))
def test_the_normal_form_is_stable_and_bounded(text: str) -> None:
    """Normal forms are their own normal form, fit a database's index, and hold no odd bytes. None
    begins with a blank, as what stands for everybody does.
    """
    normal = normal_party(text)
    assert normal.strip() == normal
    assert len(normal) <= 320
    assert normal_party(normal) == normal
    assert "\0" not in normal
    normal.encode()


def test_conversations() -> None:
    """Channel, sender and party make a conversation, whatever their spelling."""
    assert conversation(ONE, "whatsapp:+33639980001", "A@b.c") == conversation(
        ONE, "33639980001@c.us", "a@B.C"
    )


@pytest.mark.parametrize(
    "name", ["Support IA / Chatbot", "🤖 Support IA / Chatbot", " support ia / CHATBOT 🙏🏽 ",
             "👩‍💻 Support  IA / Chatbot", "Support IA ✅ / Chatbot", "1️⃣ Support IA / Chatbot"],
)  # fmt: skip
def test_group_names(name: str) -> None:
    """Emoji, letter case and surrounding blanks do not matter."""
    assert normal_group(name).removeprefix("1").strip() == normal_group("Support IA / Chatbot")


def test_groups_of_emoji_alone_stay_apart() -> None:
    """Two names without a letter are two groups."""
    assert normal_group("🤖") != normal_group("🙏")
    assert normal_group("Été") == normal_group("e\u0301té 🌞")


@given(st.lists(st.one_of(st.none(), st.text())), st.lists(st.one_of(st.none(), st.text())))
def test_digests_differ_where_parts_differ(left: list[str | None], right: list[str | None]) -> None:
    """No shift of a boundary, and no empty part for a missing one, gives the same digest."""
    assert (event_digest(ONE, *left) == event_digest(ONE, *right)) is (left == right)


def test_digest_boundaries() -> None:
    """The digest is 32 bytes, bound to its channel, and known forever."""
    assert event_digest(ONE, "ab", "c") != event_digest(ONE, "a", "bc")
    assert event_digest(ONE, "") != event_digest(ONE, None)
    assert event_digest(ONE, "one") != event_digest(ChannelName("oneone"))
    assert (
        event_digest(ChannelName("sms"), "SM" + "0" * 32).hex()
        == "05905d3b6931b933a2b02833d1c758caa567d0721a6e298aa7388bfd281b2b49"
    )
