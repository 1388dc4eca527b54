"""The list of kinds to add a new one to. It builds the channels that are configured, and is the one
place from which secrets are revealed to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from berinia_webhookd.channels.contract import Channel, Kind
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.settings import MailgunSettings, TwilioSettings, WhatsAppSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.channels.whatsapp import WhatsAppChannel
from berinia_webhookd.config.settings import ChannelSettings
from berinia_webhookd.model import ChannelName

KINDS: Final[dict[str, Kind]] = {
    kind.channel.kind: kind
    for kind in (
        Kind(TwilioChannel, TwilioSettings),
        Kind(MailgunChannel, MailgunSettings),
        Kind(WhatsAppChannel, WhatsAppSettings),
    )
}


def build(
    settings: Mapping[ChannelName, ChannelSettings], public_urls: Sequence[str]
) -> Mapping[ChannelName, Channel]:
    """Return the enabled channels by name; `public_urls` is `server.public_url`."""
    enabled = {name: channel for name, channel in settings.items() if channel.enabled}
    return build_all(enabled, public_urls)


def build_all(
    settings: Mapping[ChannelName, ChannelSettings], public_urls: Sequence[str]
) -> Mapping[ChannelName, Channel]:
    """Return all configured channels: a disabled one may have events in the journal."""
    return {
        name: KINDS[channel.kind].channel(channel, public_urls)
        for name, channel in settings.items()
    }
