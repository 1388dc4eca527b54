"""SQLite, by the standard library's driver: one thread for each connection.

A thread runs a whole transaction at a time, so that each costs one thread switch each way, whatever
its statements.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache, partial
from itertools import chain, compress
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from berinia_webhookd.errors import CannotStart
from berinia_webhookd.journal import sql
from berinia_webhookd.journal.database import (
    Damaged,
    Outage,
    ResultT,
    Row,
    Step,
    Transaction,
    Unstorable,
    stored,
)
from berinia_webhookd.journal.file_watch import WAL_BYTES, FileWatch, announce
from berinia_webhookd.journal.job_thread import JobThread
from berinia_webhookd.journal.migrate import stored_version

BUSY_SECONDS: Final = 5.0  # how long to wait while an operator's command is writing
CHECKPOINT_MILLISECONDS: Final = 50
CLOSE_SECONDS: Final = 5.0  # how long to wait for a close: the disk may hang
STATEMENTS: Final = 1024  # prepared statements per connection: each has many list sizes
ROWS_AT_ONCE: Final = 16  # each size is another statement, whose memory grows with it
PADDED_MOST: Final = 4096  # longer lists are rare, and SQLite takes 32766 values at most

PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # in WAL mode: every commit is flushed to disk
    "PRAGMA secure_delete = ON",  # deleted data is overwritten
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",  # no personal data in temporary files
    "PRAGMA cache_size = -16000",
    "PRAGMA wal_autocheckpoint = 0",  # checkpoints are done by the owner (`file_watch`)
    f"PRAGMA journal_size_limit = {WAL_BYTES}",  # the WAL's size after a checkpoint
)
LAST_NUMBER: Final = """
SELECT max(
    coalesce((SELECT max(number) FROM deliveries), 0),
    coalesce((SELECT max(place) FROM entries), 0) / 1048576,
    coalesce((SELECT max(id) FROM conversations), 0)
)
"""
# Errors caused by the file, not by the data to write.
DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
CUT: Final = sqlite3.SQLITE_IOERR_SHORT_READ  # of the WAL: a shorter one is damaged
PASSING: Final = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM),
}


class Prepared:
    """A statement in SQLite's form: numbered parameters, the instant first if it has one."""

    def __init__(self, name: str) -> None:
        self._text = sql.text_of("sqlite", name)
        self._parts = sql.rows_of(self._text)
        self.has_rows = bool(self._parts)
        found = list(sql.PARAMETER.finditer(self._text))
        listed = {match["list"] for match in found} - {None}
        names = sql.names_in(self._text)
        self.at_now = int(any(match["name"] == "now" for match in found))
        self.names = tuple(name for name in names if name not in listed)
        self.lists = tuple(name for name in names if name in listed)
        self.of_sizes = lru_cache(self._of_sizes)
        self.of_rows = lru_cache(self._of_rows)
        self.of_one = self._of_rows(1) if self.has_rows else "" if self.lists else self._of_sizes()

    def _of_sizes(self, *sizes: int) -> str:
        """Return the SQL for lists of these sizes."""
        marks = {name: f"?{self.at_now + n}" for n, name in enumerate(self.names, 1)}
        last = self.at_now + len(self.names)
        for name, size in zip(self.lists, sizes, strict=True):
            marks[name] = f"IN ({','.join(f'?{last + n}' for n in range(1, size + 1))})"
            last += size
        return _numbered(self._text, marks)

    def _of_rows(self, count: int, given: Sequence[bool] = ()) -> str:
        """Return the SQL with its row after VALUES repeated, the values column by column; NULL in
        columns that are not `given`.
        """
        before, row, after = self._parts
        columns = list(compress(self.names, given)) if given else self.names
        starts = {name: self.at_now + n * count + 1 for n, name in enumerate(columns)}
        rows = (
            {name: f"?{starts[name] + n}" if name in starts else "NULL" for name in self.names}
            for n in range(count)
        )
        repeated = ", ".join(_numbered(row, marks) for marks in rows)
        return f"{_numbered(before)}{repeated}{_numbered(after)}"


def _numbered(text: str, marks: Mapping[str, str] = {}) -> str:
    """Return the text with these placeholders for the names."""
    of_name = {"now": "?1", **marks}
    return sql.PARAMETER.sub(lambda match: of_name[match["list"] or match["name"]], text)


@cache
def prepared(name: str) -> Prepared:
    """Return the statement of this name, parsed once."""
    return Prepared(name)


# These types are stored unchanged. Registered adapters avoid the driver's lookup by exceptions at
# every value, which costs three times as much as storing it.
sqlite3.register_adapter(type(None), lambda nothing: nothing)
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)


class SqliteTransaction(Transaction):
    """One transaction of a connection, in its thread. It never awaits the event loop."""

    shared = False

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        super().__init__()
        self._run = connection.execute
        self._now = (now,)
        self._next_number: int | None = None

    async def execute(self, name: str, **values: Any) -> Sequence[Row]:
        """See `Transaction`."""
        statement = prepared(name)
        given = [*self._now[: statement.at_now], *(values[key] for key in statement.names)]
        sizes: list[int] = []
        for key in statement.lists:
            padded = _padded(values[key])
            sizes.append(len(padded))
            given += padded
        return self._run(statement.of_sizes(*sizes), given).fetchall()

    async def many(self, name: str, rows: Sequence[Any]) -> Sequence[Row]:
        """See `Transaction`."""
        return [row for cursor in self._each(name, rows) for row in cursor.fetchall()]

    async def insert(self, name: str, rows: Sequence[Any]) -> int:
        """See `Transaction`."""
        return sum([cursor.rowcount for cursor in self._each(name, rows)])

    async def insert_numbered(self, name: str, rows: Sequence[Any]) -> Sequence[int]:
        """See `Transaction`."""
        numbers = await self.numbers(len(rows))
        await self.many(name, [(n, *row) for n, row in zip(numbers, rows, strict=True)])
        return numbers

    def _each(self, name: str, rows: Sequence[Any]) -> Iterable[sqlite3.Cursor]:
        """Execute a statement for several rows at once, where it can take them: between two
        statements the driver would release the GIL and wait to get it back.
        """
        if not rows:
            return ()
        statement, run = prepared(name), self._run
        values, instant = sql.values_of(rows, statement.names), self._now[: statement.at_now]
        if len(rows) == 1 or not statement.has_rows:
            return [run(statement.of_one, (*instant, *row)) for row in values]
        starts = range(0, len(values), ROWS_AT_ONCE)
        return [run(*_with_some(statement, values[n : n + ROWS_AT_ONCE], instant)) for n in starts]

    async def numbers(self, count: int) -> Sequence[int]:
        """See `Transaction`: there is one writer per file."""
        if self._next_number is None:
            ((last,),) = self._run(LAST_NUMBER)
            self._next_number = last + 1
        first = self._next_number
        self._next_number += count
        return range(first, first + count)

    async def take_turn(self, work: str) -> bool:  # noqa: ARG002 - there is nobody else
        """See `Transaction`."""
        return True

    async def tables(self) -> set[str]:
        """See `Transaction`."""
        return {name for (name,) in self._run("SELECT name FROM sqlite_master")}

    async def script(self, text: str) -> None:
        """See `Transaction`; the driver's `executescript` would commit."""
        for statement in sql.plain("sqlite", text).split(";"):
            self._run(statement)


class ConnectionThread:
    """A connection, and the thread that runs its transactions."""

    def __init__(
        self,
        opened: Callable[[], sqlite3.Connection],
        begin: str,
        clock: Callable[[], datetime],
        watch: FileWatch | None = None,
    ) -> None:
        """`opened` makes the connection, in its thread; `watch` is set for the owner's writer."""
        self._opened = opened
        self._begin = begin
        self._clock = clock
        self._watch = watch
        self._connection: sqlite3.Connection | None = None
        self._thread = JobThread("journal")

    async def transact(self, step: Step[ResultT]) -> ResultT:
        """Run a step in a transaction, committed and flushed when this ends."""
        result = await self.do(lambda connection: self._transact(connection, step))
        if self._watch is not None and self._watch.due:
            self.do(self._watch.write_back)  # no answer waits for it
        return result

    def do(self, job: Callable[[sqlite3.Connection], ResultT]) -> asyncio.Future[ResultT]:
        """Run a function with the connection."""
        return self._thread.do(partial(self._with_connection, job))

    def interrupt(self) -> None:
        """Interrupt the running statement."""
        if self._connection is not None:
            self._connection.interrupt()

    async def close(self) -> bool:
        """Close the connection and end the thread after its queued jobs; returns whether that was
        possible: a disk may hang.
        """
        return await self._thread.close(self._close, CLOSE_SECONDS)

    def _close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.close()

    def _with_connection(self, job: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        with translated():
            if self._connection is None:
                self._connection = self._opened()
            return job(self._connection)

    def _transact(self, connection: sqlite3.Connection, step: Step[ResultT]) -> ResultT:
        connection.execute(self._begin)
        try:
            if self._watch is not None:
                self._watch.beginning()
            transaction = SqliteTransaction(connection, stored(self._clock()))
            result = run(step(transaction))
            if transaction.counts:
                run(transaction.write_counts(0))
            if self._watch is not None:
                self._watch.committing(connection)
            connection.commit()  # releases the GIL once, and a statement four times
        except BaseException:
            connection.rollback()
            raise
        if self._watch is not None:
            self._watch.committed(connection)
        return result


def run(step: Awaitable[ResultT]) -> ResultT:
    """Run a step to its end, in this thread; it never awaits."""
    try:
        cast("Coroutine[Any, Any, ResultT]", step).send(None)
    except StopIteration as end:
        return cast("ResultT", end.value)
    raise AssertionError("a step waited for something else than its transaction")


def connect(path: Path) -> sqlite3.Connection:
    """Connect to an existing file: only the owner's lock creates one, with the right mode."""
    connection = _connect(path, "rw")
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection


def require_journal(path: Path) -> None:
    """Check that a file that is not empty is a journal; changes nothing.

    Raises:
        CannotStart: see `stored_version`; or there is only a WAL, which SQLite would delete.
        DatabaseError: it cannot be read.
    """
    if (wal := orphaned_wal(path)) is not None:
        raise CannotStart(
            f"{path} is empty or gone, and what is left of it is {wal}",
            hint="`berinia-webhookd journal restore FILE` puts a backup in its place, and sets "
            f"that aside; to begin anew: `mv {wal} {wal}.damaged`",
        )
    if path.exists() and path.stat().st_size and os.access(path, os.R_OK):
        with translated(), contextlib.closing(_connect(path, "ro")) as connection:
            run(stored_version(SqliteTransaction(connection, 0)))


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        cached_statements=STATEMENTS,
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    return connection


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the driver, and Python's while it binds values, as those of `database.py`."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        if getattr(error, "sqlite_errorcode", None) == CUT:
            raise Damaged(str(error)) from error
        raise Outage(str(error), passing=_is_passing(error)) from error
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
            raise Damaged(str(error)) from error
        raise Unstorable(str(error)) from error
    except (sqlite3.Error, ArithmeticError, ValueError) as error:
        raise Unstorable(type(error).__name__) from error


def companions(path: Path) -> list[Path]:
    """Return a journal's companion files: its WAL, and the WAL's index."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm")]


def orphaned_wal(path: Path) -> Path | None:
    """Return a non-empty WAL whose journal is empty or gone, else None."""
    wal, _ = companions(path)
    alone = not path.exists() or not path.stat().st_size
    return wal if alone and wal.exists() and wal.stat().st_size else None


def damage(connection: sqlite3.Connection, kind: str) -> str | None:
    """Return the finding of SQLite's `quick_check` or `integrity_check`; None if it is sound."""
    ((found,),) = connection.execute(f"PRAGMA {kind}(1)")
    return None if found == "ok" else str(found)


def _is_passing(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in PASSING


def truncate_wal(connection: sqlite3.Connection) -> bool:
    """Write the WAL back and empty it; returns False if a reader uses an older state."""
    announce(connection)
    # It blocks writers while it waits for readers, so it must not wait long.
    connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_MILLISECONDS}")
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {round(BUSY_SECONDS * 1000)}")
    return not busy


def _with_some(
    statement: Prepared, values: Sequence[Sequence[Any]], instant: Iterable[int]
) -> tuple[str, Sequence[Any]]:
    """Return the statement for several rows, and their values, without columns that are NULL in all
    of them: binding a value takes longer than storing it.
    """
    count = len(values)
    columns = list(zip(*values, strict=True))
    given = tuple([one[0] is not None or one.count(None) < count for one in columns])
    return statement.of_rows(count, given), [*instant, *chain(*compress(columns, given))]


def _padded(values: Sequence[Any]) -> list[Any]:
    """Pad a list to one of a few sizes, so that prepared statements are reused. An empty list gets
    a NULL, which equals nothing; without any value SQLite would scan all rows.
    """
    padded = list(values) or [None]
    size = len(padded)
    room = (1 << (size - 1).bit_length()) - size if size < PADDED_MOST else 0
    return padded + [padded[-1]] * room
