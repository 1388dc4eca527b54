"""`reload`: has the running daemon read its configuration and load its agents again, and prints
what came of it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from berinia_webhookd.errors import CannotStartNow, NotFound
from berinia_webhookd.logs.reading import EVERYTHING, Follower, log_file
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.logs import as_object
from berinia_webhookd.tools.terminal import headed, terminal_width

PATIENCE_SECONDS: Final = 30.0
LOADING_SECONDS: Final = 90.0  # agents may take a minute
POLL_SECONDS: Final = 0.05


@click.command("reload")
@click.pass_obj
def reload(context: CommandContext, /) -> None:
    """Have the running daemon read its configuration again, and wait until it has.

    Agents are loaded again too; one whose new code does not load keeps its old code. Exit code 1:
    that happened, or the configuration was refused and the old one stays.
    """
    settings, running = context.look_with_installation()
    if running is None:
        raise NotFound("no daemon runs here", hint="berinia-webhookd serve")
    with Follower(log_file(installation.logs_folder(settings, running), EVERYTHING)) as log:
        log.last(0)
        try:
            os.kill(running.pid, signal.SIGHUP)
        except PermissionError as error:
            raise NotFound(
                f"process {running.pid} is another user's", hint="sudo berinia-webhookd reload"
            ) from error
        except ProcessLookupError as error:
            raise NotFound("the daemon has just ended", hint="berinia-webhookd doctor") from error
        reports = _Reports(log)
        said = reports.next(("config.reloaded", "config.refused"), PATIENCE_SECONDS)
        if said["event"] == "config.refused":
            _say(_refused(said), err=True)
            click.get_current_context().exit(1)
        _say(_reloaded(said))
        if not said.get("agents"):
            return
        said = reports.next(("agents.reloaded",), LOADING_SECONDS)
        problems = list(_not_loaded(said))
        _say(problems, err=True)
        click.get_current_context().exit(1 if problems else 0)


class _Reports:
    """What the daemon logs, from one report to the next: several may have come at once."""

    def __init__(self, log: Follower) -> None:
        self._lines = log.follow(self._wait)
        self._patience_seconds = self._deadline = 0.0

    def next(self, events: tuple[str, ...], patience_seconds: float) -> dict[str, Any]:
        """Return the next line of one of these events.

        Raises:
            CannotStartNow: none came in time.
        """
        self._patience_seconds = patience_seconds
        self._deadline = time.monotonic() + patience_seconds
        return next(
            said for line in self._lines if (said := as_object(line)).get("event") in events
        )

    def _wait(self) -> None:
        if time.monotonic() > self._deadline:
            raise CannotStartNow(
                f"the daemon did not report within {self._patience_seconds:.0f} s",
                hint="berinia-webhookd logs",
            )
        time.sleep(POLL_SECONDS)


def _say(lines: list[str], *, err: bool = False) -> None:
    width = terminal_width()
    for text in lines:
        click.echo("\n".join(headed("", text, width, 4)), err=err)


def _reloaded(said: Mapping[str, Any]) -> list[str]:
    changed, later = said.get("changed") or [], said.get("needs_restart") or []
    come, gone = said.get("new_channels") or [], said.get("gone_channels") or []
    channels = [f"new channel {name}" for name in come] + [
        f"channel {name} is gone" for name in gone
    ]
    lines = [f"reloaded; changed: {', '.join([*channels, *changed]) or 'nothing'}"]
    if later:
        lines.append(f"needs a restart: {', '.join(later)}")
    return lines


def _refused(said: Mapping[str, Any]) -> list[str]:
    problems = said.get("problems") or "see berinia-webhookd check-config"
    listed = problems if isinstance(problems, list) else [problems]
    return ["refused; the daemon goes on as before", *(f"- {one}" for one in listed)]


def _not_loaded(said: Mapping[str, Any]) -> Iterator[str]:
    """Yield what does not load, each cause once."""
    told = ("outdated", "the code before goes on"), ("unavailable", "messages wait")
    for name, meanwhile in told:
        reasons: Mapping[str, str] = said.get(name) or {}
        for reason in dict.fromkeys(reasons.values()):
            agents = ", ".join(agent for agent, why in reasons.items() if why == reason)
            yield f"cannot be loaded, so {meanwhile}: {agents}: {reason}"
