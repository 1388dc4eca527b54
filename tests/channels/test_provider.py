"""What is said of providers: on their channels, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import berinia_webhookd
from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.mailgun import MAILGUN
from berinia_webhookd.channels.settings import TwilioSettings
from berinia_webhookd.channels.twilio import TWILIO
from berinia_webhookd.model import ChannelName

from .deliveries import (
    NOW,
    PUBLIC_URL,
    arrived,
    caller,
    email_channel,
    event_of,
    settings_for,
    sms_channel,
)
from .test_whatsapp import whatsapp_channel

PACKAGE = Path(berinia_webhookd.__file__).parent
NAMES = {"sms", "email", "whatsapp", "twilio", "mailgun", "berinia-whatsapp"}


def named_channels(tree: ast.AST) -> Iterator[int]:
    """The lines on which a channel or kind is meant by its name."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if text.lower() in NAMES:
                yield node.lineno
            case ast.Constant(value=str(text)) if any(f"channels.{n}." in text for n in NAMES):
                yield node.lineno
            case ast.Attribute(value=ast.Attribute(attr="channels") | ast.Name(id="channels")):
                if node.attr in NAMES:
                    yield node.lineno


def test_no_list_of_channels_stands_anywhere_else() -> None:
    """No dictionary keyed by a channel's name, and no `if channel == "sms"`."""
    found = {
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in PACKAGE.rglob("*.py")
        if "channels" not in file.relative_to(PACKAGE).parts
        for line in named_channels(ast.parse(file.read_text()))
    }
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        'retries = {"sms": 1}',
        'if channel == "whatsapp": pass',
        "settings.channels.email",
        'hint = "set channels.sms.tokens"',
        'hint = f"set channels.sms.tokens {1}"',
    ],
)
def test_a_list_of_channels_would_be_noticed(code: str) -> None:
    """Each form that there was."""
    assert list(named_channels(ast.parse(code)))


@pytest.mark.parametrize("channel", [sms_channel(), email_channel(), whatsapp_channel()])
def test_a_sample_has_its_text_where_the_provider_says(channel: Channel) -> None:
    """`doctor` puts what is lost easily there."""
    fields = {channel.provider.text_field: "Été 🙂"}
    sample = channel.sign(fields, base_url=PUBLIC_URL, now=NOW)
    who = caller(peer="127.0.0.1", client=None, host="127.0.0.1", forwarded=False)
    who = who if channel.allowed_networks else caller()
    verified = channel.verify(arrived(channel.name, sample, who=who))
    assert event_of(channel, verified).body == "Été 🙂"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_the_secret_is_a_setting_of_the_kind(kind: Any) -> None:
    """So that what `check-config` and `doctor` ask for can be set."""
    assert kind.channel.provider.secret.setting in kind.settings.__dataclass_fields__


def test_sentences_follow_from_the_facts() -> None:
    """Who signs the URL, or the body, is said to: another provider has the sentences for free."""
    other = replace(TWILIO, name="Meta", signs_url=False)
    assert TWILIO.if_redirected == f"{other.if_redirected}, or its signature is over another URL"
    assert TWILIO.if_url_differs != other.if_url_differs
    assert "Meta signs no URL" in other.if_url_differs
    assert other.if_altered.startswith("Meta signs what it sent")
    assert MAILGUN.if_altered.startswith("Mailgun does not sign the text of an e-mail")


def test_a_variable_belongs_to_the_channel_that_exists_by_itself() -> None:
    """A second number with the first one's token would be told so by nobody."""
    sms = settings_for(TwilioSettings)
    assert TWILIO.secret.line(sms).startswith("TWILIO_TOKEN=… (Twilio's console")
    second = replace(sms, name=ChannelName("second"))
    assert TWILIO.secret.line(second).startswith("channels.second.tokens=… (Twilio's console")
