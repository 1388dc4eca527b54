"""`logs`: shows the unified logs, readable on a terminal, unchanged otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click
import wcwidth

from berinia_webhookd.errors import NotFound, NotPermitted
from berinia_webhookd.logs.reading import EVERYTHING, Follower, log_file, log_types
from berinia_webhookd.tools import completion, installation
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.since import Since
from berinia_webhookd.tools.terminal import json_text, printable, terminal_width, wrapped

POLL_SECONDS: Final = 0.25
NOTHING_YET: Final = "nothing was written to it yet, or logs.dir is another folder"
NO_ERRORS_YET: Final = (
    "nothing was written to it yet, which for errors is good news, or logs.dir is another folder"
)
MOST_LINES: Final = 1_000_000  # that are searched
# The reason comes first, ids last.
FIRST: Final = ("channel", "agent", "reason", "error", "diagnosis", "hint", "problems")
LAST: Final = ("event_id", "request_id", "client", "node", "exception")
INDENT: Final = 4
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
    shell_complete=completion.logs,
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
@click.option("-f", "follow", is_flag=True, help="Follow new lines, across rotation.")
@click.option("--since", type=Since(), metavar="T", help="Only newer lines: 2h, 3d, 2026-11-30.")
@click.option(
    "--event",
    "event_id",
    metavar="ID",
    help="Only about the event with this id, as in `events list`; its beginning is enough.",
)
@click.option("--json", "as_json", is_flag=True, help="Unchanged, on a terminal too.")
@click.pass_obj
def logs(
    context: CommandContext,
    /,
    *,
    log_type: str,
    lines: int,
    follow: bool,
    since: datetime | None,
    event_id: str | None,
    as_json: bool,
) -> None:
    """Read the unified logs: coloured on a terminal, unchanged otherwise."""
    settings, running = context.look_with_installation()
    known = log_types(settings.channels)
    if log_type not in known:
        raise click.BadParameter(f"{log_type!r} is not one of {', '.join(known)}")
    path = log_file(installation.logs_folder(settings, running), log_type)
    with Follower(path) as log:
        if not log.exists and installation.is_closed(path):
            raise NotPermitted(path)
        if not log.exists and not follow:
            raise NotFound(f"there is no log {path}", hint=_why_none(log_type))
        wanted = _Wanted(since, event_id)
        show = _print_as_they_are if as_json else _print
        if wanted.everything:
            show(log.last(lines))
        else:
            found = [line for line in log.last(MOST_LINES) if wanted.wants(line)]
            show(found[max(0, len(found) - lines) :])
        if follow:
            added = log.follow(lambda: time.sleep(POLL_SECONDS))
            show(line for line in added if wanted.wants(line))


def _why_none(log_type: str) -> str:
    return NO_ERRORS_YET if log_type == "error" else NOTHING_YET


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Selects lines."""

    since: datetime | None
    event_id: str | None

    @property
    def everything(self) -> bool:
        return self.since is None and self.event_id is None

    def wants(self, line: str) -> bool:
        if self.everything:
            return True
        said = as_object(line)
        if self.event_id is not None and not str(said.get("event_id", "")).startswith(
            self.event_id
        ):
            return False
        return self.since is None or self._is_newer(said.get("timestamp"))

    def _is_newer(self, timestamp: object) -> bool:
        try:
            return self.since is not None and datetime.fromisoformat(str(timestamp)) >= self.since
        except (TypeError, ValueError):  # no time, or one without a zone
            return False


def _print(lines: Iterable[str]) -> None:
    people = sys.stdout.isatty()
    for line in lines:
        click.echo(readable(line) if people else line)


def _print_as_they_are(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def as_object(line: str) -> dict[str, Any]:
    """Return a log line's fields; none if it is not a JSON object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def readable(line: str) -> str:
    """Format a log line; one that is not a JSON object is only made safe for the terminal."""
    found = as_object(line)
    if not found:
        return printable(line)
    level = str(found.pop("level", ""))
    when = _local_time(found.pop("timestamp", None))
    event = printable(str(found.pop("event", "")))
    first = [name for name in FIRST if name in found]
    rest = [name for name in found if name not in FIRST and name not in LAST]
    ordered = (*first, *rest, *(name for name in LAST if name in found))
    head = f"{printable(when)} {printable(level):<7} {event}"
    told = [name for name in ordered if found[name] is not None]
    fields = [(printable(name), _text_of(found[name])) for name in told]
    beside, *below = _laid_out(fields, len(head), terminal_width())
    said = " ".join(
        (
            click.style(printable(when), dim=True),
            click.style(f"{printable(level):<7}", fg=LEVELS.get(level)),
            click.style(event, bold=True),
        )
    )
    return "\n".join([f"{said}{beside}".rstrip(), *below])


def _laid_out(fields: Iterable[tuple[str, str]], start: int, width: int) -> list[str]:
    """Return the lines of a line's fields: whole ones where they fit."""
    lines, at = [""], start
    for name, text in fields:
        plain = f"{name}={text}"
        first, *more = wrapped(plain, width, INDENT, INDENT, whole_words=False)
        shown = first.replace(f"{name}=", f"{click.style(name, fg='cyan')}=", 1)
        if not more and at + 1 + wcwidth.width(plain) <= width:
            lines[-1] += f" {shown}"
            at += 1 + wcwidth.width(plain)
            continue
        lines += [" " * INDENT + line for line in (shown, *more)]
        at = INDENT + wcwidth.width((first, *more)[-1])
    return lines


def _text_of(value: Any) -> str:
    return printable(value if isinstance(value, str) else json_text(value, indent=None))


def _local_time(timestamp: object) -> str:
    """Return the local time; a text that is no time as it is."""
    try:
        instant = datetime.fromisoformat(str(timestamp)).astimezone()
    except (ValueError, OverflowError):
        return str(timestamp or "")
    return f"{instant:%Y-%m-%d %H:%M:%S}.{instant.microsecond // 1000:03d}"
