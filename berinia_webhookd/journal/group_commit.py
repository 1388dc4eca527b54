"""Group commit: one task owns the one writing connection, and commits what arrived while the
previous commit was on its way to the disk as one transaction.

Nobody hears of success before that commit has returned. An item that cannot be stored fails alone;
a database that cannot be reached fails everybody at once with `JournalUnavailable`, and is tried
again with growing pauses until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Generic, TypeVar

import structlog
from sqlalchemy import Connection, text, update
from sqlalchemy.exc import SQLAlchemyError

from berinia_webhookd.errors import CannotStart, JournalUnavailable
from berinia_webhookd.journal import lines
from berinia_webhookd.journal.engine import Database, Transaction, is_outage
from berinia_webhookd.journal.postgresql import cannot_write, is_conflict
from berinia_webhookd.journal.schema import EPOCH, schema
from berinia_webhookd.journal.writer import Writer
from berinia_webhookd.metrics import Metrics

logger = structlog.get_logger()

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

LARGE_BYTES: Final = 256 * 1024  # items above it are committed one at a time, in turn with batches
BATCH_ITEMS: Final = 512
BATCH_BYTES: Final = 4 * 1024 * 1024
QUEUE_ITEMS: Final = 4096
QUEUE_BYTES: Final = 256 * 1024 * 1024
LOOK_SECONDS: Final = 0.75  # what other processes change is noticed within this
LISTENING_LOOK_SECONDS: Final = 5.0  # or at once, where they say so
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0

# What the data of one item can make fail: the driver's errors, and Python's while binding values.
ITEM_ERRORS: Final = (SQLAlchemyError, ArithmeticError, LookupError, TypeError, ValueError)
REHEARSALS: Final = 20  # over a good minute
TRIES: Final = 3  # another node may have inserted the same key meanwhile


@dataclass(frozen=True, slots=True)
class Step(Generic[ItemT, ResultT]):
    """One kind of work: does all items of a batch at once, and says what became of each.

    A result that is an exception is raised to whoever asked. Steps of a lower rank come first.
    """

    name: str
    rank: int
    apply: Callable[[Transaction, Sequence[ItemT]], Sequence[ResultT | Exception]]
    bounded: bool = False  # whether a full queue refuses it
    # The conversations it will change. Those of a whole batch are held at once and in order, where
    # other nodes write too: so two of them never wait for each other.
    touches: Callable[[Transaction, Sequence[ItemT]], Iterable[int]] | None = None


@dataclass(slots=True, eq=False)
class Work:
    """One item on its way to the disk."""

    step: Step[Any, Any]
    item: Any
    size_bytes: int
    done: asyncio.Future[Any]


class _TakenBackError(Exception):
    """Ends a transaction that was not meant to last."""


class GroupCommit:
    """The writer of one journal."""

    def __init__(
        self,
        database: Database,
        *,
        committed: Callable[[Step[Any, Any], Any, Any], None],
        changed: Callable[[], None],
        metrics: Metrics | None,
        prepare: Callable[[], Awaitable[None]] | None = None,
        listening: Callable[[], bool] = lambda: False,
    ) -> None:
        """`prepare` brings the schema up to date, each time before the journal is used; while
        `listening`, looking around is not what wakes sleepers.
        """
        self._database = database
        self._committed = committed  # called with each item and its result, once on disk
        self._changed = changed  # called when somebody else wrote
        self._metrics = metrics
        self._prepare = prepare
        self._listening = listening
        self._small: deque[Work] = deque()
        self._large: deque[Work] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._large_is_next = False
        self._writer: Writer | None = None
        self._to_rehearse: list[Work] = []
        self._rehearsals = 0
        self._data_version: int | None = None
        self._loop = asyncio.get_running_loop()
        self._look_at = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self.up_since = EPOCH  # by the database's clock
        self.last_turn = self._loop.time()

    async def start(self) -> None:
        """Connect and begin; a database that is away is waited for in the background.

        Raises:
            CannotStart: it will not let us in, or its schema is not for this program.
        """
        try:
            await self._connect()
        except JournalUnavailable as error:
            if isinstance(error.__cause__, CannotStart):
                raise error.__cause__ from error
        self._task = asyncio.create_task(self._run(), name="journal writer")
        self._task.add_done_callback(self._ended)

    def submit(
        self, step: Step[ItemT, ResultT], item: ItemT, *, size_bytes: int = 0
    ) -> asyncio.Future[ResultT]:
        """Have one item committed; cancelling the future does not take it back.

        It ends in `JournalUnavailable` if the item was not committed; raises that at once where
        nothing is begun: down, full, or closing.
        """
        if self._closing or not self.up:
            raise JournalUnavailable("the journal cannot be reached")
        if step.bounded and (
            len(self._small) + len(self._large) >= QUEUE_ITEMS
            or self._queued_bytes + size_bytes > QUEUE_BYTES
        ):
            raise JournalUnavailable("the journal does not keep up")
        work = Work(step, item, size_bytes, self._loop.create_future())
        (self._large if size_bytes > LARGE_BYTES else self._small).append(work)
        self._queued_bytes += size_bytes
        self._wake.set()
        return work.done

    async def close(self) -> None:
        """Commit what is queued, then let go of the connection."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,))
        await self._disconnect()

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not (self._closing and not (self._small or self._large)):
            if self.up:
                pause = FIRST_PAUSE_SECONDS
                await self._turn()
            else:
                self._wake.clear()
                await self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                with contextlib.suppress(JournalUnavailable):
                    await self._connect()
            self.last_turn = self._loop.time()

    async def _turn(self) -> None:
        """Commit one batch, and look around when it is time to."""
        await self._sleep(self._look_at - self._loop.time())
        if batch := self._take():
            await self._commit(batch)
        else:
            self._wake.clear()
        if self._loop.time() >= self._look_at:
            pause = LISTENING_LOOK_SECONDS if self._listening() else LOOK_SECONDS
            self._look_at = self._loop.time() + pause
            await self._look_around()

    async def _sleep(self, seconds: float) -> None:
        """Wait for something to do, no longer than this."""
        if not self._wake.is_set() and seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    def _take(self) -> list[Work]:
        """The next batch: small items together, a large one alone, in turn."""
        if self._large and (self._large_is_next or not self._small):
            batch, self._large_is_next = [self._large.popleft()], False
        else:
            batch, size = [], 0
            while self._small and len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
                batch.append(self._small.popleft())
                size += batch[-1].size_bytes
            self._large_is_next = True
        self._queued_bytes -= sum(work.size_bytes for work in batch)
        return batch

    async def _commit(self, batch: list[Work]) -> None:
        started = perf_counter()
        for attempt in range(TRIES):
            try:
                await self._transact(batch)
            except (*ITEM_ERRORS, OSError) as error:
                if is_outage(error):
                    await self._went_down(error, batch)
                    return
                if is_conflict(error) and attempt < TRIES - 1:
                    continue
                await self._refuse(batch, error)
                return
            else:
                break
        if self._metrics is not None:
            self._metrics.commit_seconds.observe(perf_counter() - started)
            self._metrics.commit_batch_size.observe(len(batch))

    async def _refuse(self, batch: list[Work], error: Exception) -> None:
        """One of them cannot be stored; alone, it fails nobody else."""
        if len(batch) > 1:
            for work in batch:
                await self._commit([work])
            return
        # Neither message nor traceback: both may hold what was to be stored.
        name, kind = batch[0].step.name, type(error).__name__
        logger.error("journal.item_refused", step=name, error=kind)
        _fail(batch, "the journal cannot store this", error)

    async def _transact(self, batch: list[Work]) -> None:
        if self._writer is None:
            raise ConnectionError("no connection")
        results = await self._writer.transact(lambda connection: self._apply(connection, batch))
        for work, result in results:
            self._committed(work.step, work.item, result)
            if work.done.done():
                continue  # the caller gave up; what is committed stays
            if isinstance(result, Exception):
                work.done.set_exception(result)
            else:
                work.done.set_result(result)

    def _apply(self, connection: Connection, batch: list[Work]) -> list[tuple[Work, Any]]:
        transaction = self._database.transaction(connection)
        by_step: dict[str, list[Work]] = {}
        for work in batch:
            by_step.setdefault(work.step.name, []).append(work)
        if transaction.locks_rows:
            lines.hold(transaction, _touched(transaction, by_step.values()))
        results: list[tuple[Work, Any]] = []
        for works in sorted(by_step.values(), key=lambda works: works[0].step.rank):
            said = works[0].step.apply(transaction, [work.item for work in works])
            results.extend(zip(works, said, strict=True))
        self._database.announce(transaction)
        return results

    async def _look_around(self) -> None:
        """Notice what other processes changed, and a file that is no longer there."""
        if self._writer is None:
            return
        try:
            self._database.check_file()
            self._database.check_companions()
            version = await self._writer.transact(_data_version)
        except (SQLAlchemyError, OSError) as error:
            await self._went_down(error, [])
            return
        if version is None or version != self._data_version:
            self._data_version = version
            self._changed()

    async def _connect(self) -> None:
        """Connect, and prove by a commit that the journal can be written."""
        try:
            self._database.check_file()
            if self._prepare is not None:
                await self._prepare()
            self._writer = await self._database.open_writer()
            self._data_version = await self._writer.transact(_prove_it_can_be_written)
            await self._rehearse(self._writer)
            if not self._database.is_sqlite:
                self.up_since = (await self._writer.transact(self._database.transaction)).now
        except (SQLAlchemyError, OSError, CannotStart) as error:
            await self._went_down(error, [])
            raise JournalUnavailable("the journal cannot be reached") from error
        if not self.up and self._task is not None:
            logger.warning("journal.recovered")
        self._is_up(True)
        self._changed()

    async def _rehearse(self, writer: Writer) -> None:
        """Do again what could not be written, and take it back: on a full disk a row can still be
        changed where none can be added. What fails for itself must not keep everything else out,
        so it is not tried for ever.
        """
        batch, self._rehearsals = self._to_rehearse, self._rehearsals + 1

        def rehearse(connection: Connection) -> None:
            self._apply(connection, batch)
            raise _TakenBackError

        if batch and self._rehearsals <= REHEARSALS:
            try:
                await writer.transact(rehearse)
            except _TakenBackError:
                pass
            except ITEM_ERRORS as error:
                if is_outage(error):
                    raise
        self._to_rehearse = []

    async def _went_down(self, error: BaseException, batch: list[Work]) -> None:
        if self.up or self._task is None:
            # The driver's message names files and conditions, but carries no values.
            why = getattr(error, "orig", error)
            said = "no answer in time" if isinstance(why, TimeoutError) else str(why)
            logger.error("journal.degraded", error=said or type(why).__name__)
        if batch and cannot_write(error):
            self._to_rehearse, self._rehearsals = batch, 0
        self._is_up(False)
        failed = [*batch, *self._small, *self._large]
        self._small.clear()
        self._large.clear()
        self._queued_bytes = 0
        _fail(failed, "the journal cannot be reached", error)
        await self._disconnect()  # which may take a moment that nobody has to wait

    async def _disconnect(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
            await self._database.close()

    def look_soon(self) -> None:
        """Something may have happened to the database: look now, and not when it is time."""
        self._look_at = self._loop.time()
        self._wake.set()

    def _is_up(self, up: bool) -> None:
        self.up = up
        if self._metrics is not None:
            self._metrics.journal_up.set(up)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for a writer that is gone; `last_turn` tells the watchdog."""
        self._is_up(False)
        left = [*self._small, *self._large]
        _fail(left, "the journal is closed", None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("journal.degraded", exc_info=task.exception())


def _touched(transaction: Transaction, by_step: Iterable[Sequence[Work]]) -> set[int]:
    touched: set[int] = set()
    for works in by_step:
        touches = works[0].step.touches
        if touches is not None:
            touched.update(touches(transaction, [work.item for work in works]))
    return touched


def _fail(works: Sequence[Work], why: str, cause: BaseException | None) -> None:
    for work in works:
        if not work.done.done():
            failure = JournalUnavailable(why)
            failure.__cause__ = cause
            work.done.set_exception(failure)


def _prove_it_can_be_written(connection: Connection) -> int | None:
    connection.execute(update(schema).values(version=schema.c.version))
    return _data_version(connection)


def _data_version(connection: Connection) -> int | None:
    """A number that changes when others write; None where there is no such number."""
    if connection.dialect.name != "sqlite":
        connection.execute(text("SELECT 1"))
        return None
    return int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())
