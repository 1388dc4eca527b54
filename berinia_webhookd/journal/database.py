"""What the steps of the journal work with: transactions over one of two engines.

A step is an `async def` function that takes a `Transaction`, and is written once. On PostgreSQL it
waits at each statement; on SQLite it is run to its end in the thread of its connection and never
waits. What differs between the engines is in `sqlite.py` and `postgresql.py`.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from berinia_webhookd.errors import CannotStart
from berinia_webhookd.model import EventId

ResultT = TypeVar("ResultT")
Row = Any  # a row of either driver: its columns by name, and a sequence of them
Move = tuple[str, str, str, str, str]  # kind, channel, agent, and the states before and after
Step = Callable[["Transaction"], Awaitable[ResultT]]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
SECOND: Final = 1_000_000  # in microseconds, as instants are stored
DAY: Final = 86_400 * SECOND
NAMESPACE: Final = "berinia_webhookd"  # the PostgreSQL schema that holds our tables


class DatabaseError(Exception):
    """Why a transaction was not committed, in the database's words and without any values."""


class Outage(DatabaseError):
    """The database, and not what was to be written, is why."""

    def __init__(self, message: str, *, passing: bool = True, hint: str | None = None) -> None:
        """One that is not `passing` needs an operator, and `hint` says what to do."""
        super().__init__(message)
        self.passing = passing
        self.hint = hint


class Damaged(Outage):
    """What is in the database's file is why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, passing=False)


class Conflict(DatabaseError):
    """Another process was faster; trying again sees what it did."""


class Unstorable(DatabaseError):
    """What was to be written cannot be."""


@dataclass(slots=True)
class Changes:
    """What a transaction changed that others may be waiting for."""

    work: bool = False  # there may be something to claim
    replies: set[EventId] = field(default_factory=set)  # whose outcome somebody waits for
    all_replies: bool = False  # too many to name


class Transaction(abc.ABC):
    """One transaction under way; all of it happens at one instant, `:now` in the statements."""

    shared: bool  # whether other processes may write meanwhile

    def __init__(self) -> None:
        self.held: set[int] = set()  # conversations that others cannot change now
        self.changes = Changes()  # what other processes are told at the commit
        self.counts: Counter[tuple[str, str, str, str]] = Counter()

    @abc.abstractmethod
    async def execute(self, name: str, **values: Any) -> Sequence[Row]:
        """Execute a statement; returns its rows, if it has any."""

    @abc.abstractmethod
    async def many(self, name: str, rows: Sequence[Any]) -> Sequence[Row]:
        """Execute a statement for each of many rows, which may be none; returns what all of them
        return. A row is a mapping, or a tuple of the parameters in their order.
        """

    @abc.abstractmethod
    async def insert(self, name: str, rows: Sequence[Any]) -> int:
        """Insert rows, unless they are there; returns how many were not."""

    @abc.abstractmethod
    async def numbers(self, count: int) -> Sequence[int]:
        """Return so many numbers, ascending, above all that the journal has for deliveries,
        conversations and places. Those of one conversation are in the order of commits where the
        conversation is held.
        """

    @abc.abstractmethod
    async def take_turn(self, work: str) -> bool:
        """Return whether no other process does this kind of periodic work; ours until the end."""

    @abc.abstractmethod
    async def tables(self) -> set[str]:
        """Return the names of the tables there are."""

    @abc.abstractmethod
    async def script(self, text: str) -> None:
        """Execute a step of the schema."""

    def count(self, kind: str, channel: str, agent: str, state: str, by: int = 1) -> None:
        """Note that so many entries came into a state, or left it. Every change of an entry's
        state is noted, and written once at the end.
        """
        self.counts[kind, channel, agent, state] += by

    def count_moves(self, moves: Counter[Move]) -> None:
        """The same of many that left a state for another."""
        for (kind, channel, agent, before, after), by in moves.items():
            self.counts[kind, channel, agent, before] -= by
            self.counts[kind, channel, agent, after] += by

    def moved(self, row: Row, state: str | None) -> None:
        """Note that an entry left its state for another, or for none (deleted). The row has `kind`,
        `channel`, `agent` and the `state` until now.
        """
        kind, channel, agent = row["kind"], row["channel"], row["agent"]
        self.count(kind, channel, agent, row["state"], -1)
        if state is not None:
            self.count(kind, channel, agent, state)

    async def write_counts(self, shard: int) -> None:
        """Write down what was counted; the last thing in a transaction."""
        counts = sorted(self.counts.items())
        rows = [Change(*about, shard, change) for about, change in counts if change]
        await self.many("count_entries", rows)


class Change(NamedTuple):
    """How many entries came into a state, or left it."""

    kind: str
    channel: str
    agent: str
    state: str
    shard: int
    change: int


class Database(abc.ABC):
    """The connections to one journal. Whatever fails in one raises `DatabaseError`."""

    shared: bool  # whether several processes may have it open to write
    listening = False  # whether what others change is heard of at once
    created = False  # whether there was no journal before `own` made it

    @abc.abstractmethod
    async def own(self) -> None:
        """Become the one owner of a journal that has one, and make or upgrade it.

        Raises:
            CannotStart, CannotStartNow: it is held by another process, or cannot be used.
        """

    @abc.abstractmethod
    async def prepare(self) -> None:
        """Get ready to use it, for the first time or again after `disconnect`.

        Raises:
            CannotStart: its schema is not for this program, or it will not let us in.
        """

    @abc.abstractmethod
    async def write(self, step: Step[ResultT]) -> ResultT:
        """Do a step in one transaction; when this returns, it is committed and flushed."""

    @abc.abstractmethod
    async def read(self, step: Step[ResultT]) -> ResultT:
        """Do a step that only reads, in one transaction beside all others."""

    @abc.abstractmethod
    async def look_around(self) -> bool:
        """Return whether others may have written; notices a journal that is no longer there."""

    @abc.abstractmethod
    async def listen(self, heard: Callable[[Changes], None], lost: Callable[[], None]) -> None:
        """Tell `heard` what others change, and `lost` that they could not be heard any more, until
        cancelled.
        """

    @abc.abstractmethod
    async def truncate_wal(self) -> bool:
        """Leave nothing of what was deleted in files of ours; False while somebody still reads an
        older state.
        """

    @abc.abstractmethod
    async def disconnect(self) -> None:
        """Let go of all connections, whatever state they are in; the next use makes new ones."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of everything, and let the next owner in."""


def open_database(
    url: str, *, clock: Callable[[], datetime], pool_size: int = 5, patient: bool = False
) -> Database:
    """The journal at a URL; a `patient` one lets statements take long. Nothing is opened yet.

    Raises:
        CannotStart: the URL is no journal's, or its driver is not installed.
    """
    # Each engine's module is loaded where it is used: a driver takes its time and memory.
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
    """A stored instant, for people."""
    return EPOCH + microseconds * MICROSECOND


def stored(moment: datetime) -> int:
    """An instant as it is stored."""
    since = moment - EPOCH  # dividing it by a microsecond is correct too, and takes thrice as long
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def microseconds(seconds: float | None) -> int | None:
    """A duration as it is stored."""
    return None if seconds is None else round(seconds * SECOND)


def as_record(kind: type[ResultT], row: Row, **more: object) -> ResultT:
    """A row as a record with its columns' names, and instants for people."""
    for field_ in fields(kind):  # type: ignore[arg-type]
        name = field_.name
        if name not in more:
            value = row[name]
            is_instant = name.endswith(("_at", "_until")) and value is not None
            more[name] = instant(value) if is_instant else value
    return kind(**more)


def in_batches(values: Iterable[ResultT], size: int) -> Iterable[list[ResultT]]:
    """The values in lists of this size at most."""
    listed = list(values)
    return (listed[start : start + size] for start in range(0, len(listed), size))
