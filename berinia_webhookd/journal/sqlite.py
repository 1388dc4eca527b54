"""SQLite: its file, and connections of its own driver in threads of their own.

A thread does a whole transaction at a time, so that it costs one hop each way whatever is done in
it. One connection writes; a few others read.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache, partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from berinia_webhookd.errors import CannotStart, CannotStartNow
from berinia_webhookd.journal import sql
from berinia_webhookd.journal.database import (
    Changes,
    Database,
    DatabaseError,
    Outage,
    ResultT,
    Row,
    Step,
    Transaction,
    Unstorable,
    stored,
)
from berinia_webhookd.journal.job_thread import JobThread
from berinia_webhookd.journal.lock import OwnerLock, real_path
from berinia_webhookd.journal.migrate import migrate

BUSY_SECONDS: Final = 5.0  # how long to wait for an operator's command that is writing
CHECKPOINT_MILLISECONDS: Final = 50
CLOSE_SECONDS: Final = 5.0  # for a connection whose disk may hang
STATEMENTS: Final = 1024  # kept ready by a connection: each has many sizes
READERS: Final = 4
ROWS_AT_ONCE: Final = 64
PADDED_MOST: Final = 4096  # longer lists are rare, and SQLite takes 32766 values at most

PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # in WAL mode: every commit is flushed to disk
    "PRAGMA secure_delete = ON",  # what is deleted is overwritten
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",  # no personal data in files elsewhere
    "PRAGMA cache_size = -16000",
)
LAST_NUMBER: Final = """
SELECT max(
    coalesce((SELECT max(number) FROM deliveries), 0),
    coalesce((SELECT max(place) FROM entries), 0) / 1048576
)
"""
# What the file is, and not what was to be written, is why.
DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
PASSING: Final = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM),
}


class Prepared:
    """A statement as SQLite takes it: question marks, and the names of the values for them."""

    def __init__(self, name: str) -> None:
        self.text = sql.text_of("sqlite", name)
        self.names = sql.names_in(self.text)
        self.lists = {match["list"] for match in sql.PARAMETER.finditer(self.text)} - {None}
        self.pick = _picker(self.names)
        self.for_sizes = lru_cache(self._for_sizes)

    def _for_sizes(self, **sizes: int) -> str:
        """The SQL with lists of these sizes."""

        def mark(match: Any) -> str:
            name = match["list"]
            return f"IN ({','.join('?' * sizes[name])})" if name else "?"

        return sql.PARAMETER.sub(mark, self.text)


class PreparedRows:
    """A statement whose row after VALUES is repeated. Beside the row it has no parameter but the
    instant.
    """

    def __init__(self, name: str) -> None:
        self.parts = sql.rows_of(sql.text_of("sqlite", name))
        before, row, after = map(sql.names_in, self.parts or ("", "", ""))
        self.before, self.after = len(before), len(after)
        self.at_now = "now" in row
        self.pick = _picker(row)
        self.for_rows = lru_cache(self._for_rows)

    def _for_rows(self, count: int) -> str:
        """The SQL with its row so many times."""
        before, row, after = (sql.PARAMETER.sub("?", part) for part in self.parts)
        return f"{before}{', '.join([row] * count)}{after}"


@cache
def prepared(name: str) -> Prepared:
    """The statement of this name, prepared once."""
    return Prepared(name)


@cache
def prepared_rows(name: str) -> PreparedRows:
    """The same for many rows."""
    return PreparedRows(name)


class SqliteTransaction(Transaction):
    """One transaction of a connection, in its thread. Nothing in it ever waits for the loop."""

    shared = False

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        super().__init__()
        self._run = connection.execute
        self._now = now

    async def execute(self, name: str, **values: Any) -> Sequence[Row]:
        """See `Transaction`."""
        statement = prepared(name)
        values["now"] = self._now
        if not statement.lists:
            return self._run(statement.for_sizes(), statement.pick(values)).fetchall()
        values |= {key: _padded(values[key]) for key in statement.lists}
        text = statement.for_sizes(**{key: len(values[key]) for key in statement.lists})
        given = (
            values[key] if key in statement.lists else (values[key],) for key in statement.names
        )
        return self._run(text, list(chain.from_iterable(given))).fetchall()

    async def many(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Sequence[Row]:
        """Execute it for rows that travel together: between two the driver would let other threads
        have their turn, and wait for its own.
        """
        statement = prepared_rows(name)
        found: list[Row] = []
        if not statement.parts:
            for row in rows:
                found += await self.execute(name, **row)
            return found
        if statement.at_now:
            rows = [{**row, "now": self._now} for row in rows]
        before, after = [self._now] * statement.before, [self._now] * statement.after
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = list(map(statement.pick, rows[start : start + ROWS_AT_ONCE]))
            values = [*before, *chain.from_iterable(some), *after]
            found += self._run(statement.for_rows(len(some)), values).fetchall()
        return found

    async def numbers(self, count: int) -> Sequence[int]:
        """See `Transaction`: one writer has the whole file."""
        ((last,),) = self._run(LAST_NUMBER)
        return range(last + 1, last + 1 + count)

    async def take_turn(self, work: str) -> bool:  # noqa: ARG002 - there is nobody else
        """See `Transaction`."""
        return True

    async def tables(self) -> set[str]:
        """See `Transaction`."""
        return {name for (name,) in self._run("SELECT name FROM sqlite_master")}

    async def script(self, text: str) -> None:
        """See `Transaction`; the driver's own scripts would commit."""
        for statement in sql.plain("sqlite", text).split(";"):
            self._run(statement)


class ConnectionThread:
    """A connection, and the thread that does nothing but its transactions."""

    def __init__(self, path: Path, begin: str, clock: Callable[[], datetime]) -> None:
        self._path = path
        self._begin = begin
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._thread = JobThread("journal")

    def transact(self, step: Step[ResultT]) -> asyncio.Future[ResultT]:
        """Do a step in a transaction; when this is done, it is committed and flushed."""
        return self.do(lambda connection: self._transact(connection, step))

    def do(self, job: Callable[[sqlite3.Connection], ResultT]) -> asyncio.Future[ResultT]:
        """Do something with the connection."""
        return self._thread.do(partial(self._with_connection, job))

    async def close(self) -> bool:
        """Close the connection and end the thread, after what it was asked for; returns whether
        that was possible: a disk may hang.
        """
        return await self._thread.close(self._close, CLOSE_SECONDS)

    def _close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.close()

    def _with_connection(self, job: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        with _translated():
            if self._connection is None:
                self._connection = connect(self._path)
            return job(self._connection)

    def _transact(self, connection: sqlite3.Connection, step: Step[ResultT]) -> ResultT:
        connection.execute(self._begin)
        try:
            transaction = SqliteTransaction(connection, stored(self._clock()))
            result = run(step(transaction))
            if transaction.counts:
                run(transaction.write_counts(0))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite has rolled back already where it could not write
                connection.execute("ROLLBACK")
            raise
        return result


class SqliteDatabase(Database):
    """A journal in a file, with one owner."""

    shared = False

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self.path = real_path(path)
        self._clock = clock
        self._lock = OwnerLock(self.path)
        self._writer: ConnectionThread | None = None
        self._idle: list[ConnectionThread] = []
        self._free = asyncio.Semaphore(READERS)
        self._inode: int | None = None
        self._companions: tuple[int, ...] = ()  # inodes of the files that go with ours
        self._hangs = False  # whether a connection could not be closed
        self._version: int | None = None  # changes when others write

    async def own(self) -> None:
        """See `Database`."""
        prepare_folder(self.path)
        self._lock.take()
        try:
            await self.write(migrate)
        except DatabaseError as error:
            why = f"the journal cannot be opened: {error}"
            if isinstance(error, Outage) and error.passing:
                hint = "another program may be writing to it, or its disk be full"
                raise CannotStartNow(why, hint=hint) from error
            hint = "see journal.url; a damaged file can be moved away and looked at"
            raise CannotStart(why, hint=hint) from error

    async def prepare(self) -> None:
        """See `Database`."""
        self._check_file()
        await self.look_around()

    async def write(self, step: Step[ResultT]) -> ResultT:
        """See `Database`."""
        return await self._writing_thread().transact(step)

    async def read(self, step: Step[ResultT]) -> ResultT:
        """See `Database`."""
        async with self._free:
            idle = self._idle
            reader = idle.pop() if idle else self._connection("BEGIN")
            try:
                return await reader.transact(step)
            finally:
                if idle is self._idle:
                    idle.append(reader)
                else:  # everything was disconnected meanwhile
                    await reader.close()

    async def do(self, job: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Do something outside of transactions, with the connection that writes."""
        return await self._writing_thread().do(job)

    async def look_around(self) -> bool:
        """See `Database`."""
        self._check_file()
        self._check_companions()
        version = await self.do(_data_version)
        changed, self._version = version != self._version, version
        return changed

    async def listen(self, heard: Callable[[Changes], None], lost: Callable[[], None]) -> None:
        """See `Database`: a file says nothing; it is looked at."""
        del heard, lost
        await asyncio.Event().wait()

    async def truncate_wal(self) -> bool:
        """See `Database`."""
        return await self.do(_truncate_wal)

    async def disconnect(self) -> None:
        """See `Database`; the last connection that is closed writes the WAL back."""
        self._companions = ()
        idle, self._idle = self._idle, []
        writer, self._writer = self._writer, None
        connections = (*idle, *([] if writer is None else [writer]))
        if not all(await asyncio.gather(*(connection.close() for connection in connections))):
            self._hangs = True

    async def close(self) -> None:
        """See `Database`."""
        await self.disconnect()
        if not self._hangs:  # else the file is still open, and ours until the process ends
            self._lock.release()

    def _writing_thread(self) -> ConnectionThread:
        if self._writer is None:
            self._writer = self._connection("BEGIN IMMEDIATE")
        return self._writer

    def _connection(self, begin: str) -> ConnectionThread:
        return ConnectionThread(self.path, begin, self._clock)

    def _check_file(self) -> None:
        """Notice a file that was removed or replaced under us: what is written then is lost."""
        with _translated():
            inode = self.path.stat().st_ino
        if self._inode is None:
            self._inode = inode
        if inode != self._inode:
            self._inode = None
            raise Outage("the journal's file was replaced")

    def _check_companions(self) -> None:
        """Notice that the WAL, where the latest commits are, or its index is no longer the one we
        have open: who opens the journal next would not see it. Closing our connections saves it.
        """
        files = [self.path.with_name(self.path.name + end) for end in ("-wal", "-shm")]
        companions = tuple(file.stat().st_ino if file.exists() else 0 for file in files)
        self._companions = self._companions or companions
        if companions != self._companions:
            raise Outage("the journal's -wal or -shm file was replaced")


def run(step: Awaitable[ResultT]) -> ResultT:
    """Run a step to its end, in this thread; it never waits."""
    try:
        cast("Coroutine[Any, Any, ResultT]", step).send(None)
    except StopIteration as end:
        return cast("ResultT", end.value)
    raise AssertionError("a step waited for something else than its transaction")


def connect(path: Path) -> sqlite3.Connection:
    """Connect to a file that is there: only the owner's lock makes one, with the right mode."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        cached_statements=STATEMENTS,
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    for pragma in PRAGMAS:
        connection.execute(pragma)
    return connection


def prepare_folder(path: Path) -> None:
    """Make the journal's folder, if need be, and let nobody else read what lies there of it.

    Raises:
        CannotStart: it cannot be written here.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            if file.exists() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
    except OSError as error:
        raise CannotStart(
            f"the journal {path} cannot be written: {error.strerror}",
            hint="give the daemon's user its folder, or set journal.url",
        ) from error


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors of the driver, and Python's while it binds values, as what they mean to us."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise Outage(str(error), passing=_is_passing(error)) from error
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED:
            raise Outage(str(error), passing=False) from error
        raise Unstorable(str(error)) from error
    except (sqlite3.Error, ArithmeticError, ValueError) as error:
        raise Unstorable(type(error).__name__) from error


def _is_passing(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in PASSING


def _truncate_wal(connection: sqlite3.Connection) -> bool:
    # It keeps writers out while it waits for readers, so it must not wait for long.
    connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_MILLISECONDS}")
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {round(BUSY_SECONDS * 1000)}")
    return not busy


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _padded(values: Sequence[Any]) -> list[Any]:
    """A list of one of a few sizes, so that SQLite too has its statement ready. Nothing equals the
    NULL in an empty one; with no value at all, SQLite would look at every row.
    """
    padded = list(values) or [None]
    size = len(padded)
    room = (1 << (size - 1).bit_length()) - size if size < PADDED_MOST else 0
    return padded + [padded[-1]] * room


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """The values of these names; written in C but for few."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda given: [given[name] for name in names]
