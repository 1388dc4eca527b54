"""Builds the channels that the settings enable: the one place where secrets are revealed to them,
and the list to add a new channel to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.sms import SmsChannel
from berinia_webhookd.config.settings import ChannelsSettings
from berinia_webhookd.model import ChannelName


def build(settings: ChannelsSettings, public_urls: Sequence[str]) -> Mapping[ChannelName, Channel]:
    """The enabled channels by name; `public_urls` is `server.public_url`."""
    channels: list[Channel] = []
    if (sms := settings.sms).enabled:
        channels.append(
            SmsChannel(
                tokens=[token.reveal() for token in sms.tokens],
                account_sids=sms.account_sids,
                public_urls=public_urls,
                agent=sms.agent,
                path=sms.path,
                max_body_bytes=sms.max_body_bytes,
            )
        )
    return {channel.name: channel for channel in channels}
