"""`serve`: the daemon as an operator starts it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import click
import uvloop

from berinia_webhookd import __version__
from berinia_webhookd.tools import dev as playground
from berinia_webhookd.tools import installation, interpreter
from berinia_webhookd.tools.session import Session, working_folder


@click.command("serve")
@click.option("--host", help="Address to listen on.  [default: server.host, 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one.  [default: 8001]"
)
@click.option(
    "--uds", type=click.Path(path_type=Path), help="Listen on this Unix socket instead of a port."
)
@click.option("--no-dispatch", is_flag=True, help="Only receive: store and answer, call no agent.")
@click.option("--debug", is_flag=True, help="Log more. Personal data stays masked all the same.")
@click.option(
    "--dev",
    is_flag=True,
    help="Try it out: throw-away secrets, a journal and an agent in ./.dev, loopback only.",
)
@click.pass_obj
def serve(
    session: Session,
    *,
    host: str | None,
    port: int | None,
    uds: Path | None,
    no_dispatch: bool,
    debug: bool,
    dev: bool,
) -> None:
    """Receive callbacks and dispatch them to the agents, until SIGTERM.

    SIGHUP reads the configuration again. Exit code 3: the configuration is wrong; 4: the port or
    the journal is held by another process.
    """
    # By default SIGHUP would end us; the daemon hears it as soon as it has loaded its settings.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from berinia_webhookd import app  # noqa: PLC0415 - `--help` does without

    flags = {
        "server.host": host,
        "server.port": port,
        "server.uds": uds,
        "debug": debug or None,
        "dev": dev or None,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    if dev:
        session = playground.prepare(working_folder() / ".dev")
    loaded = session.load(given)

    def started(address: str) -> None:
        here = installation.of_settings(
            loaded.settings, address=address, version=__version__, config_file=loaded.config_file
        )
        installation.announce(here, os.environ)
        if dev:
            playground.show_lines_to_paste(address)

    interpreter.settle_in()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                app.run(
                    loaded,
                    app.RECEIVER if no_dispatch else app.SERVE,
                    reread=lambda: session.load(given),
                    environ=dict(os.environ),
                    on_started=started,
                )
            )
    finally:
        installation.remove(os.environ)
