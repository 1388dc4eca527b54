"""What the shell completes: names that stand in the configuration, that of the running daemon
before others. Where there is none, or it cannot be read, nothing is proposed and nothing said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from berinia_webhookd.channels.catalogue import Channels
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.logs.reading import log_types
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.dev import configuration_here

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completing(names: Callable[[Settings], Iterable[str]]) -> Complete:
    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        settings = _settings(ctx)
        known = () if settings is None else names(settings)
        return [CompletionItem(name) for name in sorted(known) if name.startswith(incomplete)]

    return complete


def _settings(ctx: click.Context) -> Settings | None:
    config_file = ctx.find_root().params.get("config_file")
    try:
        if config_file is None:
            config_file = configuration_here(os.environ)
        if config_file is None and (running := installation.read(os.environ)) is not None:
            config_file = running.configuration
        return CommandContext(config_file).examine().settings
    except (WebhookdError, OSError):
        return None


def _agents_of(settings: Settings) -> Iterable[str]:
    return {*settings.agents.by_name, *Channels(settings).agents}


channels = _completing(lambda settings: settings.channels)
agents = _completing(_agents_of)
logs = _completing(lambda settings: log_types(settings.channels))
