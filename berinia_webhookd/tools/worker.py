"""`worker`: a dispatcher without receiving, as an operator starts it."""

from __future__ import annotations

import asyncio
import os
import signal

import click
import uvloop

from berinia_webhookd.tools import interpreter
from berinia_webhookd.tools.session import Session


@click.command("worker")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Answer /metrics and /health on this port of server.host; 0 takes a free one.",
)
@click.option("--debug", is_flag=True, help="Log more. Personal data stays masked all the same.")
@click.pass_obj
def worker(session: Session, *, metrics_port: int | None, debug: bool) -> None:
    """Dispatch to the agents from a PostgreSQL journal, and receive nothing, until SIGTERM.

    Any number of workers and `serve`s share one journal. SIGHUP reads the configuration again. Exit
    code 3: the configuration is wrong, or the journal is a SQLite file; 4: the port is taken.
    """
    # By default SIGHUP would end us; the daemon hears it as soon as it has loaded its settings.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from berinia_webhookd import app  # noqa: PLC0415 - `--help` does without

    flags = {"server.port": metrics_port, "debug": debug or None}
    given = {key: value for key, value in flags.items() if value is not None}
    loaded = session.load(given)

    interpreter.settle_in()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            app.run(
                loaded,
                app.WORKER if metrics_port is None else app.WORKER_WITH_PAGES,
                reread=lambda: session.load(given),
                environ=dict(os.environ),
            )
        )
