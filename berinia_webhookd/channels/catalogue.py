"""Builds the channels that the settings enable: the one place where secrets are revealed to them,
and the list to add a new channel to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.channels.whatsapp import WhatsAppChannel
from berinia_webhookd.config.settings import ChannelsSettings
from berinia_webhookd.model import ChannelName


def build(settings: ChannelsSettings, public_urls: Sequence[str]) -> Mapping[ChannelName, Channel]:
    """The enabled channels by name; `public_urls` is `server.public_url`."""
    channels: list[Channel] = []
    if (sms := settings.sms).enabled:
        channels.append(
            TwilioChannel(
                tokens=[token.reveal() for token in sms.tokens],
                account_sids=sms.account_sids,
                public_urls=public_urls,
                agent=sms.agent,
                path=sms.path,
                max_body_bytes=sms.max_body_bytes,
            )
        )
    if (email := settings.email).enabled:
        channels.append(
            MailgunChannel(
                signing_keys=[key.reveal() for key in email.signing_keys],
                max_age_seconds=email.max_age_seconds,
                agent=email.agent,
                path=email.path,
                max_body_bytes=email.max_body_bytes,
            )
        )
    if (whatsapp := settings.whatsapp).enabled:
        channels.append(
            WhatsAppChannel(
                allowed_networks=whatsapp.allowed_ips,
                secret=None if whatsapp.secret is None else whatsapp.secret.reveal(),
                agent=whatsapp.agent,
                groups=whatsapp.groups,
                path=whatsapp.path,
                max_body_bytes=whatsapp.max_body_bytes,
            )
        )
    return {channel.name: channel for channel in channels}
