"""The list of kinds to add a new one to. It builds the channels that are configured, and is the one
place from which secrets are revealed to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from berinia_webhookd.channels import mailgun, twilio, whatsapp
from berinia_webhookd.channels.contract import Channel, Kind
from berinia_webhookd.config.settings import ChannelSettings
from berinia_webhookd.model import ChannelName

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for kind in (twilio.KIND, mailgun.KIND, whatsapp.KIND)
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
    """All configured channels: what one received may be there when it receives no more."""
    return {name: _built(channel, public_urls) for name, channel in settings.items()}


def _built(settings: ChannelSettings, public_urls: Sequence[str]) -> Channel:
    channel = KINDS[settings.kind].build(settings, public_urls)
    channel.ack_timeout_seconds = settings.ack_timeout_seconds
    channel.later_status = settings.later_status
    channel.unproven_status = settings.unproven_status
    return channel
