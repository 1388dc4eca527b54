"""The presets: each is a sound declaration, reads its own sample, and says what people need."""

from __future__ import annotations

import contextlib
import pickle
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest

from berinia_webhookd.channels.declared import presets
from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.fields import Item
from berinia_webhookd.errors import CannotSign, DeliveryRejected
from berinia_webhookd.model import EventKind

from .declarations import NOW, settings_from
from .test_vectors import VECTORS, request_of

NAMES: Final = presets.names()
# What a vector's provider is called here.
OF_VECTORS: Final = {
    "twilio-event-streams": "twilio-events",
    "vonage-messages": "vonage",
}
KEYS: Final = {
    **dict.fromkeys(("telnyx",), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    "sendgrid-events": next(
        one["secrets"][0] for one in VECTORS if one["provider"] == "sendgrid-events"
    ),
    **dict.fromkeys(("resend", "gitlab", "standard-webhooks"), "whsec_" + "A" * 32),
}
FACTS: Final = {"name", "console", "secret", "sample", "retries", "deadline", "answers", "sources"}


def channel_of(name: str, secret: str = "user:" + "secret" * 10) -> DeclaredChannel:
    """A channel with a preset and a secret of its shape."""
    raw: dict[str, Any] = {**presets.declaration(name), "preset": name}
    raw |= {"secrets": [KEYS.get(name, secret)], "handshake_secrets": ["token"]}
    return DeclaredChannel(settings_from(raw))


def test_all_that_are_promised() -> None:
    """By their names."""
    promised = (
        "meta-whatsapp meta-messenger meta-instagram twilio-status twilio-events mailgun-events"
        " brevo postmark telnyx vonage messagebird sinch sinch-conversation octopush smsfactor"
        " sendgrid-events resend standard-webhooks stripe github gitlab shopify slack telegram"
        " calendly cal-com typeform hubspot pipedrive mailjet"
    )
    assert set(NAMES) == set(promised.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_sound(name: str) -> None:
    """It contradicts itself nowhere, and has the facts of its provider."""
    channel = channel_of(name)
    assert list(channel.settings.errors()) == []
    file = resources.files(presets.__package__).joinpath("presets", f"{name}.toml")
    assert tomllib.loads(file.read_text("utf-8"))["provider"].keys() >= FACTS


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_can_be_told_to_another_process(name: str) -> None:
    """As the daemon tells the console its settings: before and after they were used."""
    channel = channel_of(name)
    before = pickle.dumps(channel.settings)
    with contextlib.suppress(CannotSign):
        channel.sign({}, base_url="https://app.example.com", now=NOW)
    for one in channel.settings.event:
        for field in one.id:
            field.value(Item(({},), lambda _: None, {}))
    for written in (before, pickle.dumps(channel.settings)):
        assert pickle.loads(written) == channel.settings


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_reads_its_sample(name: str) -> None:
    """A sample is proven and becomes an event; a forged one is refused before anything is read."""
    channel = channel_of(name)
    try:
        channel.sign({}, base_url="https://app.example.com", now=NOW)
    except CannotSign:
        assert name in {"telnyx", "sendgrid-events"}
        return
    for fields in ({}, {"text": "Oui ✔", "sender": "+33639980009"}):
        request = channel.sign(fields, base_url="https://app.example.com", now=NOW)
        delivery = request_of(
            {
                "url": "https://app.example.com" + request.path,
                "headers": dict(request.headers),
                "body": request.body.decode(),
                "now": NOW.timestamp(),
                "method": "POST",
            }
        )
        assert channel.handshake(delivery) is None
        (event,) = channel.decode(channel.verify(delivery)).events
        reads_text = any(block.text for block in channel.settings.event)
        if event.kind is EventKind.MESSAGE and fields and reads_text:
            assert event.body == "Oui ✔"


# Another way of the same provider, which its preset names and is not.
OTHER_WAYS: Final = {
    *("brevo-bearer", "gitlab-token", "smsfactor-header", "mailgun-event-parent"),
    "vonage-jwt-published",  # a token that covers no body
}
MATCHED = [
    one
    for one in VECTORS
    if "declaration" in one
    and OF_VECTORS.get(one["provider"], one["provider"]) in NAMES
    and one["id"] not in OTHER_WAYS
]


@pytest.mark.parametrize("vector", MATCHED, ids=[one["id"] for one in MATCHED])
def test_a_preset_takes_the_known_answers(vector: dict[str, Any]) -> None:
    """Those of its provider, and refuses what must be refused."""
    name = OF_VECTORS.get(vector["provider"], vector["provider"])
    raw = {**presets.declaration(name), "secrets": vector["secrets"], "handshake_secrets": ["t"]}
    channel = DeclaredChannel(settings_from({**raw, "methods": [vector["method"]]}))
    if vector["valid"]:
        assert channel.verify(request_of(vector)).body == vector["body"].encode()
    else:
        with pytest.raises(DeliveryRejected):
            channel.verify(request_of(vector))


def test_a_name_that_is_nearly_one() -> None:
    """The nearest is named."""
    with pytest.raises(ValueError, match="did you mean telnyx"):
        presets.declaration("telnix")


def test_the_page_names_every_preset() -> None:
    """And no other."""
    page = (Path(__file__).parents[3] / "docs" / "declaring-a-channel.md").read_text("utf-8")
    section = page.partition("## Presets")[2].partition("\nAmazon")[0]
    assert set(re.findall(r"`([a-z-]+)`[,.]", section)) == set(NAMES)
