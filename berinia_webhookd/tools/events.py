"""`events`: shows and changes what is in the journal, with or without a running daemon. It never
makes a journal, and never prompts: `--dry-run` is the safeguard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

import click

from berinia_webhookd.channels import catalogue
from berinia_webhookd.clock import now
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import ChannelNotConfigured
from berinia_webhookd.journal.erase import Erasure
from berinia_webhookd.journal.lock import real_path
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.replay import Changed, Decode
from berinia_webhookd.journal.saved_copies import saved_copies
from berinia_webhookd.journal.search import Searched
from berinia_webhookd.model import Decoded, EntryState, EventKind, VerifiedDelivery
from berinia_webhookd.status.durations import counted
from berinia_webhookd.tools import completion
from berinia_webhookd.tools.command_context import CommandContext, ConfiguredChannel
from berinia_webhookd.tools.event_list import list_lines, listed_json
from berinia_webhookd.tools.event_view import (
    show_lines,
    shown_json,
    statistics_lines,
)
from berinia_webhookd.tools.opened_journal import OpenedJournal, normal_address, open_journal
from berinia_webhookd.tools.since import Since
from berinia_webhookd.tools.terminal import (
    coloured_state,
    headed,
    json_text,
    printable,
    terminal_width,
    utc,
)

ResultT = TypeVar("ResultT")
CommandT = TypeVar("CommandT", bound=Callable[..., None])

KINDS: Final = tuple(kind.value for kind in EventKind)
OF_EVENTS: Final = ("kind", "agent", "sender", "recipient", "group", "message_id", "text")
STATES: Final = (*(state.value for state in EntryState), "rejected")
REPLAYABLE: Final = ("dead", "discarded", "waiting", "rejected")
DISCARDABLE: Final = ("dead", "waiting", "ready")
PERIOD: Final = timedelta(days=30)  # searched by default where no index helps
NOT_COVERED: Final = (
    "Not covered: backups, PostgreSQL's WAL, the agents' own data, logs written with"
    " logs.personal_data = full."
)


def _filters(command: CommandT) -> CommandT:
    """Add the options that select events, all but the state."""
    for option in (
        click.option(
            "--sender", metavar="X", help="Of this number, address or name, in any spelling."
        ),
        click.option("--error", metavar="WORDS", help="Whose last error has all these words."),
        click.option("--text", metavar="WORDS", help="With all these words."),
        click.option("--message-id", metavar="M", help="With this id of the provider's."),
        click.option("--group", metavar="G", help="Of this group."),
        click.option("--recipient", metavar="X", help="To this number, address or name."),
        click.option("--until", type=Since(), help="Received before then."),
        click.option("--since", type=Since(), help="Received since: 30m, 2h, 3d, or ISO 8601."),
        click.option(
            "--agent", metavar="A", shell_complete=completion.agents, help="For this agent."
        ),
        click.option("--kind", type=click.Choice(KINDS), help="Only of this kind."),
        click.option("--channel", type=ConfiguredChannel(), help="Of this channel."),
    ):
        command = option(command)
    return command


def _as_filters(**wanted: Any) -> Filters:
    """Return the filters that the options mean.

    Raises:
        click.UsageError: they ask of rejected deliveries what nobody has read in them.
    """
    unread = [name for name in OF_EVENTS if wanted[name] is not None]
    if wanted["state"] == "rejected" and unread:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in unread)
        raise click.UsageError(
            f"rejected deliveries could not be read, so {options} cannot be asked of them; give"
            " --channel, --since, --until, --error"
        )
    for name in ("sender", "recipient", "group"):
        if wanted[name] is not None:
            wanted[name] = normal_address(wanted[name], f"--{name}", wanted["channel"])
    return Filters(**wanted)


_state_option = click.option("--state", type=click.Choice(STATES), help="Only in this state.")
_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@click.group("events")
def events() -> None:
    """Look at the journal's events; replay, discard, erase or export them.

    An ID is an event's id; its beginning is enough where no other id begins the same.
    """


@events.command("list")
@_state_option
@_filters
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_json_option
@click.pass_obj
def list_(context: CommandContext, /, *, limit: int, as_json: bool, **wanted: Any) -> None:
    """List events, newest first, each by the beginning of its id.

    That is enough for the other commands. Below an event stands why it is held, gathered or
    skipped, and its last error. By state (but done, skipped, erased), sender or group all events
    are found. Other filters look through the last 30 days, unless --since says otherwise; words,
    recipients and message ids through the newest 100,000 events of that time.
    """
    filters = _as_filters(**wanted)
    if filters.since is None and filters.is_scan:
        filters = replace(filters, since=(filters.until or now()) - PERIOD)
        click.echo("looked through: 30 days; --since looks further back", err=True)

    async def look(journal: Operations) -> tuple[Searched, dict[str, str]]:
        found = await journal.search(filters, limit)
        ids = (id_ for one in found.events for id_ in (one.id, one.gathered_into) if id_)
        return found, {} if as_json else await journal.short_ids(ids)

    found, short = open_journal(context).run(look)
    if as_json:
        click.echo(json_text([listed_json(one) for one in found.events]))
    elif not found.events:
        click.echo("No such events.")
    else:
        click.echo("\n".join(list_lines(found.events, short, now())))
    if found.reached_at is not None:
        back = utc(found.reached_at)
        click.echo(f"looked through: as far back as {back}; --until looks further", err=True)


@events.command("show", short_help="Show one event, from its arrival to its outcome.")
@click.argument("id_", metavar="ID")
@_json_option
@click.pass_obj
def show(context: CommandContext, /, *, id_: str, as_json: bool) -> None:
    """Show one event: what happened to it from its arrival to its outcome, and its data."""
    shown = open_journal(context).run(lambda journal: journal.show(id_))
    if as_json:
        click.echo(json_text(shown_json(shown)))
    else:
        click.echo("\n".join(show_lines(shown, now())))


@events.command("export", short_help="Write events as JSON lines, oldest first.")
@_state_option
@_filters
@click.pass_obj
def export(context: CommandContext, /, **wanted: Any) -> None:
    """Write events as JSON lines, oldest first, each as `show --json` has it.

    With --sender, what the register of consents says of the person follows, a line a channel.
    """
    filters = _as_filters(**wanted)
    if filters.state == "rejected":
        raise click.UsageError("rejected deliveries are no events; see `events list`")

    async def write(journal: Operations) -> None:
        async for shown in journal.export(filters):
            click.echo(json_text(shown_json(shown), indent=None))
        for one in await journal.consents_of(filters.sender) if filters.sender else ():
            click.echo(json_text({"consent": asdict(one)}, indent=None))

    open_journal(context, with_key=filters.sender is not None).run(write)


@events.command("stats", short_help="Count events by channel, agent and state.")
@_json_option
@click.pass_obj
def stats(context: CommandContext, /, *, as_json: bool) -> None:
    """Count events by channel, agent and state; the oldest waiting; rates."""
    figures = open_journal(context).run(lambda journal: journal.stats())
    if as_json:
        click.echo(json_text(asdict(figures)))
    else:
        click.echo("\n".join(statistics_lines(figures, now())))


@events.command("replay", short_help="Make events ready again, by id or by --state.")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--state", type=click.Choice(REPLAYABLE), help="All in this state, with filters.")
@_filters
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--once-again", is_flag=True, help="Also what may have acted: running it twice is meant."
)
@_json_option
@click.pass_obj
def replay(
    context: CommandContext,
    /,
    *,
    ids: Sequence[str],
    dry_run: bool,
    once_again: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Make events ready again, by id or by `--state`, with a new place and a new schedule.

    Their history is kept. What is done is replayed only by id, what is erased never. A rejected
    delivery is read again as if it came now. What began of an agent that must not act twice
    (`delivery = "at-most-once"`) is passed over, unless --once-again says so. Exit code 1:
    something named by id was refused.
    """
    filters = _either(ids, wanted)
    decode = decoder(context.load().settings)
    opened = open_journal(context, with_key=True)
    how: dict[str, Any] = {"decode": decode, "dry_run": dry_run, "once_again": once_again}
    if ids:
        changed = opened.run(lambda journal: journal.replay(ids, **how))
    else:
        changed = opened.run(lambda journal: journal.replay_matching(filters, **how))
    if not dry_run:
        _tell_the_log(opened, "entry.replayed", changed)
    _report(changed, "replayed", dry_run=dry_run, as_json=as_json)
    _exit_if(bool(ids) and any(one.refused for one in changed))


def _either(ids: Sequence[str], wanted: Mapping[str, Any]) -> Filters:
    """Return the filters of a command that takes either ids or a state with filters.

    Raises:
        click.UsageError: both are given, or neither.
    """
    filtered = any(value is not None for value in wanted.values())
    if bool(ids) == filtered or (filtered and wanted["state"] is None):
        raise click.UsageError("give either ids or --state (with further filters if wanted)")
    return _as_filters(**wanted)


def _tell_the_log(opened: OpenedJournal, event: str, changed: Sequence[Changed]) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    for one in changed:
        if not one.refused:
            about = {"event_id": one.event_id or one.id, "agent": one.agent}
            told.append((event, {**about, "was": one.was}))
            if one.consent is not None:
                told.append(("consent.changed", {**about, "consent": one.consent}))
    opened.tell_the_log(told)


def decoder(settings: Settings) -> Decode:
    """Return how a rejected delivery is decoded again."""
    channels = catalogue.build(settings.channels, settings.server.public_url)

    def decode(delivery: VerifiedDelivery) -> Decoded:
        channel = channels.get(delivery.channel)
        if channel is None:
            raise ChannelNotConfigured(f"The channel {delivery.channel} is not enabled.")
        return channel.decode(delivery)

    return decode


@events.command("discard", short_help="Give events up.")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--state", type=click.Choice(DISCARDABLE), help="All in this state, with filters.")
@_filters
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_json_option
@click.pass_obj
def discard(
    context: CommandContext,
    /,
    *,
    ids: Sequence[str],
    dry_run: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Give events up, by id or by `--state`: they are not run, unless somebody replays them.

    What is running is passed over, and counted. Exit code 1: something named by id was refused.
    """
    filters = _either(ids, wanted)
    opened = open_journal(context)
    if ids:
        changed = opened.run(lambda journal: journal.discard(ids, dry_run=dry_run))
    else:
        changed = opened.run(lambda journal: journal.discard_matching(filters, dry_run=dry_run))
    if not dry_run:
        _tell_the_log(opened, "entry.discarded", changed)
    _report(changed, "discarded", dry_run=dry_run, as_json=as_json)
    _exit_if(bool(ids) and any(one.refused for one in changed))


def _report(changed: Sequence[Changed], what: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json_text([asdict(one) for one in changed]))
        return
    done, undone = (
        (f"would be {what}", f"would not be {what}") if dry_run else (what, f"not {what}")
    )
    for one in changed:
        outcome = f"{undone}: {printable(one.refused)}" if one.refused else done
        became = f" as {one.event_id}" if one.event_id and not one.refused else ""
        click.echo(f"{one.id}  {coloured_state(one.was)}  {outcome}{became}")
    passed_over = Counter(one.refused for one in changed if one.passed_over)
    more = "".join(f"; {count} passed over: {why}" for why, count in passed_over.items())
    count = sum(not one.refused for one in changed)
    click.echo(f"{count} of {len(changed)} {done}{more}", err=True)


@events.command("erase", short_help="Delete a person's data everywhere but in backups.")
@click.option("--sender", metavar="X", required=True, help="Whose data, in any spelling.")
@click.option("--dry-run", is_flag=True, help="Only say how much would be erased.")
@_json_option
@click.pass_obj
def erase(context: CommandContext, /, *, sender: str, dry_run: bool, as_json: bool) -> None:
    """Delete a person's data: raw bodies, events, attachments, replies, conversations.

    A mail is found by its envelope's sender, its From and its Reply-To.

    That events were there stays known, without their content. Exit code 1: something is left, as
    an attempt is running or the file is being read; run it again.
    """
    normal = normal_address(sender, "--sender")
    opened = open_journal(context, with_key=True)
    erasure = opened.run(lambda journal: journal.erase(normal, dry_run=dry_run))
    if not dry_run:
        counts = {"events": erasure.events, "conversations": erasure.conversations}
        opened.tell_the_log([("person.erased", counts)])
    if as_json:
        click.echo(json_text({**asdict(erasure), "dry_run": dry_run}))
    else:
        _say_erasure(erasure, dry_run=dry_run)
    click.echo("\n".join(headed("", NOT_COVERED, terminal_width(), 0)), err=True)
    file = context.load().settings.journal.file
    copies = [] if file is None else saved_copies(real_path(file))
    for copy in copies:
        click.echo(f"{copy}  was saved of a lost journal: restore or discard it first", err=True)
    _exit_if(not dry_run and (bool(erasure.running or copies) or not erasure.files_clean))


def _say_erasure(erasure: Erasure, *, dry_run: bool) -> None:
    verb = "would be erased" if dry_run else "erased"
    click.echo(
        f"{counted(erasure.events, 'event')} in"
        f" {counted(erasure.conversations, 'conversation')} and"
        f" {counted(erasure.rejected, 'rejected delivery', 'rejected deliveries')} {verb}"
    )
    if erasure.consents:
        kept = "would be kept" if dry_run else "kept"
        click.echo(f"{counted(erasure.consents, 'consent')} {kept} under a digest of the address")
    for id_ in erasure.running:
        click.echo(f"{id_}  running: erase again when its attempt has ended", err=True)
    if not dry_run and not erasure.files_clean:
        click.echo("The journal's WAL is still being read; run this again to empty it.", err=True)


def _exit_if(failed: bool) -> None:
    if failed:
        click.get_current_context().exit(1)
