"""The web console beside the receiver: on its own socket, with the bounds that every server of ours
has on its connections.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from berinia_webhookd import listening
from berinia_webhookd.accept.aiohttp_limits import HttpServer
from berinia_webhookd.addresses import THIS_HOST
from berinia_webhookd.channels.catalogue import Channels
from berinia_webhookd.config import descriptors
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.findings import Finding
from berinia_webhookd.logs.reading import EVERYTHING, log_file
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.status.console.address import url_of
from berinia_webhookd.status.console.application import Console
from berinia_webhookd.status.console.findings import Findings
from berinia_webhookd.status.console.surroundings import Given, OpenJournal, Surroundings

Look = Callable[[], Coroutine[Any, Any, Sequence[Finding]]]


async def nothing_found() -> Sequence[Finding]:
    """Return no findings: nobody looks."""
    return ()


@dataclass(frozen=True, slots=True)
class ConsoleServer:
    """The console, with the bounds of every server of ours on its connections."""

    console: Console
    http: HttpServer
    listener: socket.socket

    async def start(self) -> None:
        """Answer on its own socket."""
        await self.http.start([self.listener])

    async def stop(self) -> None:
        """End what lasts, and finish requests."""
        self.console.stop()
        await self.http.stop()
        await self.console.close()


def build_console(
    settings: Settings,
    listener: socket.socket,
    state: Path,
    channels: Channels,
    metrics: Metrics,
    *,
    look: Look,
    given: Given,
    open_journal: OpenJournal,
    shutdown_seconds: float,
) -> ConsoleServer:
    """Build the console, which answers on its own socket.

    Raises:
        CannotStart: there is no place for its name.
    """
    address = listening.address_of(listener)
    try:
        url = url_of(replace(settings.console, listen=address), state)
    except (OSError, ValueError) as error:
        hint = "let the state folder belong to the daemon's user, or set console.url"
        raise CannotStart(f"the console has no name: {error}", hint=hint) from error
    around = Surroundings(
        channels=channels,
        open_journal=open_journal,
        log=log_file(settings.logs.dir, EVERYTHING),
        findings=Findings(look),
        given=given,
    )
    console = Console(url, around)
    http = HttpServer(
        console.application,
        metrics,
        max_connections=descriptors.CONSOLE,
        trusted_proxies=THIS_HOST,  # all come from here
        shutdown_seconds=shutdown_seconds,
    )
    return ConsoleServer(console, http, listener)
