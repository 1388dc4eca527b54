"""The web console on its own socket, with the bounds that every server of ours has on its
connections. In a daemon it runs in a process of its own (`console_process.py`).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from berinia_webhookd.accept.aiohttp_limits import HttpServer
from berinia_webhookd.status.console.application import Console


@dataclass(frozen=True, slots=True)
class ConsoleServer:
    """The console, and the server that it answers by."""

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
