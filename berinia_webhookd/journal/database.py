"""The interface of the journal's steps to the database: transactions over one of two engines.

A step is an `async def` function that takes a `Transaction`, and is written once. On PostgreSQL it
awaits each statement; on SQLite it runs to its end in the thread of its connection without
awaiting. Differences between the engines are in `sqlite.py` and `postgresql.py`.
"""

from __future__ import annotations

import abc
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from berinia_webhookd.errors import CannotStart
from berinia_webhookd.model import EventId

ResultT = TypeVar("ResultT")
Row = Any  # a row of either driver: its columns by name, and a sequence of them
Move = tuple[str, str, str, str, str]  # kind, channel, agent, and the states before and after
Step = Callable[["Transaction"], Awaitable[ResultT]]
Parties = tuple[str, str, str]  # what identifies a conversation: channel, sender, party

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
SECOND: Final = 1_000_000  # in microseconds, as instants are stored
DAY: Final = 86_400 * SECOND
NAMESPACE: Final = "berinia_webhookd"  # the PostgreSQL schema that holds our tables


class DatabaseError(Exception):
    """A transaction was not committed; the message is the database's, without any values."""


class Outage(DatabaseError):
    """The cause is the database, not the data to write."""

    def __init__(self, message: str, *, passing: bool = True, hint: str | None = None) -> None:
        """An outage that is not `passing` needs an operator, and `hint` says what to do."""
        super().__init__(message)
        self.passing = passing
        self.hint = hint


class Damaged(Outage):
    """The database's file is damaged."""

    def __init__(self, message: str) -> None:
        super().__init__(message, passing=False)


class Conflict(DatabaseError):
    """A conflict with another process; a retry sees its changes."""


class Unstorable(DatabaseError):
    """The data cannot be stored."""


@dataclass(slots=True)
class Changes:
    """Changes of a transaction that other tasks or processes may be waiting for."""

    work: bool = False  # there may be something to claim
    replies: set[EventId] = field(default_factory=set)  # events whose outcome a caller may wait for
    all_replies: bool = False  # of any event

    def add(self, more: Changes) -> None:
        """Include more changes."""
        self.work |= more.work
        self.replies |= more.replies
        self.all_replies |= more.all_replies


EVERYTHING: Final = Changes(work=True, all_replies=True)


class Transaction(abc.ABC):
    """One transaction under way; all of it happens at one instant, `:now` in the statements."""

    shared: bool  # whether other processes may write concurrently

    def __init__(self) -> None:
        self.held: set[int] = set()  # locked conversations
        # Those of them whose parties are known, with whether they are paused.
        self.conversations: dict[Parties, tuple[int, bool]] = {}
        self.changes = Changes()  # notifications for other processes at the commit
        self.counts: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)

    @abc.abstractmethod
    async def execute(self, name: str, **values: Any) -> Sequence[Row]:
        """Execute a statement; returns its rows, if it has any."""

    @abc.abstractmethod
    async def many(self, name: str, rows: Sequence[Any]) -> Sequence[Row]:
        """Execute a statement for each of any number of rows; returns all returned rows. A row is a
        mapping, or a tuple of the parameters in their order.
        """

    @abc.abstractmethod
    async def insert(self, name: str, rows: Sequence[Any]) -> int:
        """Insert rows, ignoring existing ones; returns how many were inserted."""

    @abc.abstractmethod
    async def insert_numbered(self, name: str, rows: Sequence[Any]) -> Sequence[int]:
        """Insert rows, each with a new number in front; returns the numbers, as of `numbers`."""

    @abc.abstractmethod
    async def numbers(self, count: int) -> Sequence[int]:
        """Return this many new numbers, ascending, for deliveries, conversations and places. Within
        a locked conversation they are in the order of commits.
        """

    @abc.abstractmethod
    async def take_turn(self, work: str) -> bool:
        """Lock a kind of periodic work until the transaction ends; returns whether it was free."""

    @abc.abstractmethod
    async def tables(self) -> set[str]:
        """Return the names of the existing tables."""

    @abc.abstractmethod
    async def script(self, text: str) -> None:
        """Execute a step of the schema."""

    def count(self, kind: str, channel: str, agent: str, state: str, by: int = 1) -> None:
        """Count entries that came into a state, or (negative) left it. Counts are written once, at
        the end of the transaction.
        """
        self.counts[kind, channel, agent, state] += by

    def count_moves(self, moves: Counter[Move]) -> None:
        """Count many entries that changed from one state to another."""
        for (kind, channel, agent, before, after), by in moves.items():
            self.counts[kind, channel, agent, before] -= by
            self.counts[kind, channel, agent, after] += by

    def moved(self, row: Row, state: str | None) -> None:
        """Count an entry that changed its state, or was deleted (None). The row has `kind`,
        `channel`, `agent` and the old `state`.
        """
        kind, channel, agent = row["kind"], row["channel"], row["agent"]
        self.count(kind, channel, agent, row["state"], -1)
        if state is not None:
            self.count(kind, channel, agent, state)

    async def write_counts(self, shard: int) -> None:
        """Write the counts; the last step of a transaction."""
        counts = sorted(self.counts.items())
        rows = [(*about, shard, change) for about, change in counts if change]
        await self.many("count_entries", rows)


class Database(abc.ABC):
    """The connections to one journal. Whatever fails in one raises `DatabaseError`."""

    shared: bool  # whether several processes may have it open to write
    created = False  # whether `own` created the journal

    @property
    def listening(self) -> bool:
        """Whether changes of other processes are notified."""
        return False

    @abc.abstractmethod
    async def own(self) -> None:
        """Become the owner of a SQLite journal; create or upgrade the journal.

        Raises:
            CannotStart, CannotStartNow: it is held by another process, or cannot be used.
        """

    @abc.abstractmethod
    async def prepare(self) -> None:
        """Get ready to use it, for the first time or again after `disconnect`.

        Raises:
            CannotStart: its schema is not for this program, or access is denied.
        """

    @abc.abstractmethod
    async def write(self, step: Step[ResultT]) -> ResultT:
        """Run a step in one transaction, committed and flushed on return."""

    @abc.abstractmethod
    async def read(self, step: Step[ResultT]) -> ResultT:
        """Run a step that only reads, in one transaction concurrent with all others."""

    @abc.abstractmethod
    async def look_around(self) -> bool:
        """Return whether others may have written; detects a journal that is gone."""

    @abc.abstractmethod
    async def listen(self, heard: Callable[[Changes], None], lost: Callable[[], None]) -> None:
        """Call `heard` with changes of other processes, and `lost` when notifications were
        interrupted, until cancelled.
        """

    @abc.abstractmethod
    async def truncate_wal(self) -> bool:
        """Remove deleted data from the WAL; False while a reader still uses an older state."""

    @abc.abstractmethod
    async def disconnect(self) -> None:
        """Drop all connections, whatever their state; the next use opens new ones."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close all connections, and release the ownership."""


def open_database(
    url: str, *, clock: Callable[[], datetime], pool_size: int = 5, patient: bool = False
) -> Database:
    """Return the journal at a URL, not yet opened; a `patient` one lets statements take long.

    Raises:
        CannotStart: the URL is no journal's, or its driver is not installed.
    """
    # Imported only when used: a driver takes time and memory.
    if url.startswith("postgresql://"):
        from berinia_webhookd.journal.postgresql import PostgresqlDatabase  # noqa: PLC0415

        return PostgresqlDatabase(url, pool_size=pool_size, patient=patient)
    from berinia_webhookd.journal.journal_file import SqliteDatabase  # noqa: PLC0415

    return SqliteDatabase(sqlite_path(url), clock)


def sqlite_path(url: str) -> Path:
    """The file of a SQLite journal, absolute.

    Raises:
        CannotStart: the URL is no journal's.
    """
    hint = "journal.url is sqlite:////absolute/path/journal.db or postgresql://user@host/database"
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite":
        raise CannotStart(f"journal.url cannot be read: {scheme!r} is no kind of it", hint=hint)
    if "?" in rest:
        raise CannotStart("journal.url: a SQLite journal has no options", hint=hint)
    name = rest.removeprefix("/")
    if not rest.startswith("/") or name in {"", ":memory:"}:
        raise CannotStart("journal.url names no file; a journal in memory keeps nothing", hint=hint)
    return Path(name).expanduser().absolute()


def path_of(url: str) -> Path | None:
    """The file of a SQLite journal; None for PostgreSQL."""
    return None if url.startswith("postgresql://") else sqlite_path(url)


def instant(microseconds: int) -> datetime:
    """Return a stored instant as a datetime."""
    return EPOCH + microseconds * MICROSECOND


def stored(moment: datetime) -> int:
    """Return an instant in microseconds since 1970, as stored."""
    since = moment - EPOCH  # dividing by a microsecond takes three times as long
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def microseconds(seconds: float | None) -> int | None:
    """Return a duration in microseconds, as stored."""
    return None if seconds is None else round(seconds * SECOND)


def as_record(kind: type[ResultT], row: Row, **more: object) -> ResultT:
    """Return a row as a record with its columns' names, and instants as datetimes."""
    for field_ in fields(kind):  # type: ignore[arg-type]
        name = field_.name
        if name not in more:
            value = row[name]
            is_instant = name.endswith(("_at", "_until")) and value is not None
            more[name] = instant(value) if is_instant else value
    return kind(**more)


def in_batches(values: Iterable[ResultT], size: int) -> Iterable[list[ResultT]]:
    """Yield the values in lists of at most this size."""
    listed = list(values)
    return (listed[start : start + size] for start in range(0, len(listed), size))
