"""Which providers can be asked what they hold, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.settings import MailgunSettings, TwilioSettings, WhatsAppSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.channels.whatsapp import WhatsAppChannel
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.reconcile import Reconciliation, recipients
from berinia_webhookd.model import ChannelName
from berinia_webhookd.tools.reconcile.bot import BotOutbox
from berinia_webhookd.tools.reconcile.comparing import Source, Tally
from berinia_webhookd.tools.reconcile.declared import ProviderList
from berinia_webhookd.tools.reconcile.mailgun import MailgunMails


def askable(settings: Settings) -> list[ChannelName]:
    """Return the enabled channels whose provider can be asked, by what is set.

    Raises:
        CannotStart: there is none; with the settings that are missing.
    """
    found, missing = [], []
    for name, channel in settings.channels.items():
        match channel:
            case TwilioSettings():
                known, setting = bool(channel.account_sids), f"channels.{name}.account_sids"
            case MailgunSettings():
                known = settings.reconcile_mailgun.api_key is not None
                setting = "reconcile.mailgun.api_key"
            case DeclaredSettings() if channel.reconcile is not None:
                left = channel.missing_to_ask
                known, setting = not left, f"channels.{name}.{next(iter(left), '')}"
            case _:
                continue
        if channel.enabled and known:
            found.append(name)
        elif channel.enabled:
            missing.append(setting)
    if not found:
        raise CannotStart(
            "no channel's provider can be asked",
            hint=f"set {' or '.join(missing)}"
            if missing
            else "enable a channel of Twilio's or Mailgun's, or a declared one with `reconcile`",
        )
    return found


def require_askable(settings: Settings, channel: ChannelName, *, given: bool) -> bool:
    """Return whether what a channel's provider holds is in a file, if one is `given`.

    Raises:
        click.UsageError: it is not, or it cannot be asked at all.
    """
    configured = settings.channels[channel]
    from_file = isinstance(configured, WhatsAppSettings)
    if isinstance(configured, DeclaredSettings) and configured.reconcile is None:
        raise click.UsageError(
            f"the provider of {channel} cannot be asked what it holds: "
            f"channels.{channel}.reconcile is not set (docs/declaring-a-channel.md)"
        )
    if from_file is not given:
        how = (
            "give the file that its bot writes" if from_file else "is asked itself, without a file"
        )
        raise click.UsageError(f"{channel}: {how}")
    return from_file


@dataclass
class Asking:
    """One channel whose provider is about to be asked."""

    settings: Settings
    channel: ChannelName
    journal: Reconciliation
    http: HttpClient
    tally: Tally

    async def source(self, file: Path | None) -> Source[Any]:
        """Return its provider.

        Raises:
            CannotStart: there are no credentials.
            WebhookdError: it is not known what to ask for.
        """
        configured = self.settings.channels[self.channel]
        match configured:
            case WhatsAppSettings() if file is not None:
                return BotOutbox(WhatsAppChannel(configured), file, self.tally)
            case MailgunSettings():
                return self._mailgun(configured)
            case TwilioSettings():
                return await self._twilio(configured)
            case DeclaredSettings():
                channel = DeclaredChannel(configured, self.settings.server.public_url)
                return ProviderList(channel, http=self.http, tally=self.tally)
            case _:
                raise click.UsageError(f"the provider of {self.channel} cannot be asked")

    def _mailgun(self, configured: MailgunSettings) -> Source[Any]:
        others = frozenset(
            one.path
            for one in self.settings.channels.values()
            if isinstance(one, MailgunSettings) and one.name != self.channel
        )
        channel = MailgunChannel(configured, self.settings.server.public_url)
        asked = self.settings.reconcile_mailgun
        return MailgunMails(channel, asked, others, http=self.http, tally=self.tally)

    async def _twilio(self, configured: TwilioSettings) -> Source[Any]:
        # Twilio's client takes a second to be imported.
        from berinia_webhookd.tools.reconcile.twilio import (  # noqa: PLC0415 - see above
            TwilioMessages,
            spellings,
        )

        asked = self.settings.reconcile_twilio
        numbers = asked.numbers or spellings(await self.journal.read(recipients, self.channel))
        channel = TwilioChannel(configured, self.settings.server.public_url)
        how: dict[str, Any] = {"http": self.http, "tally": self.tally}
        return TwilioMessages(channel, configured, numbers, asked.api_url, **how)
