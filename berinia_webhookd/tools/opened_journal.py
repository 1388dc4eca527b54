"""The journal in use, for commands that look at it and change it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.terminal import printable

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class OpenedJournal:
    """The journal in use, and the logs beside it."""

    url: str
    logs: Path
    key: ConsentsKey | None = None

    def run(self, work: Callable[[Operations], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Do something with the open journal.

        Raises:
            NotFound: there is none, or not what was asked for.
            JournalUnavailable: it cannot be read or written.
        """

        async def whole() -> ResultT:
            async with Operations(self.url, key=self.key) as journal:
                return await work(journal)

        return asyncio.run(whole())


def open_journal(context: CommandContext, *, with_key: bool = False) -> OpenedJournal:
    """Find the journal and say on stderr which one it is; `with_key` for what concerns people who
    were erased.

    Raises:
        WebhookdError: the key cannot be read.
    """
    settings, running = context.look_with_installation()
    url = installation.journal_url(settings, running)
    click.echo(f"journal: {printable(installation.shown_url(url))}", err=True)
    key = installation.consents_key(settings, os.environ, running) if with_key else None
    return OpenedJournal(url, installation.logs_folder(settings, running), key)


def normal_address(text: str, name: str) -> str:
    """Return a person's address in normal form, as given by an option or argument of this name.

    Raises:
        click.UsageError: it is empty.
    """
    normal = normal_party(text)
    if not normal:
        raise click.UsageError(f"{name} is empty")
    return normal
