"""`logs`: the unified logs, for people on a terminal and as they are for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import click

from berinia_webhookd.errors import NotFound
from berinia_webhookd.logs.reading import EVERYTHING, Follower, log_file, log_types
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.terminal import json_text, printable

POLL_SECONDS: Final = 0.25
NOTHING_YET: Final = "nothing was written to it yet, or logs.dir is another folder"
NO_ERRORS_YET: Final = (
    "nothing was written to it yet, which for errors is good news, or logs.dir is another folder"
)
LEVELS: Final[Mapping[str, str]] = {
    "debug": "bright_black",
    "info": "green",
    "warning": "yellow",
    "error": "red",
    "critical": "red",
}


@click.command("logs")
@click.option(
    "--type",
    "log_type",
    default=EVERYTHING,
    show_default=True,
    metavar="TYPE",
    help="Which of the logs: webhook (everything), the name of a channel, agents, error, system.",
)
@click.option(
    "-n",
    "lines",
    type=click.IntRange(0, 100_000),
    default=50,
    show_default=True,
    metavar="N",
    help="How many of the last lines.",
)
@click.option("-f", "follow", is_flag=True, help="Go on with new lines, over rotation too.")
@click.pass_obj
def logs(context: CommandContext, /, *, log_type: str, lines: int, follow: bool) -> None:
    """Read the unified logs: coloured on a terminal, otherwise as they are."""
    settings, running = context.look_with_installation()
    known = log_types(settings.channels)
    if log_type not in known:
        raise click.BadParameter(f"{log_type!r} is not one of {', '.join(known)}")
    path = log_file(installation.logs_folder(settings, running), log_type)
    with Follower(path) as log:
        if not log.exists and not follow:
            raise NotFound(f"there is no log {path}", hint=_why_none(log_type))
        _print(log.last(lines))
        if follow:
            _print(log.follow(lambda: time.sleep(POLL_SECONDS)))


def _why_none(log_type: str) -> str:
    return NO_ERRORS_YET if log_type == "error" else NOTHING_YET


def _print(lines: Iterable[str]) -> None:
    people = sys.stdout.isatty()
    for line in lines:
        click.echo(readable(line) if people else line)


def readable(line: str) -> str:
    """A log line for people; what is no JSON object is shown as it is, but harmless."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return printable(line)
    if not isinstance(found, dict):
        return printable(line)
    level = str(found.pop("level", ""))
    when = _local_time(found.pop("timestamp", None))
    event = printable(str(found.pop("event", "")))
    fields = " ".join(_field(name, value) for name, value in found.items())
    return " ".join(
        (
            click.style(printable(when), dim=True),
            click.style(f"{printable(level):<7}", fg=LEVELS.get(level)),
            click.style(event, bold=True),
            fields,
        )
    ).rstrip()


def _field(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value, indent=None)
    return f"{click.style(printable(name), fg='cyan')}={printable(text)}"


def _local_time(timestamp: object) -> str:
    """The time where the reader is; what is no time as it stands."""
    try:
        instant = datetime.fromisoformat(str(timestamp)).astimezone()
    except (ValueError, OverflowError):
        return str(timestamp or "")
    return f"{instant:%Y-%m-%d %H:%M:%S}.{instant.microsecond // 1000:03d}"
