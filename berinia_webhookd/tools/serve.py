"""`serve` and `worker`: the daemon in its roles, as an operator starts it."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import uvloop

from berinia_webhookd import __version__, held_signals
from berinia_webhookd.config import descriptors
from berinia_webhookd.config.load import Loaded
from berinia_webhookd.status.console.address import ConsoleStarted
from berinia_webhookd.tools import dev as playground
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext, working_folder

if TYPE_CHECKING:
    from berinia_webhookd.process import Beside, Process

# How long the journal's thread waits for the interpreter between two statements. With Python's 5
# ms, a commit under load takes twice as long.
SWITCH_SECONDS: Final = 0.0005
# Nearly everything that a request makes is freed without the garbage collector. By default it runs
# every 700 objects, and often over all that was imported, while callers wait.
OBJECTS_UNTIL_COLLECTED: Final = 20_000

_debug = click.option(
    "--debug", is_flag=True, help="Log more. Personal data stays masked all the same."
)


@click.command("serve")
@click.option("--host", help="Address to listen on.  [default: server.host, 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: 8001]"
)
@click.option(
    "--uds", type=click.Path(path_type=Path), help="Listen on this Unix socket instead of a port."
)
@click.option("--no-dispatch", is_flag=True, help="Only receive: store and answer, call no agent.")
@_debug
@click.option(
    "--dev",
    is_flag=True,
    help="Try it out: throw-away secrets, a journal and an agent in ./.dev, loopback only.",
)
@click.option(
    "--reload",
    "reload_agents",
    is_flag=True,
    help="With --dev: load the agents anew when a Python file below agents.path is saved.",
)
@click.pass_obj
def serve(
    context: CommandContext,
    *,
    host: str | None,
    port: int | None,
    uds: Path | None,
    no_dispatch: bool,
    debug: bool,
    dev: bool,
    reload_agents: bool,
) -> None:
    """Receive callbacks and dispatch them to the agents, until SIGTERM.

    SIGHUP reads the configuration again. Exit code 3: the configuration is wrong; 4: the port or
    the journal is held by another process.
    """
    if reload_agents and not dev:
        raise click.UsageError("--reload is for --dev; a service loads its agents at `reload`.")
    flags = {
        "server.host": host,
        "server.port": port,
        "server.uds": uds,
        "debug": debug or None,
        "dev": dev or None,
    }
    if dev:
        context = playground.prepare(working_folder() / playground.FOLDER)

    def started(loaded: Loaded, address: str, console: ConsoleStarted | None) -> None:
        here = installation.of_settings(
            loaded.settings,
            os.environ,
            address=address,
            version=__version__,
            config_file=loaded.config_file,
            console=None if console is None else console.url,
        )
        installation.announce(here, os.environ)
        if dev:
            link = None if console is None else console.link
            playground.show_lines_to_paste(address, link, reloads=reload_agents)

    def beside(process: Process) -> Iterator[Coroutine[Any, Any, None]]:
        from berinia_webhookd.tools.dev_reload import watch_agents  # noqa: PLC0415 - as `app` below
        from berinia_webhookd.tools.dev_terminal import DevTerminal  # noqa: PLC0415 - likewise

        if dev and not debug:
            yield DevTerminal(process.parts).run()
        if reload_agents:
            yield watch_agents(lambda: process.settings.agents.path, process.signals.reload)

    try:
        _run(
            context,
            flags,
            started,
            beside,
            receives=True,
            dispatches=not no_dispatch,
            listens=True,
        )
    finally:
        installation.remove(os.environ)


@click.command("worker")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Answer /metrics and /health on this port of server.host; 0 takes a free one.",
)
@_debug
@click.pass_obj
def worker(context: CommandContext, *, metrics_port: int | None, debug: bool) -> None:
    """Dispatch to the agents from a PostgreSQL journal, and receive nothing, until SIGTERM.

    Any number of workers and `serve`s share one journal. SIGHUP reads the configuration again. Exit
    code 3: the configuration is wrong, or the journal is a SQLite file; 4: the port is taken.
    """
    flags = {"server.port": metrics_port, "debug": debug or None}
    _run(context, flags, receives=False, dispatches=True, listens=metrics_port is not None)


def _run(
    context: CommandContext,
    flags: Mapping[str, object],
    on_started: Callable[[Loaded, str, ConsoleStarted | None], None] = lambda *_: None,
    beside: Beside = lambda _: (),
    **role: bool,
) -> None:
    held_signals.hold()  # until the event loop can handle them
    from berinia_webhookd import app, process  # noqa: PLC0415 - `--help` does without

    given = {key: value for key, value in flags.items() if value is not None}
    loaded = context.load(given)
    if loaded.config_file is None:
        found = (*loaded.warnings, *playground.passed_over(os.environ))
        loaded = Loaded(replace(loaded, warnings=found))
    descriptors.allow(loaded.settings)
    _tune_interpreter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            process.run(
                loaded,
                app.Role(**role),
                reread=lambda before: context.load(given, before=before),
                environ=dict(os.environ),
                on_started=lambda address, console: on_started(loaded, address, console),
                beside=beside,
                console_program=_console_program(loaded.config_file),
            )
        )


def _console_program(config_file: Path | None) -> Sequence[str]:
    """Return what runs the console; `-P`: no module comes from the working folder."""
    module = "berinia_webhookd.tools.serve_console"
    return (sys.executable, "-P", "-m", module, "" if config_file is None else str(config_file))


def _tune_interpreter() -> None:
    """Switch threads sooner, and collect garbage less often, and not what was imported."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_UNTIL_COLLECTED, *gc.get_threshold()[1:])
