"""`consents`: reads the register of who may be written to; people change it by what they write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from berinia_webhookd.journal.consents import ListedConsent
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.model import ConsentState
from berinia_webhookd.tools.command_context import CommandContext, ConfiguredChannel
from berinia_webhookd.tools.opened_journal import normal_address, open_journal
from berinia_webhookd.tools.terminal import columns, json_text, printable, utc

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_channel_option = click.option("--channel", type=ConfiguredChannel(), help="Only on this channel.")
_WORDS = {ConsentState.OPTED_OUT: "opted out", ConsentState.OPTED_IN: "opted in"}


@click.group("consents")
def consents() -> None:
    """See who may be written to: who said STOP, who said START, and when.

    There is one line for each address and channel; who said neither is not in the register.
    """


@consents.command("list")
@_channel_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_json_option
@click.pass_obj
def list_(context: CommandContext, /, *, channel: str | None, limit: int, as_json: bool) -> None:
    """List what people said, newest first.

    The address of a person who was erased is not shown.
    """
    found = open_journal(context).run(
        lambda journal: journal.consents(channel=channel, limit=limit)
    )
    if as_json:
        click.echo(json_text([asdict(one) for one in found]))
    elif not found:
        click.echo("Nobody said STOP or START.")
    else:
        click.echo("\n".join(columns(list(_rows(found)))))


def _rows(found: Sequence[ListedConsent]) -> Iterator[list[str]]:
    yield [click.style(name, bold=True) for name in ("ADDRESS", "CHANNEL", "STATE", "SINCE (UTC)")]
    for one in found:
        since = "unknown" if one.since is None else f"{one.since:%Y-%m-%d %H:%M:%S}"
        yield [printable(one.address or "(erased)"), one.channel, _coloured(one), since]


def _coloured(one: ListedConsent) -> str:
    state = ConsentState(one.state)
    return click.style(_WORDS[state], fg="red" if state is ConsentState.OPTED_OUT else "green")


@consents.command("check", short_help="Say whether a person may be written to.")
@click.argument("address")
@_channel_option
@_json_option
@click.pass_obj
def check(context: CommandContext, /, *, address: str, channel: str | None, as_json: bool) -> int:
    """Say whether a person may be written to: exit code 0; 1 if the person said STOP.

    ADDRESS is a number or mail address, in any spelling; a number without its country is one of
    the country that the channels name. Where none does, and nobody said anything from it, that is
    exit code 2: the person may be known by the whole number. Without --channel, an opt-out on any
    channel counts. People who were erased are recognised by consents.key.
    """
    normal = normal_address(address, "ADDRESS", channel)
    opened = open_journal(context, with_key=True)
    found = [
        one
        for one in opened.run(lambda journal: journal.consents_of(normal))
        if channel is None or one.channel == channel
    ]
    if not found:
        _require_an_address(normal)
    may = all(one.state != ConsentState.OPTED_OUT for one in found)
    if as_json:
        known = [asdict(one) for one in found]
        click.echo(json_text({"address": normal, "may_be_written_to": may, "consents": known}))
    else:
        click.echo("\n".join(_answer(normal, found, may=may)))
    return 0 if may else 1


def _require_an_address(normal: str) -> None:
    """Refuse what nobody may be known by: that it is not in the register says nothing.

    Raises:
        click.UsageError: it is such.
    """
    if not any(character.isdigit() or character == "@" for character in normal):
        raise click.UsageError(
            f"{printable(normal)} does not look like an address: it has neither a digit nor an @"
        )
    if normal.isdecimal() and normal.startswith("0"):
        raise click.UsageError(
            f"whether {normal} may be written to cannot be told without its country: give it with "
            "its +, or set channels.<name>.country"
        )


def _answer(address: str, found: Sequence[ListedConsent], *, may: bool) -> Iterator[str]:
    yield f"{printable(address)} {'may' if may else 'must not'} be written to"
    for one in found:
        since = "since an unknown time" if one.since is None else f"since {utc(one.since)}"
        yield f"    {one.channel}: {_coloured(one)} {since}"
        yield f"        by event {one.event}"
    if not found:
        yield "    never said STOP or START"


@consents.command("export", short_help="Write the whole register as JSON lines.")
@click.pass_obj
def export(context: CommandContext, /) -> None:
    """Write the whole register as JSON lines, each as in `list --json`."""

    async def write(journal: Operations) -> None:
        async for one in journal.export_consents():
            click.echo(json_text(asdict(one), indent=None))

    open_journal(context).run(write)
