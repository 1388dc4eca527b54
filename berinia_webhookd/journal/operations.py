"""What operators do with a journal, beside the daemon or without it: look, replay, discard, erase,
export. Works in short transactions, so that a running daemon never waits long, and never makes a
journal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Concatenate, Final, ParamSpec, Self, TypeVar

from berinia_webhookd.clock import now
from berinia_webhookd.errors import CannotStart, JournalUnavailable, NotFound
from berinia_webhookd.journal import consents, consents_key, erase, pause, queries, replay, show
from berinia_webhookd.journal.consents import ListedConsent
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.contract import MissingAgent, Statistics
from berinia_webhookd.journal.database import (
    Conflict,
    DatabaseError,
    Transaction,
    in_batches,
    open_database,
    path_of,
)
from berinia_webhookd.journal.deliveries import EVENTS_EACH
from berinia_webhookd.journal.erase import Erasure, Found
from berinia_webhookd.journal.lock import real_path, require_one_name
from berinia_webhookd.journal.migrate import SCHEMA_VERSION, stored_version
from berinia_webhookd.journal.queries import Filters, Listed
from berinia_webhookd.journal.replay import Changed, Decode
from berinia_webhookd.journal.show import Shown
from berinia_webhookd.model import Pause

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

BATCH: Final = 200
RANGE: Final = 1000 * EVENTS_EACH  # of numbers, exported at once
PATIENCE_SECONDS: Final = 10.0  # for running attempts, and for readers of the WAL
PAUSE_SECONDS: Final = 0.2
TRIES: Final = 5  # against processes that were faster


class Operations:
    """One journal in an operator's hands: `async with Operations(url) as journal`."""

    def __init__(
        self,
        url: str,
        *,
        node: str = "operator",
        clock: Callable[[], datetime] = now,
        key: ConsentsKey | None = None,
    ) -> None:
        """`key` is that of the register of consents."""
        self._path = path_of(url)
        self._database = open_database(url, clock=clock, pool_size=2, patient=True)
        self._node = node
        self._key = key

    async def __aenter__(self) -> Self:
        """Check that the journal is there, and this program's.

        Raises:
            NotFound: there is no journal.
            CannotStart: its schema is not this program's, or its file has several names.
        """
        if self._path is not None:
            if not self._path.exists():
                raise NotFound(
                    f"there is no journal at {self._path}", hint="`serve` makes it; see journal.url"
                )
            require_one_name(real_path(self._path))
        try:
            await self._require_version()
        except BaseException:
            await self._database.close()
            raise
        return self

    async def _require_version(self) -> None:
        version = await self._read(stored_version)
        if version is None:
            raise NotFound("there is no journal in this database", hint="`serve` makes it")
        if version < SCHEMA_VERSION:
            raise CannotStart(
                "the journal is older than this program", hint="start `serve` once: it upgrades it"
            )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._database.close()

    # ---- looking

    async def list_events(self, filters: Filters, limit: int = 50) -> list[Listed]:
        """Return the entries (of state `rejected`: deliveries) that match, newest first."""
        rejected = filters.state == "rejected"
        look = queries.list_rejected if rejected else queries.list_entries
        return await self._read(look, filters, limit=limit)

    async def show(self, prefix: str) -> Shown:
        """Return one event or rejected delivery by its id, or the beginning of it.

        Raises:
            NotFound: there is none, or more than one.
        """
        id_, what = await self._read(queries.find, prefix)
        look = show.show_event if what == "event" else show.show_delivery
        shown = await self._read(look, id_)
        if shown is None:
            raise NotFound(f"{id_} was deleted just now")
        return shown

    async def export(self, filters: Filters) -> AsyncIterator[Shown]:
        """Yield every event that matches, oldest first, read in small pages."""
        start, last = await self._read(queries.numbers_of, filters)
        for first in range(start, last + 1, queries.ALL if filters.few else RANGE):
            end = queries.ALL if filters.few else first + RANGE
            page = await self._read(queries.list_entries, filters, first=first, end=end)
            for id_ in dict.fromkeys(one.id for one in reversed(page)):
                shown = await self._read(show.show_event, id_)
                if shown is not None:
                    yield shown

    async def consents(self, *, channel: str | None = None, limit: int = 50) -> list[ListedConsent]:
        """Return what people said last of being written to, the newest first."""
        return await self._read(consents.latest, channel=channel, limit=limit)

    async def consents_of(self, sender: str) -> list[ListedConsent]:
        """Return what the register says of a person, given in normal form.

        Raises:
            CannotStart: it holds digests of erased people, and the key is another one.
        """
        await self._read(consents_key.require_fit, self._key)
        return await self._read(consents.of_person, self._key, sender)

    async def export_consents(self) -> AsyncIterator[ListedConsent]:
        """Yield the whole register, read in small pages."""
        after, found = await self._read(consents.page, after=("", ""))
        while found:
            for one in found:
                yield one
            after, found = await self._read(consents.page, after=after)

    async def stats(self) -> Statistics:
        """Return counts, ages and rates."""
        return await self._read(queries.statistics)

    async def missing_agents(self) -> list[MissingAgent]:
        """Return which agents cannot be loaded, where, and why."""
        return await self._read(queries.missing_agents)

    async def last_received_at(self) -> datetime | None:
        """Return when the newest delivery came."""
        return await self._read(queries.last_received_at)

    async def server_settings(self, *names: str) -> dict[str, str]:
        """Return settings of the PostgreSQL server; none on SQLite."""
        return await self._read(queries.server_settings, names)

    # ---- changing

    async def replay(
        self,
        prefixes: Sequence[str],
        *,
        decode: Decode,
        dry_run: bool = False,
        once_again: bool = False,
    ) -> list[Changed]:
        """Make entries ready again, and let rejected deliveries re-enter at decoding, by id.

        Raises:
            NotFound: an id is not there, or not unique; nothing was done then.
        """
        results: list[Changed] = []
        for id_, what in [await self._read(queries.find, prefix) for prefix in prefixes]:
            if any(one.id == id_ for one in results):
                continue  # it shares the attempt of one before
            if what == "event":
                results += await self._write(
                    replay.replay_events, [id_], dry_run=dry_run, once_again=once_again
                )
            else:
                results += await self._read_again(id_, decode, dry_run=dry_run)
        return results

    async def replay_matching(
        self,
        filters: Filters,
        *,
        decode: Decode,
        dry_run: bool = False,
        once_again: bool = False,
    ) -> list[Changed]:
        """Replay all that matches; never what is `done` or `erased`, and what may have acted only
        `once_again`.
        """
        results: list[Changed] = []
        if filters.state == "rejected":
            for one in reversed(await self._read(queries.list_rejected, filters)):
                results += await self._read_again(one.id, decode, dry_run=dry_run)
            return results
        found = await self._read(queries.replayable, filters)
        for some in in_batches(found, BATCH):
            results += await self._write(
                replay.replay_entries, some, dry_run=dry_run, once_again=once_again
            )
        return results

    async def _read_again(self, id_: str, decode: Decode, *, dry_run: bool) -> list[Changed]:
        return await self._write(
            replay.replay_delivery, id_, decode, node=self._node, key=self._key, dry_run=dry_run
        )

    async def discard(self, prefixes: Sequence[str]) -> list[Changed]:
        """Give events up; what is running, done or erased is refused.

        Raises:
            NotFound: an id is not there, or not unique; nothing was done then.
        """
        found = [await self._read(queries.find, prefix) for prefix in prefixes]
        if rejected := [id_ for id_, what in found if what == "delivery"]:
            raise NotFound(f"{rejected[0]} was rejected when it came; there is nothing to discard")
        results: list[Changed] = []
        for some in in_batches([id_ for id_, _ in found], BATCH):
            results += await self._write(replay.discard_events, some)
        return results

    async def pause(
        self, sender: str, pause_: Pause, *, channel: str | None = None
    ) -> Sequence[int]:
        """Pause a person's conversations; returns those that were not, or not for so long."""
        conversations = await self._read(pause.of, channel, sender, None)
        return await self._write(pause.pause, conversations, pause_)

    async def resume(self, sender: str, *, channel: str | None = None) -> Sequence[int]:
        """End pauses, and what guards hold, in a person's conversations; returns where that was."""
        conversations = await self._read(pause.of, channel, sender, None)
        return await self._write(pause.resume, conversations)

    async def erase(
        self,
        sender: str,
        *,
        dry_run: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Erasure:
        """Delete all data of a sender, given in normal form; waits a while for what is running.

        Raises:
            WebhookdError: the person opted out, and without a key nobody would know any more.
            CannotStart: it is another key than that of those who were erased before.
        """
        await self._read(consents_key.require_fit, self._key)
        named = await self._read(consents_key.count, self._key, sender)
        found = await self._find_person(sender)
        if dry_run:
            return found.as_erasure(named)
        deadline = asyncio.get_running_loop().time() + patience_seconds
        events, conversations, rejected = 0, set[int](), set[int]()
        while True:
            conversations.update(found.conversations)
            rejected.update(found.rejected)
            events += await self._erase(sender, found)
            found = await self._find_person(sender)
            if not found.running or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(PAUSE_SECONDS)
        digested = await self._write(consents_key.erase, self._key, sender)
        clean = await self._clean_files(deadline)
        counts = events, len(conversations), len(rejected)
        return Erasure(*counts, running=found.running, consents=digested, files_clean=clean)

    async def _erase(self, sender: str, found: Found) -> int:
        erased = 0
        while count := await self._write(erase.erase_events, sender, found.conversations):
            erased += count
        for some in in_batches(found.rejected, erase.BODIES):
            await self._write(erase.erase_deliveries, sender, some)
        return erased

    async def _find_person(self, sender: str) -> Found:
        rejected: list[int] = []
        after: str | None = ""
        while after is not None:
            after, some = await self._read(erase.find_rejected, sender, after=after)
            rejected += some
        return await self._read(erase.find, sender, rejected)

    async def _clean_files(self, deadline: float) -> bool:
        """Empty the WAL, trying in short steps: a reader of an older state holds it."""
        with _explained():
            while not await self._database.truncate_wal():
                if asyncio.get_running_loop().time() > deadline:
                    return False
                await asyncio.sleep(PAUSE_SECONDS)
        return True

    # ---- how

    async def _read(
        self,
        look: Callable[Concatenate[Transaction, P], Awaitable[ResultT]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ResultT:
        with _explained():
            return await self._database.read(lambda transaction: look(transaction, *args, **kwargs))

    async def _write(
        self,
        change: Callable[Concatenate[Transaction, P], Awaitable[ResultT]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ResultT:
        with _explained():
            for _ in range(TRIES):
                with contextlib.suppress(Conflict):
                    return await self._database.write(
                        lambda transaction: change(transaction, *args, **kwargs)
                    )
            raise Conflict("other processes were faster, again and again")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise JournalUnavailable(
            f"the journal cannot be used: {error}", hint=getattr(error, "hint", None)
        ) from error
