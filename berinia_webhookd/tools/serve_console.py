"""The console's process, which the daemon starts (`console_process.py`). Its arguments are the
configuration file, or nothing, and the descriptor of the socket to answer on. It works with what it
reads from stdin, one record after the other, and ends when there is no more: the daemon stops, or
has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle  # nosec B403
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvloop

from berinia_webhookd import held_signals
from berinia_webhookd.accept.aiohttp_limits import HttpServer
from berinia_webhookd.addresses import THIS_HOST
from berinia_webhookd.app import FINISH_SECONDS, is_quiet, log_options
from berinia_webhookd.channels.catalogue import Channels
from berinia_webhookd.console_process import Told
from berinia_webhookd.console_server import ConsoleServer
from berinia_webhookd.findings import Finding
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.logs.pipeline import configure
from berinia_webhookd.logs.reading import EVERYTHING, log_file
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.outbound.transports import Transports
from berinia_webhookd.status.console.application import Console
from berinia_webhookd.status.console.findings import Findings
from berinia_webhookd.status.console.surroundings import Surroundings
from berinia_webhookd.supervision import in_thread_of_its_own

Look = Callable[[], Coroutine[Any, Any, Sequence[Finding]]]

NICENESS: Final = 10  # as agents
MOST_CONNECTIONS: Final = 64


def main(config_file: str, descriptor: str) -> None:
    """Answer until stdin ends. Signals are for the daemon, which ends this process too."""
    held_signals.hold()
    os.nice(NICENESS)
    listener = socket.socket(fileno=int(descriptor))
    listener.set_inheritable(False)
    look = partial(_look, Path(config_file) if config_file else None)
    if (told := _read()) is not None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(listener, told, look))


async def _serve(listener: socket.socket, told: Told, look: Look) -> None:
    settings = told.settings
    logs = configure(settings.logs.dir, log_options(settings), quiet=is_quiet(settings))
    with contextlib.closing(logs):
        metrics = Metrics()  # nobody asks for them
        channels = Channels(settings)
        transports = Transports(settings.agents, metrics=metrics, channel_of=channels.of)
        around = Surroundings(
            channels=channels,
            open_journal=partial(
                ConsoleJournal,
                settings.journal.url.reveal(),
                node=settings.journal.node,
                key=told.key,
            ),
            log=log_file(settings.logs.dir, EVERYTHING),
            findings=Findings(look),
            given=transports.given,
        )
        console = Console(told.url, around)
        http = HttpServer(
            console.application,
            metrics,
            max_connections=MOST_CONNECTIONS,
            trusted_proxies=THIS_HOST,  # all come from here
            shutdown_seconds=FINISH_SECONDS,
        )
        server = ConsoleServer(console, http, listener)
        await server.start()
        now: Told | None = told
        while now is not None:
            logs.reconfigure(log_options(now.settings))
            channels.reconfigure(now.settings)
            transports.reconfigure(now.settings.agents)
            transports.python.shapes.update(now.shapes)
            now = await in_thread_of_its_own(_read)
        await server.stop()


async def _look(config_file: Path | None) -> Sequence[Finding]:
    from berinia_webhookd.tools.doctor import without_probes  # noqa: PLC0415 - few look

    return await without_probes(config_file)


def _read() -> Told | None:
    """Return what the daemon says next; None at the end, even in the midst of a record."""
    try:
        told: Told = pickle.load(sys.stdin.buffer)  # noqa: S301  # nosec B301
    except (EOFError, pickle.UnpicklingError):
        return None
    return told


if __name__ == "__main__":
    main(*sys.argv[1:])
