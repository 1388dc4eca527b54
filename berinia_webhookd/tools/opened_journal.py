"""Opens the journal in use, for commands that read or change it."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import structlog

from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.journal.accept import GatheringOf
from berinia_webhookd.journal.actions import Actor
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.logs.pipeline import LogOptions, configure
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.terminal import printable

ResultT = TypeVar("ResultT")
JournalT = TypeVar("JournalT", bound=Operations)


@dataclass(frozen=True, slots=True)
class OpenedJournal:
    """The journal in use, and the logs beside it."""

    url: str
    logs: Path
    key: ConsentsKey | None
    gathering_of: GatheringOf

    def run(
        self,
        work: Callable[[JournalT], Coroutine[Any, Any, ResultT]],
        kind: type[JournalT] = Operations,  # type: ignore[assignment]
    ) -> ResultT:
        """Call `work` with the open journal.

        Raises:
            NotFound: there is no journal, or not what was asked for.
            JournalUnavailable: it cannot be read or written.
        """

        async def whole() -> ResultT:
            how: dict[str, Any] = {"key": self.key, "gathering_of": self.gathering_of}
            async with kind(self.url, actor=Actor(caller()), **how) as journal:
                return await work(journal)

        return asyncio.run(whole())

    def tell_the_log(self, told: Iterable[tuple[str, Mapping[str, object]]]) -> None:
        """Add what an operator did to those of the daemon's logs that there are: only the daemon
        creates log files, as its own user.
        """
        files = configure(self.logs, LogOptions(), quiet=True, creates=False)
        for event, fields in told:
            structlog.get_logger().info(event, **fields)
        files.close()


def caller() -> str:
    """Return who runs the command: who called `sudo`, else the user, else the user's id."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def open_journal(context: CommandContext, *, with_key: bool = False) -> OpenedJournal:
    """Find the journal, and print on stderr which one it is; `with_key` also reads the consents
    key, by which erased people are recognised.

    Raises:
        WebhookdError: the key cannot be read.
    """
    settings, running = context.look_with_installation()
    url = installation.journal_url(settings, running)
    click.echo(f"journal: {printable(installation.shown_url(url))}", err=True)
    key = installation.consents_key(settings, os.environ, running) if with_key else None
    logs = installation.logs_folder(settings, running)
    return OpenedJournal(url, logs, key, settings.agents.gathering_of)


def normal_address(text: str, name: str, channel: str | None = None) -> str:
    """Return the normal form of an address given as the option or argument `name`: on one channel,
    or on those that say of which country their numbers are.

    Raises:
        click.UsageError: it is empty, or another number on each of several channels.
    """
    context = click.get_current_context().find_object(CommandContext) or CommandContext(None)
    configured = context.examine().settings.channels
    countries = {one.country for of, one in configured.items() if channel in (None, of)}
    forms = {normal_party(text, country) for country in countries - {None} or {None}}
    if forms == {""}:
        raise click.UsageError(f"{name} is empty")
    if len(forms) > 1:
        each = ", ".join(sorted(map(printable, forms)))
        raise click.UsageError(
            f"{name} is {each} by the channels' countries: give one, or --channel"
        )
    return forms.pop()
