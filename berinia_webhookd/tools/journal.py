"""`journal`: copies, backs up, restores and discards whole journals."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import click

from berinia_webhookd.clock import now
from berinia_webhookd.config import values
from berinia_webhookd.config.settings import Settings, state_folder
from berinia_webhookd.config.values import SQLITE
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.journal.actions import Actor
from berinia_webhookd.journal.backing_up import back_up
from berinia_webhookd.journal.consents_key import FILE_NAME as KEY_FILE
from berinia_webhookd.journal.copying import Copied, copy_journal
from berinia_webhookd.journal.database import NAMESPACE
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.restoring import discard_copy, restore_journal
from berinia_webhookd.status.durations import counted
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.installation import consents_key, journal_url, shown_url
from berinia_webhookd.tools.opened_journal import caller
from berinia_webhookd.tools.terminal import json_text, printable

NICENESS: Final = 10
PASSWORDS: Final = frozenset({"password", "sslpassword"})
SEEN_BY_ALL: Final = (
    "everybody who lists processes sees a password on the command line: leave it out, and give it "
    "by PGPASSWORD, ~/.pgpass, or journal.url in the configuration"
)


@click.group("journal")
def journal() -> None:
    """Copy, back up, restore or discard a whole journal."""


@journal.command("copy", short_help="Copy a journal to another place or engine.")
@click.option(
    "--from", "source", metavar="URL", help="The journal to copy.  [default: journal.url]"
)
@click.option("--to", "target", metavar="URL", help="Where to copy it.  [default: journal.url]")
@click.option("--dry-run", is_flag=True, help="Only count, and copy nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def copy(
    context: CommandContext, *, source: str | None, target: str | None, dry_run: bool, as_json: bool
) -> int:
    """Copy a journal, such as a SQLite file, to another place, such as PostgreSQL.

    Stop every `serve` and `worker` first, and the socket that would start one again: `systemctl
    stop berinia-webhook.socket berinia-webhook.service`. If the copy is interrupted, give the same
    command again: it goes on where it was. Both sides are counted afterwards; exit code 1: they
    differ. A target that holds other events is refused, with their number. Without --from or --to,
    the configured journal.url is used.
    """
    if source is None and target is None:
        raise click.UsageError("give --from, --to, or both")
    configured = context.load().settings.journal.url.reveal()
    there, here = (
        _journal_url("--from", source, configured),
        _journal_url("--to", target, configured),
    )
    if there == here:
        raise click.UsageError("--from and --to are the same journal")
    for word, url in (("from", there), ("to", here)):
        click.echo(f"{word}: {printable(shown_url(url))}", err=True)
    bar = _Progress()
    tables = asyncio.run(
        copy_journal(there, here, dry_run=dry_run, actor=Actor(caller()), progress=bar.moved)
    )
    bar.end()
    lines = [*_as_lines(tables, dry_run=dry_run), _sentence(tables, dry_run=dry_run)]
    click.echo(json_text(_as_json(tables)) if as_json else "\n".join(lines))
    return 0 if dry_run or all(table.complete for table in tables) else 1


@journal.command("backup", short_help="Write the journal into one file while it runs.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def backup(context: CommandContext, *, file: Path) -> int:
    """Write the journal, and consents.key, into FILE, which must not be there yet.

    `serve` may run meanwhile. FILE has its name once it was written, flushed, opened and checked;
    until then, and if anything fails, there is nothing of that name. It holds people's data and a
    secret, and only you may read it. `journal restore FILE` puts it in the journal's place.
    """
    settings, running = context.look_with_installation()
    url = journal_url(settings, running)
    journal = values.sqlite_file(url)
    if journal is None:
        raise click.UsageError(
            "journal.url is not a SQLite file; PostgreSQL's own program makes the backup:\n"
            f"{_pg_dump(url, file)}\n"
            "Keep consents.key as well: it is in the configuration, and not in the database."
        )
    click.echo(f"journal: {printable(str(journal))}", err=True)
    key = consents_key(settings, os.environ, running)
    for stops in (signal.SIGTERM, signal.SIGHUP):  # without leaving anything behind
        signal.signal(stops, lambda number, _: sys.exit(128 + number))
    os.nice(NICENESS)  # whatever is read and checked, answers come first
    done = back_up(journal, file, now(), key=key)
    for left in done.removed:
        click.echo(f"removed what a backup that was killed had left: {printable(str(left))}")
    has_key = "with consents.key" if done.has_key else "without consents.key: there is none"
    events = counted(done.events, "event")
    click.echo(
        f"{printable(str(file))}: {events}, {done.size / 2**20:,.1f} MiB, {has_key}; checked"
    )
    return 0


@journal.command("restore", short_help="Replace the journal by a copy.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def restore(context: CommandContext, *, file: Path) -> int:
    """Replace the journal by FILE, a copy of it.

    What FILE lacks is first taken from the present journal: events, consents, erasures. Stop
    `serve` before, and the socket that would start it again: `systemctl stop
    berinia-webhook.socket berinia-webhook.service`; exit code 4: it runs. A copy that `serve` saved
    is removed afterwards. A backup's consents.key is put back where there is none, and never over
    another one.
    """
    settings = context.load().settings
    key = consents_key(settings, os.environ, None)
    # An operator's shell does not have the folder of the unit: there, the journal lies in it.
    own = state_folder(os.environ) / KEY_FILE if os.environ.get("STATE_DIRECTORY") else None
    done = restore_journal(
        _file_of(settings), file, now(), key=key, key_file=own, actor=Actor(caller())
    )
    if done.removed is not None:
        click.echo(f"removed what a restore that was killed had left: {done.removed}")
    events = counted(done.events, "event")
    click.echo(f"{events}, {done.taken} of them from the journal that was there")
    if done.erased:
        one, many = "event that was erased there is", "events that were erased there are"
        click.echo(f"{counted(done.erased, one, many)} erased")
    if done.key_file is not None:
        click.echo(f"consents.key is back: {done.key_file}")
    if done.set_aside is not None:
        click.echo(f"what was there cannot be read, and is now {done.set_aside}", err=True)
    return 0


@journal.command("discard", short_help="Delete what was saved of a lost journal.")
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def discard(context: CommandContext, *, file: Path) -> int:
    """Delete FILE, which `serve` saved of a lost journal."""
    journal = _file_of(context.load().settings)
    discard_copy(journal, file)
    click.echo(f"{file} is deleted")

    async def note() -> None:
        async with Operations(f"{SQLITE}{journal}", actor=Actor(caller())) as operations:
            await operations.note_discarded_copy(file.name)

    try:
        asyncio.run(note())
    except WebhookdError as error:  # there may be no journal that could keep it
        click.echo(f"that it is, is not noted: {error}", err=True)
    return 0


def _file_of(settings: Settings) -> Path:
    path = settings.journal.file
    if path is None:
        raise click.UsageError("journal.url is not a SQLite file: use PostgreSQL's own tools")
    return path


def _pg_dump(url: str, file: Path) -> str:
    """Return the command, without the password: that is asked for, or in ~/.pgpass."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    options = [one for one in parse_qsl(parts.query) if one[0] not in PASSWORDS]
    shown = parts._replace(netloc=user.partition(":")[0] + at + host, query=urlencode(options))
    words = [
        "pg_dump",
        "--format=custom",
        f"--schema={NAMESPACE}",
        f"--file={file}",
        shown.geturl(),
    ]
    return f"umask 077; {shlex.join(words)}"


def _journal_url(option: str, given: str | None, configured: str) -> str:
    if given is None:
        return configured
    try:
        url = values.journal_url(given).reveal()
        parsed = urlsplit(url)
    except ValueError as error:
        raise click.UsageError(f"{option}: give sqlite:///… or postgresql://…") from error
    if parsed.password is not None or PASSWORDS & set(parse_qs(parsed.query)):
        raise click.UsageError(f"{option}: {SEEN_BY_ALL}")
    return str(url)


class _Progress:
    """A line on a terminal with the progress."""

    def __init__(self) -> None:
        self._table, self._rows = "", 0
        self._shown = sys.stderr.isatty()

    def moved(self, table: str, rows: int) -> None:
        if not self._shown:
            return
        self._rows = rows if table != self._table else self._rows + rows
        if table != self._table and self._table:
            click.echo(err=True)
        self._table = table
        click.echo(f"\r{table}: {self._rows}", nl=False, err=True)

    def end(self) -> None:
        if self._table:
            click.echo(err=True)


def _as_json(tables: list[Copied]) -> object:
    return {
        "complete": all(table.complete for table in tables),
        "tables": [{"table": t.table, "from": t.source, "to": t.target} for t in tables],
    }


def _as_lines(tables: list[Copied], *, dry_run: bool) -> list[str]:
    lines = [f"{'table':<17}{'from':>12}{'to':>12}"]
    for table in tables:
        left = f"  {table.source - table.target:,} to copy" if dry_run else "  differs"
        mark = "" if table.complete else left
        lines.append(f"{table.table:<17}{table.source:>12,}{table.target:>12,}{mark}")
    return lines


def _sentence(tables: list[Copied], *, dry_run: bool) -> str:
    events = next(table for table in tables if table.table == "events")
    different = [table.table for table in tables if not table.complete]
    if not different:
        are = "event is" if events.source == 1 else "events are"
        return f"{events.source:,} {are} in both, nothing differs"
    if dry_run:
        missing = events.source - events.target
        return f"events to copy: {missing:,}; there already: {events.target:,}"
    return f"these differ: {', '.join(different)}; give the same command again"
