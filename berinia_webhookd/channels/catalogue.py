"""The list of all kinds of channels, to which a new one is added, and the configured channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from berinia_webhookd.channels.contract import Channel, Kind
from berinia_webhookd.channels.declared import presets
from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.settings import MailgunSettings, TwilioSettings, WhatsAppSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.channels.whatsapp import WhatsAppChannel
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.model import AgentName, ChannelName

KINDS: Final[dict[str, Kind]] = {
    kind.channel.kind: kind
    for kind in (
        Kind(TwilioChannel, TwilioSettings),
        Kind(MailgunChannel, MailgunSettings),
        Kind(WhatsAppChannel, WhatsAppSettings),
        Kind(DeclaredChannel, DeclaredSettings, presets.declaration),
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
    """Return all configured channels: also of a disabled one there may be events."""
    return {
        name: KINDS[channel.kind].channel(channel, public_urls)
        for name, channel in settings.items()
    }


class Channels:
    """The channels as configured now; a request under way keeps its channel at a reload."""

    def __init__(self, settings: Settings) -> None:
        self._by_name: Mapping[ChannelName, Channel] = {}
        self.enabled: Collection[Channel] = ()
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Build all channels again."""
        self._by_name = build_all(settings.channels, settings.server.public_url)
        self.enabled = [
            channel for name, channel in self._by_name.items() if settings.channels[name].enabled
        ]

    @property
    def agents(self) -> frozenset[AgentName]:
        """The agents of all enabled channels."""
        return frozenset(agent for channel in self.enabled for agent in channel.agents)

    def of(self, name: ChannelName) -> Channel | None:
        """Return the channel of an event; None if it is no longer configured."""
        return self._by_name.get(name)
