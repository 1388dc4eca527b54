"""Settings become channels."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from berinia_webhookd.channels.catalogue import build
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.settings import (
    ChannelsSettings,
    EmailSettings,
    SmsSettings,
    WhatsAppSettings,
)
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
SETTINGS = ChannelsSettings(
    sms=SmsSettings(
        enabled=True,
        path=SMS_PATH,
        max_body_bytes=1000,
        retry_schedule_seconds=None,
        agent=AGENT,
        tokens=(Secret(TOKEN),),
        account_sids=(ACCOUNT_SID,),
    ),
    email=EmailSettings(
        enabled=True,
        path=EMAIL_PATH,
        max_body_bytes=2000,
        retry_schedule_seconds=None,
        agent=AGENT,
        signing_keys=(Secret(MAILGUN_KEY),),
        max_age_seconds=60,
    ),
    whatsapp=WhatsAppSettings(
        enabled=True,
        path="/webhook/whatsapp",
        max_body_bytes=3000,
        retry_schedule_seconds=(2, 10, 30),
        agent=META,
        allowed_ips=(ip_network("127.0.0.1"),),
        secret=Secret("s3cret"),
        groups={"Support IA / Chatbot": AGENT},
        reply_wait_seconds=30,
        late_reply_url=None,
        late_reply_max_age_seconds=900,
    ),
)


def test_every_channel_is_built_as_configured() -> None:
    """Paths, bounds, agents and secrets are those of the settings."""
    channels = build(SETTINGS, [PUBLIC_URL])
    assert [(c.name, c.path, c.max_body_bytes) for c in channels.values()] == [
        ("sms", SMS_PATH, 1000),
        ("email", EMAIL_PATH, 2000),
        ("whatsapp", "/webhook/whatsapp", 3000),
    ]
    sms, email, whatsapp = channels.values()
    event_of(sms, sms.verify(signed_sms(who=caller(host="127.0.0.1:8001"))))
    event_of(email, email.verify(mail()))
    assert whatsapp.agents == {META, AGENT}
    sample = whatsapp.sign({}, base_url="", now=mail().received_at)
    assert sample.headers["Authorization"] == "Bearer s3cret"
    with pytest.raises(AddressRefused):
        whatsapp.verify(arrived(whatsapp.name, sample))


def test_disabled_channels_are_not_built() -> None:
    """A channel that is switched off has no path."""
    disabled = replace(
        SETTINGS,
        sms=replace(SETTINGS.sms, enabled=False),
        whatsapp=replace(SETTINGS.whatsapp, enabled=False),
    )
    channels = build(disabled, [])
    assert list(channels) == [ChannelName("email")]
    nothing = replace(disabled, email=replace(SETTINGS.email, enabled=False))
    assert build(nothing, []) == {}


def test_channels_show_no_secret() -> None:
    """Neither their text form nor their errors tell what they know."""
    channels: list[Channel] = list(build(SETTINGS, []).values())
    for secret in (TOKEN, MAILGUN_KEY, "s3cret"):
        assert secret not in repr(channels)
