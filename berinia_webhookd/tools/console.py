"""`console`: logging in to the web console, from the machine that it runs on."""

from __future__ import annotations

import secrets

import click

from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal.sessions import Person, add_link
from berinia_webhookd.status.console.address import link_of
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.opened_journal import caller, open_journal

LONGEST_NAME = 60


@click.group("console")
def console() -> None:
    """Log in to the web console (console.enabled)."""


@console.command("login", short_help="Print a link that logs in, once.")
@click.option("--name", metavar="N", help="Who stands in Actions.  [default: who runs this]")
@click.option("--viewer", is_flag=True, help="Sees masked texts, and changes nothing.")
@click.pass_obj
def login(context: CommandContext, /, *, name: str | None, viewer: bool) -> None:
    """Print a link that logs somebody in, once, within five minutes.

    Who opens it is logged in for 12 hours. Whoever has the link is let in: hand it on like a
    password.
    """
    _, running = context.look_with_installation()
    if running is None:
        raise NotFound("no daemon runs here", hint="start it first; then try again")
    if running.console is None:
        raise NotFound(
            "the console is not on", hint="set console.enabled = true and restart the daemon"
        )
    person = Person((name or caller())[:LONGEST_NAME], viewer)
    secret = secrets.token_urlsafe(32)
    open_journal(context).run(lambda journal: journal.write(add_link, secret, person))
    click.echo(link_of(running.console, secret))
