"""The list of kinds to add a new one to, and the channels that exist by themselves. It builds what
is configured, and is the one place from which secrets are revealed to channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from berinia_webhookd.channels import mailgun, twilio, whatsapp
from berinia_webhookd.channels.contract import Channel, Kind
from berinia_webhookd.config.settings import ChannelsSettings
from berinia_webhookd.model import ChannelName

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for kind in (twilio.KIND, mailgun.KIND, whatsapp.KIND)
}
BUILT_IN: Final[Mapping[ChannelName, Kind]] = {
    twilio.SMS: twilio.KIND,
    mailgun.EMAIL: mailgun.KIND,
    whatsapp.WHATSAPP: whatsapp.KIND,
}


def build(settings: ChannelsSettings, public_urls: Sequence[str]) -> Mapping[ChannelName, Channel]:
    """The enabled channels by name; `public_urls` is `server.public_url`."""
    channels = build_all(settings, public_urls)
    return {name: channels[name] for name in BUILT_IN if _of(settings, name).enabled}


def build_all(
    settings: ChannelsSettings, public_urls: Sequence[str]
) -> Mapping[ChannelName, Channel]:
    """All configured channels: what one received may be there when it receives no more."""
    return {
        name: kind.build(name, _of(settings, name), public_urls) for name, kind in BUILT_IN.items()
    }


def _of(settings: ChannelsSettings, name: ChannelName) -> Any:
    return getattr(settings, name)
