"""`worker`: a daemon that dispatches and receives nothing. It shares its journal with others, so it
refuses one that only one process may have open.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from berinia_webhookd import listening
from berinia_webhookd.app import Daemon
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.journal.engine import sqlite_path


class Worker(Daemon):
    """One `worker`; with `metrics` it answers `/metrics` and `/health` on `server.port`."""

    metrics = False

    async def run(self) -> None:
        """Dispatch until SIGTERM or SIGINT.

        Raises:
            CannotStart, CannotStartNow: it never began.
        """
        if sqlite_path(self._settings.journal.url.reveal()) is not None:
            raise CannotStart(
                "a worker shares the journal with other processes, and journal.url is a SQLite "
                "file, which only one can have",
                hint="set journal.url to postgresql://…, or let `serve` dispatch",
            )
        await super().run()

    def _open_sockets(self, settings: Settings) -> list[socket.socket]:
        # Sockets that systemd made are for whoever receives.
        return listening.open_sockets(settings.server, {}) if self.metrics else []

    def _receiving(self) -> Mapping[str, Channel]:
        return {}
