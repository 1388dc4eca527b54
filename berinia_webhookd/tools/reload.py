"""`reload`: the running daemon reads its configuration again, and says what it made of it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final

import click

from berinia_webhookd.errors import CannotStartNow, NotFound
from berinia_webhookd.logs.reading import EVERYTHING, Follower, log_file
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.logs import as_object

PATIENCE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05


@click.command("reload")
@click.pass_obj
def reload(context: CommandContext, /) -> None:
    """Have the running daemon read its configuration again, and wait for its word.

    Exit code 1: it refused the configuration, and goes on with the one before.
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
        deadline = time.monotonic() + PATIENCE_SECONDS

        def wait() -> None:
            if time.monotonic() > deadline:
                raise CannotStartNow(
                    f"the daemon said nothing for {PATIENCE_SECONDS:.0f} s",
                    hint="berinia-webhookd logs",
                )
            time.sleep(POLL_SECONDS)

        for line in log.follow(wait):
            said = as_object(line)
            if said.get("event") == "config.reloaded":
                click.echo(_reloaded(said))
                return
            if said.get("event") == "config.refused":
                click.echo(_refused(said), err=True)
                click.get_current_context().exit(1)


def _reloaded(said: dict[str, Any]) -> str:
    changed, later = said.get("changed") or [], said.get("needs_restart") or []
    lines = [f"reloaded; changed: {', '.join(changed) if changed else 'nothing'}"]
    if later:
        lines.append(f"needs a restart: {', '.join(later)}")
    return "\n".join(lines)


def _refused(said: dict[str, Any]) -> str:
    problems = said.get("problems") or "see berinia-webhookd check-config"
    listed = problems if isinstance(problems, list) else [problems]
    return "\n".join(["refused; the daemon goes on as before", *(f"  {one}" for one in listed)])
