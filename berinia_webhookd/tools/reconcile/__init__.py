"""`reconcile`: asks a provider what it holds, and takes in what never arrived."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from berinia_webhookd.clock import now
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.reconcile import Reconciliation
from berinia_webhookd.model import ChannelName
from berinia_webhookd.outbound.alert_kinds import AlertKind
from berinia_webhookd.outbound.alerts import Told, send
from berinia_webhookd.status.durations import counted
from berinia_webhookd.tools.command_context import CommandContext, ConfiguredChannel
from berinia_webhookd.tools.opened_journal import OpenedJournal, open_journal
from berinia_webhookd.tools.reconcile import sources
from berinia_webhookd.tools.reconcile.comparing import Comparison, Tally, Wanted
from berinia_webhookd.tools.since import Since
from berinia_webhookd.tools.terminal import printable


@click.command("reconcile")
@click.argument("channel", type=ConfiguredChannel(), required=False)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--since", type=Since(), help="From when on: 6h, or a time; not with a file.")
@click.option("--until", type=Since(), help="Up to when.  [default: now]")
@click.option("--dry-run", is_flag=True, help="Only say what is missing.")
@click.option("--late-ok", is_flag=True, help="Take in what is older than 24 hours as well.")
@click.option(
    "--now", "at_once", is_flag=True, help="Do not leave young ones to come by themselves."
)
@click.pass_obj
def reconcile(
    context: CommandContext,
    *,
    channel: str | None,
    file: Path | None,
    since: datetime | None,
    until: datetime | None,
    dry_run: bool,
    late_ok: bool,
    at_once: bool,
) -> None:
    """Ask the provider of CHANNEL what it received for us, and take in what never arrived.

    Twilio, Mailgun, and the provider of a declared channel whose table `reconcile` says how, are
    asked themselves; without CHANNEL, on all channels that can be. What the WhatsApp bot sent is in
    FILE, JSON lines that the bot writes, each as it posts it.

    What is taken in says so to its agent ("reconciled": true), has its own time, and comes behind
    what is here already; opt-outs take effect at once. It can be given again at any time: nothing
    is taken in twice. What is younger than 15 minutes may still come, and is "pending" in a dry
    run, which also alerts (events_missed) where nobody looks on. Mails are pending for nine hours,
    in which Mailgun tries again itself: they are only taken in with --now.

    Exit codes: 0 nothing is missing; 1 something is, or was not taken in; 3 the provider refuses
    our credentials, or there are none; 4 it cannot be asked now.
    """
    settings = context.load().settings
    at = now()
    names = sources.askable(settings) if channel is None else [ChannelName(channel)]
    from_file = channel is not None and sources.require_askable(
        settings, ChannelName(channel), given=file is not None
    )
    if (since is None) is not from_file:
        raise click.UsageError("give --since without a file, and no --since with one")
    begin = since or datetime.min.replace(tzinfo=UTC)
    opened = open_journal(context, with_key=True)
    codes: list[int] = []
    for name in names:
        wanted = Wanted(name, begin, until or at, at, dry_run, late_ok, at_once)
        try:
            codes.append(_Run(settings, opened, wanted, file).exit_code())
        except WebhookdError as error:
            if len(names) == 1:
                raise
            hint = f" — {error.hint}" if error.hint else ""
            click.echo(printable(f"{name}: {error}{hint}"), err=True)
            codes.append(error.exit_code)
    click.get_current_context().exit(max(codes))


@dataclass
class _Run:
    """One channel, compared with its provider."""

    settings: Settings
    opened: OpenedJournal
    wanted: Wanted
    file: Path | None

    def exit_code(self) -> int:
        """Compare, say what was found, and return the exit code."""
        tally, wanted = Tally(), self.wanted
        progress = _Progress(tally)

        def waits(provider: str, why: str, seconds: float) -> None:
            progress.end()
            click.echo(printable(f"{provider}: {why}; asked again in {seconds:g} s"), err=True)
            told = {"channel": wanted.channel, "reason": why, "seconds": seconds}
            self.opened.tell_the_log([("reconcile.waiting", told)])

        tally.waits = waits

        async def compare(journal: Reconciliation) -> None:
            how: dict[str, Any] = {"moved": progress.moved, "tell": self.opened.tell_the_log}
            async with HttpClient() as http:
                asking = sources.Asking(self.settings, wanted.channel, journal, http, tally)
                source = await asking.source(self.file)
                await Comparison(journal, source, wanted, tally, **how).run()

        try:
            self.opened.run(compare, Reconciliation)
        except BaseException:
            progress.end()
            if tally.listed:  # of the rest nothing is known, so this is no answer
                click.echo(f"so far: {_told(tally, wanted)}", err=True)
            raise
        progress.end()
        _say(tally, wanted)
        missing = tally.missing if wanted.dry_run else 0  # it is here now, or was named
        told = {"channel": wanted.channel, **tally.counts, "missing": missing}
        if missing or tally.too_old:
            told |= {"since": _text(tally.absent_from), "until": _text(tally.absent_to)}
            self.opened.tell_the_log([("events.missed", told)])
        elif not tally.refused:
            told |= {"since": _text(wanted.since), "until": _text(tally.complete_to)}
            self.opened.tell_the_log([("events.complete", told)])
        if wanted.dry_run and tally.missing and not sys.stderr.isatty():
            _alert(self.settings, wanted.channel, tally)
        left = tally.refused + tally.too_old + (tally.missing if wanted.dry_run else 0)
        return 1 if left else 0


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).isoformat()


class _Progress:
    """A line on a terminal with the progress."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._shown = sys.stderr.isatty()
        self._begun = False

    def moved(self) -> None:
        if self._shown:
            self._begun = True
            taken = f", taken in {self._tally.taken_in:,}" if self._tally.taken_in else ""
            click.echo(f"\rlisted {self._tally.listed:,}{taken}", nl=False, err=True)

    def end(self) -> None:
        if self._begun:
            self._begun = False
            click.echo(err=True)


def _say(tally: Tally, wanted: Wanted) -> None:
    for line in tally.named:
        click.echo(printable(line), err=True)
    if (more := tally.missing + tally.refused - len(tally.named)) > 0:
        click.echo(f"… and {more} more", err=True)
    click.echo(f"{wanted.channel}: {_told(tally, wanted)}")
    if tally.too_old:
        click.echo("What is older than 24 hours needs --late-ok.", err=True)


def _told(tally: Tally, wanted: Wanted) -> str:
    told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in tally.counts.items())
    taken = "" if wanted.dry_run else f"; taken in {tally.taken_in}"
    refused = f", not taken in {tally.refused}" if tally.refused else ""
    return f"{told}{taken}{refused}"


def _alert(settings: Settings, channel: ChannelName, tally: Tally) -> None:
    what = counted(tally.missing, "message")
    are = "is" if tally.missing == 1 else "are"
    summary = f"{what} that {channel}'s provider has {are} not here: no callback came"
    told = Told(summary, now(), {"channel": channel})
    work = partial(send, settings.alerts, AlertKind.EVENTS_MISSED, told)
    asyncio.run(work(node=settings.journal.node))
