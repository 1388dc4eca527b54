"""A journal of its own on either engine, a clock that tests turn, and events to put into it."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from berinia_webhookd import testing
from berinia_webhookd.journal.contract import Claimed, ClaimRequest, Settled, Settlement
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Decoded,
    Entry,
    EntryKind,
    EntryState,
    Event,
    Outcome,
    OutcomeKind,
    Receipt,
    Receipts,
)

from ..postgresql import Postgresql, write_clock
from ..proxy import Proxy

AGENT, START = testing.AGENT, testing.START
SMS = ChannelName("sms")
an_event, a_delivery = partial(testing.an_event, channel=SMS), testing.a_delivery
HOLD_SECONDS = 300.0
LEASE_SECONDS = 15

# The function that tests turn comes before the system's.
SEARCH_PATH = "berinia_webhookd,public,pg_catalog"
EMPTY = """
DO $$ DECLARE found text; BEGIN
    SELECT string_agg(format('%I', tablename), ',') INTO found FROM pg_tables
    WHERE schemaname = 'berinia_webhookd' AND tablename <> 'schema';
    IF found IS NOT NULL THEN EXECUTE 'TRUNCATE ' || found || ' RESTART IDENTITY'; END IF;
END $$
"""

ENDED = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

# For behaviours that belong to one engine.
on_sqlite = pytest.mark.parametrize("closed_world", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("closed_world", ["postgresql"], indirect=True)


@dataclass
class Clock(testing.Clock):
    """Stands still until it is moved, for a database as well."""

    file: Path | None = None  # where a database reads it

    def move(self, seconds: float) -> None:
        super().move(seconds)
        self.show()

    def show(self) -> None:
        """Let the database see the same time."""
        if self.file is not None:
            write_clock(self.file, self.now)


@dataclass
class World(abc.ABC):
    """One journal as its users see it."""

    clock: Clock = field(default_factory=Clock, kw_only=True)
    journals: list[SqlJournal] = field(default_factory=list, kw_only=True)
    options: dict[str, Any] = field(default_factory=dict, kw_only=True)  # of every process

    @property
    @abc.abstractmethod
    def url(self) -> str: ...

    @abc.abstractmethod
    async def crash(self) -> SqlJournal:
        """As after the death of the process: what it ran is given back."""

    async def open(self, url: str | None = None, **options: Any) -> SqlJournal:
        """One more process that uses the journal, perhaps by another way."""
        given = {"node": "here", "clock": self.clock, **self.options, **options}
        journal = SqlJournal(url or self.url, **given)
        self.journals.append(journal)
        await journal.open()
        return journal

    async def reopen(self, **options: Any) -> SqlJournal:
        """As after a restart."""
        await self.journals.pop().close()
        return await self.open(**options)

    @property
    def journal(self) -> SqlJournal:
        return self.journals[-1]

    async def accept(self, text: str = "", **changes: Any) -> Receipt:
        return await self.accept_event(an_event(text, **changes))

    async def accept_event(
        self,
        event: Event,
        *,
        replay_key: bytes | None = None,
        wait_seconds: float | None = None,
        journal: SqlJournal | None = None,
    ) -> Receipt:
        """Accept the one event of a delivery."""
        delivery = a_delivery(event, replay_key=replay_key)
        taken = (journal or self.journal).accept(
            delivery, Decoded((event,)), wait_seconds=wait_seconds
        )
        (receipt,) = await taken
        return receipt

    async def accept_events(self, *events: Event, **changes: Any) -> Receipts:
        """Accept several events of one delivery."""
        delivery = a_delivery(events[0])._replace(body=repr(events).encode())
        return await self.journal.accept(delivery, Decoded(events, **changes))

    async def claim(self, limit: int = 100, *agents: AgentName) -> Sequence[Entry]:
        return (await self.claimed(limit, *agents)).entries

    async def claimed(self, limit: int = 100, *agents: AgentName) -> Claimed:
        request = ClaimRequest(EntryKind.AGENT, frozenset(agents or (AGENT,)), limit)
        return await self.journal.claim([request])

    async def claim_bodies(self, limit: int = 100) -> list[str]:
        return [entry.event.body for entry in await self.claim(limit)]

    async def settle(
        self, entry: Entry, journal: SqlJournal | None = None, **changes: Any
    ) -> Settled:
        return await (journal or self.journal).settle(self.settlement(entry, **changes))

    def settlement(self, entry: Entry, **changes: Any) -> Settlement:
        """A success, unless changed."""
        plain = Settlement(
            entry=entry,
            outcome=Outcome(OutcomeKind.SUCCESS),
            took_seconds=0.0,
            state=EntryState.DONE,
        )
        return replace(plain, **changes)

    async def fail(
        self, entry: Entry, *, retry_in: float, hold: float = HOLD_SECONDS, **changes: Any
    ) -> Settled:
        """An attempt that failed, to be tried again."""
        return await self.settle(
            entry,
            outcome=Outcome(OutcomeKind.EXCEPTION, error="broken"),
            state=EntryState.WAITING,
            retries=entry.retries + 1,
            due_in_seconds=retry_in,
            hold_seconds=hold,
            **changes,
        )

    async def states(self) -> dict[str, int]:
        """How many entries are in each state, without those that none is in."""
        backlog = await self.journal.backlog()
        return {state.value: count for state, count in backlog.entries.items() if count}


@dataclass
class SqliteWorld(World):
    """A journal in a file: one process has it."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "journal.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.file}"

    async def crash(self) -> SqlJournal:
        return await self.reopen()


@dataclass
class PostgresqlWorld(World):
    """A journal in a database: any number of processes have it."""

    server: Postgresql
    database: str

    @classmethod
    async def borrow(cls, server: Postgresql, clock: Clock | None = None) -> PostgresqlWorld:
        """With a database that holds an empty journal, an earlier test's or a new one."""
        name = server.spare.pop() if server.spare else await server.new_database()
        world = cls(server, name, clock=clock or Clock())
        world.clock.file = await server.turnable_clock(name)
        world.clock.show()
        return world

    async def give_back(self) -> None:
        """Empty it for the next test; what still holds a lock fails this one. Sessions that were
        closed are waited for.
        """
        await self.execute(EMPTY)
        await self.execute(ENDED)
        self.server.spare.append(self.database)

    @property
    def url(self) -> str:
        return self.server.url(self.database, search_path=SEARCH_PATH)

    @property
    def plain_url(self) -> str:
        """With the real clock."""
        return self.server.url(self.database)

    def url_by(self, proxy: Proxy) -> str:
        """The same database, over TCP."""
        address = f"postgres@127.0.0.1:{proxy.port}"
        return f"postgresql://{address}/{self.database}?sslmode=disable&search_path={SEARCH_PATH}"

    async def crash(self) -> SqlJournal:
        journal = await self.reopen()
        self.clock.move(LEASE_SECONDS + 1)
        await journal.recover()
        return journal

    async def execute(self, statement: str, *values: object) -> list[asyncpg.Record]:
        """Run one statement beside the journal."""
        async with self.connected() as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *values)
            return rows

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        """A session of somebody else."""
        connection = await asyncpg.connect(self.url, server_settings={"lock_timeout": "5s"})
        try:
            yield connection
        finally:
            await connection.close()

    async def dump(self) -> bytes:
        """Everything that is in the tables."""
        tables = await self.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'berinia_webhookd'"
        )
        rows = [await self.execute(f"SELECT * FROM {name}") for (name,) in tables]
        return repr(rows).encode()


async def traces(world: World, *needles: bytes) -> list[str]:
    """Where in the journal something can be found: in its files, byte for byte, or its tables."""
    if isinstance(world, PostgresqlWorld):
        dump = await world.dump()
        return [repr(needle) for needle in needles if needle in dump]
    assert isinstance(world, SqliteWorld)
    return [
        f"{needle!r} in {file.name}"
        for file in world.folder.iterdir()
        for needle in needles
        if needle in file.read_bytes()
    ]
