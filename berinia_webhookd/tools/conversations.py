"""`conversations`: what was said with whom, and taking a conversation over from its agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click

from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.clock import now
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.pause import Whose
from berinia_webhookd.model import Pause
from berinia_webhookd.tools.command_context import CommandContext, ConfiguredChannel
from berinia_webhookd.tools.conversation_view import list_lines, show_lines, shown_json
from berinia_webhookd.tools.opened_journal import caller, normal_address, open_journal
from berinia_webhookd.tools.since import Duration
from berinia_webhookd.tools.terminal import json_text

CommandT = TypeVar("CommandT", bound=Callable[..., None])

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _whose(command: CommandT) -> CommandT:
    """Add the options that select conversations."""
    for option in (
        click.option("--channel", type=ConfiguredChannel(), help="Only on this channel."),
        click.option("--group", metavar="G", help="In this group, or to this address of ours."),
        click.option(
            "--sender", metavar="X", help="With this number, address or name, in any spelling."
        ),
    ):
        command = option(command)
    return command


def _as_whose(sender: str | None, group: str | None, channel: str | None) -> Whose:
    if sender is None and group is None:
        raise click.UsageError("give --sender, --group, or both")
    return Whose(
        sender=None if sender is None else normal_address(sender, "--sender", channel),
        channel=channel,
        party=None if group is None else normal_party(group),
    )


@click.group("conversations")
def conversations() -> None:
    """See what was said with whom; pause a conversation to take it over, and resume it.

    While it is paused, messages are received, but only STOP and START are dispatched. An ID is a
    conversation's number, or the beginning of the id of one of its events.
    """


@conversations.command("list", short_help="List conversations, held ones first.")
@click.option("--paused", is_flag=True, help="Only paused ones.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@_json_option
@click.pass_obj
def list_(context: CommandContext, /, *, paused: bool, limit: int, as_json: bool) -> None:
    """List conversations: held ones first, then the most recent."""
    found = open_journal(context).run(
        lambda journal: journal.list_conversations(paused=paused, limit=limit)
    )
    if as_json:
        click.echo(json_text([asdict(one) for one in found]))
    elif not found:
        click.echo("No conversation is paused." if paused else "No conversations.")
    else:
        click.echo("\n".join(list_lines(found, now())))


@conversations.command("show", short_help="Show messages and replies in order.")
@click.argument("id_", metavar="[ID]", required=False)
@_whose
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Messages."
)
@_json_option
@click.pass_obj
def show(
    context: CommandContext,
    /,
    *,
    id_: str | None,
    sender: str | None,
    group: str | None,
    channel: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show messages and replies in order, what holds them, and what is next."""
    if (id_ is None) == (sender is None and group is None):
        raise click.UsageError("give either an ID or --sender (or --group)")

    async def look(journal: Operations) -> list[Any]:
        if id_ is not None:
            return [await journal.show_conversation(id_, limit=limit)]
        return await journal.show_conversations(_as_whose(sender, group, channel), limit=limit)

    found = open_journal(context).run(look)
    if as_json:
        click.echo(json_text([shown_json(one) for one in found]))
    else:
        click.echo("\n\n".join("\n".join(show_lines(one, now())) for one in found))


@conversations.command("pause", short_help="Take conversations over from their agents.")
@_whose
@click.option(
    "--for", "seconds", type=Duration(), help="How long: 30m, 12h, 3d. Default: until resumed."
)
@click.option("--reason", metavar="WORDS", help="Why; shown to everybody who looks.")
@_json_option
@click.pass_obj
def pause(
    context: CommandContext,
    /,
    *,
    sender: str | None,
    group: str | None,
    channel: str | None,
    seconds: float | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Take conversations over: their agents get nothing until they are resumed.

    An attempt that is running goes on, and its reply is sent. A pause never shortens another one.
    --group alone means everybody in it, also those who write there later.
    """
    whose = _as_whose(sender, group, channel)
    word = Pause(caller(), reason, seconds)
    opened = open_journal(context)
    changed = opened.run(lambda journal: journal.pause(whose, word))
    about = {"by": word.by, "for_seconds": seconds}
    opened.tell_the_log(("conversation.paused", {**about, "conversation": id_}) for id_ in changed)
    if as_json:
        click.echo(json_text({"paused": changed}))
    elif changed:
        click.echo(f"Paused: {_numbers(changed)}.")
    else:
        click.echo("Already paused, for at least as long; see `conversations list --paused`.")


@conversations.command("resume", short_help="End pauses and the holds of guards.")
@_whose
@click.option("--discard", is_flag=True, help="Discard what was held, instead of dispatching it.")
@_json_option
@click.pass_obj
def resume(
    context: CommandContext,
    /,
    *,
    sender: str | None,
    group: str | None,
    channel: str | None,
    discard: bool,
    as_json: bool,
) -> None:
    """End pauses and the holds of guards; what was held is dispatched in order."""
    whose = _as_whose(sender, group, channel)
    opened = open_journal(context)
    resumed = opened.run(lambda journal: journal.resume(whose, discard=discard))
    about = {"by": caller()}
    opened.tell_the_log(
        ("conversation.resumed", {**about, "conversation": id_}) for id_ in resumed.conversations
    )
    if as_json:
        click.echo(json_text({"resumed": resumed.conversations, "discarded": resumed.discarded}))
    elif resumed.conversations:
        given_up = f"; {resumed.discarded} discarded" if discard else ""
        click.echo(f"Resumed: {_numbers(resumed.conversations)}{given_up}.")
    else:
        click.echo("Nothing was held.")


def _numbers(conversations_: Sequence[int]) -> str:
    return ", ".join(f"conversation {id_}" for id_ in conversations_)
