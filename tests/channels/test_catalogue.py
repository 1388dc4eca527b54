"""Settings become channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from berinia_webhookd.channels.catalogue import KINDS, build
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.load import load
from berinia_webhookd.errors import AddressRefused
from berinia_webhookd.model import AgentName, ChannelName

from .deliveries import (
    ACCOUNT_SID,
    AGENT,
    EMAIL_PATH,
    MAILGUN_KEY,
    PUBLIC_URL,
    SMS_PATH,
    TOKEN,
    arrived,
    caller,
    event_of,
    mail,
    signed_sms,
)

META = AgentName("MetaAgent")
CONFIG = f"""
[channels.sms]
max_body_bytes = 1024
tokens = ["{TOKEN}"]
account_sids = ["{ACCOUNT_SID}"]
ack_timeout_seconds = 4
later_status = 502
unproven_status = 404
[channels.email]
max_body_bytes = 2048
signing_keys = ["{MAILGUN_KEY}"]
max_age_seconds = 60
[channels.whatsapp]
max_body_bytes = 3072
allowed_ips = ["127.0.0.1"]
secret = "s3cret"
groups = {{ "Support IA / Chatbot" = "{AGENT}" }}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Mapping[ChannelName, ChannelSettings]:
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    loaded = load(kinds=KINDS, environ={}, working_folder=tmp_path, config_file=file)
    return loaded.settings.channels


def test_every_channel_is_built_as_configured(
    settings: Mapping[ChannelName, ChannelSettings],
) -> None:
    """Paths, bounds, agents and secrets are those of the settings."""
    channels = build(settings, [PUBLIC_URL])
    assert [(c.name, c.path, c.max_body_bytes) for c in channels.values()] == [
        ("sms", SMS_PATH, 1024),
        ("email", EMAIL_PATH, 2048),
        ("whatsapp", "/webhook/whatsapp", 3072),
    ]
    sms, email, whatsapp = channels.values()
    event_of(sms, sms.verify(signed_sms(who=caller(host="127.0.0.1:8001"))))
    event_of(email, email.verify(mail()))
    assert whatsapp.agents == {META, AGENT}
    assert (sms.ack_timeout_seconds, sms.later_status, sms.unproven_status) == (4, 502, 404)
    assert (email.ack_timeout_seconds, email.later_status, email.unproven_status) == (
        None,
        503,
        403,
    )
    sample = whatsapp.sign({}, base_url="", now=mail().received_at)
    assert sample.headers["Authorization"] == "Bearer s3cret"
    with pytest.raises(AddressRefused):
        whatsapp.verify(arrived(whatsapp.name, sample))


def test_disabled_channels_are_not_built(
    settings: Mapping[ChannelName, ChannelSettings],
) -> None:
    """A channel that is switched off has no path."""
    off = {name: replace(one, enabled=False) for name, one in settings.items()}
    email = ChannelName("email")
    assert list(build({**off, email: settings[email]}, [])) == [email]
    assert build(off, []) == {}


def test_channels_show_no_secret(settings: Mapping[ChannelName, ChannelSettings]) -> None:
    """Neither their text form nor their errors tell what they know."""
    channels: list[Channel] = list(build(settings, []).values())
    for secret in (TOKEN, MAILGUN_KEY, "s3cret"):
        assert secret not in repr(channels)
