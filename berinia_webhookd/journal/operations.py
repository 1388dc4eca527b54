"""What operators do with a journal, beside the daemon or without it: look, replay, discard, erase,
export. Works in short transactions, so that a running daemon never waits long, and never makes a
journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from berinia_webhookd.errors import CannotStart, JournalUnavailable, NotFound
from berinia_webhookd.journal import erasing, figures, inspecting, listing, redoing, showing
from berinia_webhookd.journal.contract import MissingAgent, Statistics
from berinia_webhookd.journal.engine import Database, Transaction
from berinia_webhookd.journal.erasing import Erasure
from berinia_webhookd.journal.listing import Filters, Listed
from berinia_webhookd.journal.migrate import stored_version
from berinia_webhookd.journal.redoing import Changed, Decode
from berinia_webhookd.journal.schema import SCHEMA_VERSION
from berinia_webhookd.journal.showing import Shown

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

BATCH: Final = 200
PATIENCE_SECONDS: Final = 10.0  # for running attempts, and for readers of the WAL
PAUSE_SECONDS: Final = 0.2


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class Operations:
    """One journal in an operator's hands: `async with Operations(url) as journal`."""

    def __init__(
        self, url: str, *, node: str = "operator", clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = Database(url, clock=clock, pool_size=2, patient=True)
        self._node = node
        self._clock = clock

    async def __aenter__(self) -> Self:
        """Look whether it is there.

        Raises:
            NotFound: there is no journal.
            CannotStart: its schema is not this program's.
        """
        path = self._database.path
        if path is not None and not path.exists():
            raise NotFound(
                f"there is no journal at {path}", hint="`serve` makes it; see journal.url"
            )
        try:
            version = await self._read(stored_version)
        except BaseException:
            await self._database.close()
            raise
        if version is None or version < SCHEMA_VERSION:
            await self._database.close()
            if version is None:
                raise NotFound("there is no journal in this database", hint="`serve` makes it")
            raise CannotStart(
                "the journal is older than this program", hint="start `serve` once: it upgrades it"
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._database.close()

    # ---- looking

    async def list_events(self, filters: Filters, limit: int = 50) -> list[Listed]:
        """Entries (or, in state `rejected`, deliveries) that the filters mean, newest first."""
        return await self._read(listing.listed, filters, limit)

    async def show(self, prefix: str) -> Shown:
        """One event or rejected delivery by its id, or the beginning of it.

        Raises:
            NotFound: there is none, or more than one.
        """
        id_, what = await self._read(listing.find, prefix)
        look = showing.shown_event if what == "event" else showing.shown_delivery
        return await self._read(look, id_)

    async def export(self, filters: Filters) -> AsyncIterator[Shown]:
        """Every event that the filters mean, oldest first, read in small pages."""
        after = ""
        while page := await self._read(showing.shown_page, filters, after=after, limit=BATCH):
            for shown in page:
                yield shown
            after = page[-1].id

    async def stats(self) -> Statistics:
        """Counts, ages, rates."""
        return await self._read(figures.statistics, self._clock())

    async def missing_agents(self) -> list[MissingAgent]:
        """Which agents cannot be loaded, where, and why."""
        return await self._read(inspecting.missing_agents)

    async def last_received_at(self) -> datetime | None:
        """When the newest delivery came."""
        return await self._read(inspecting.last_received_at)

    async def server_settings(self, *names: str) -> dict[str, str]:
        """Settings of the PostgreSQL server; none on SQLite."""
        return await self._read(inspecting.server_settings, names)

    # ---- changing

    async def replay(
        self, prefixes: Sequence[str], *, decode: Decode, dry_run: bool = False
    ) -> list[Changed]:
        """Make entries ready again, and let rejected deliveries re-enter at decoding, by id.

        Raises:
            NotFound: an id is not there, or not unique; nothing was done then.
        """
        results: list[Changed] = []
        for id_, what in [await self._read(listing.find, prefix) for prefix in prefixes]:
            if what == "event":
                results += await self._write(redoing.replay_events, [id_], dry_run=dry_run)
            else:
                results.append(await self._redecode(id_, decode, dry_run=dry_run))
        return results

    async def replay_matching(
        self, filters: Filters, *, decode: Decode, dry_run: bool = False
    ) -> list[Changed]:
        """The same for all that the filters mean; never what is `done` or `erased`."""
        if filters.state == "rejected":
            ids = await self._read(listing.rejected_ids_of, filters)
            return [await self._redecode(id_, decode, dry_run=dry_run) for id_ in ids]
        results: list[Changed] = []
        for some in _batches(await self._read(listing.replayable_of, filters)):
            results += await self._write(redoing.replay_entries, some, dry_run=dry_run)
        return results

    async def _redecode(self, id_: str, decode: Decode, *, dry_run: bool) -> Changed:
        return await self._write(
            redoing.replay_delivery, id_, decode, node=self._node, dry_run=dry_run
        )

    async def discard(self, prefixes: Sequence[str]) -> list[Changed]:
        """Give events up; what is running, done or erased is refused.

        Raises:
            NotFound: an id is not there, or not unique; nothing was done then.
        """
        found = [await self._read(listing.find, prefix) for prefix in prefixes]
        if rejected := [id_ for id_, what in found if what == "delivery"]:
            raise NotFound(f"{rejected[0]} was rejected when it came; there is nothing to discard")
        results: list[Changed] = []
        for some in _batches([id_ for id_, _ in found]):
            results += await self._write(redoing.discard_events, some)
        return results

    async def erase(
        self,
        normal_sender: str,
        *,
        dry_run: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Erasure:
        """Delete all data of a sender, given in normal form; waits a while for what is running."""
        found = await self._find_person(normal_sender)
        if dry_run:
            return Erasure(
                found.events,
                len(found.conversations),
                len(found.rejected),
                found.running,
                files_clean=False,
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_seconds
        erased, conversations, rejected = 0, set[int](), set[str]()
        while True:
            conversations.update(found.conversations)
            rejected.update(found.rejected)
            erased += await self._erase(found)
            found = await self._find_person(normal_sender)
            if not found.running or loop.time() > deadline:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        clean = await self._clean_files(deadline)
        return Erasure(erased, len(conversations), len(rejected), found.running, clean)

    async def _erase(self, found: erasing.Found) -> int:
        erased = 0
        while count := await self._write(erasing.erase_some, found.conversations):
            erased += count
        for some in _batches(found.rejected):
            await self._write(erasing.delete_rejected, some)
        return erased

    async def _find_person(self, normal_sender: str) -> erasing.Found:
        rejected: list[str] = []
        after: str | None = ""
        while after is not None:
            after, some = await self._read(erasing.rejected_page, normal_sender, after=after)
            rejected += some
        return await self._read(erasing.find, normal_sender, rejected)

    async def _clean_files(self, deadline: float) -> bool:
        """Try again and again, in short steps: a reader of an older state holds the WAL."""
        loop = asyncio.get_running_loop()
        while not await self._outside_transactions(erasing.truncate_wal):
            if loop.time() > deadline:
                return False
            await asyncio.sleep(PAUSE_SECONDS)
        return True

    # ---- how

    async def _read(
        self,
        look: Callable[Concatenate[Connection, P], ResultT],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ResultT:
        with _explained():
            async with self._database.reading() as connection:
                return await connection.run_sync(look, *args, **kwargs)

    async def _write(
        self,
        change: Callable[Concatenate[Transaction, P], ResultT],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ResultT:
        def work(connection: Connection) -> ResultT:
            transaction = self._database.transaction(connection)
            result = change(transaction, *args, **kwargs)
            self._database.announce(transaction)
            return result

        with _explained():
            async with self._database.writing() as connection:
                return await connection.run_sync(work)

    async def _outside_transactions(self, work: Callable[[Connection], ResultT]) -> ResultT:
        with _explained():
            async with self._database.outside_transactions() as connection:
                return await connection.run_sync(work)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise JournalUnavailable(
            f"the journal cannot be used: {getattr(error, 'orig', error)}"
        ) from error


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]
