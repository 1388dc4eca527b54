"""Group commit: one task owns the one writing connection, and commits what arrived while the
previous commit was on its way to the disk as one transaction.

Nobody hears of success before that commit has returned. An item that cannot be stored fails alone;
a database that cannot be reached fails everybody at once with `JournalUnavailable`, and is tried
again with growing pauses until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

import structlog

from berinia_webhookd.clock import doubling_pauses, wait_for_event
from berinia_webhookd.errors import (
    CannotStart,
    CannotStartNow,
    JournalUnavailable,
    JournalWriterEnded,
)
from berinia_webhookd.journal.batch import BatchStep, Done, ItemT, ResultT, Work, apply
from berinia_webhookd.journal.database import (
    Conflict,
    Database,
    DatabaseError,
    Outage,
    Step,
    Transaction,
)
from berinia_webhookd.metrics import Metrics

logger = structlog.get_logger()

LARGE_BYTES: Final = 256 * 1024  # items above it are committed one at a time, in turn with batches
BATCH_ITEMS: Final = 512
BATCH_BYTES: Final = 4 * 1024 * 1024
QUEUE_ITEMS: Final = 4096
QUEUE_BYTES: Final = 256 * 1024 * 1024
LOOK_SECONDS: Final = 0.75  # what other processes change is noticed within this
LISTENING_LOOK_SECONDS: Final = 5.0  # or at once, where they say so
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
PROBE_BYTES: Final = 64 * 1024  # more than most items need
SAY_AGAIN_SECONDS: Final = 60.0  # what needs an operator
CLOSE_SECONDS: Final = 5.0  # for what is queued at the end
TRIES: Final = 3  # another node may have inserted the same key meanwhile


class GroupCommit:
    """The writer of one journal."""

    def __init__(
        self,
        database: Database,
        *,
        committed: Callable[[BatchStep[Any, Any], Sequence[Any], Sequence[Any]], None],
        changed: Callable[[], None],
        check: Step[None],
        metrics: Metrics | None,
        patience_seconds: float,
    ) -> None:
        """`patience_seconds`: how long a commit may take until the journal counts as down."""
        self.patience_seconds = patience_seconds
        self._database = database
        self._committed = committed  # called with a step's items and results, once on disk
        self._changed = changed  # called when somebody else wrote
        self._check = check  # raises CannotStart for a journal that is not for this process
        self._metrics = metrics
        self._small: deque[Work] = deque()
        self._large: deque[Work] = deque()
        self._under_way: list[Work] = []
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._large_is_next = False
        self._loop = asyncio.get_running_loop()
        self._look_at = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self.up = False
        self.up_since = 0  # by the database's clock
        self._proven_at = 0.0  # from when an outage is a new one, and not the last one going on
        self._last_turn = self._loop.time()
        self._said = ""
        self._say_again_at = 0.0

    @property
    def last_turn(self) -> float:
        """When the writer last went round; an outage is no reason to be killed."""
        waits = not self.up and self._task is not None and not self._task.done()
        return self._loop.time() if waits else self._last_turn

    async def start(self) -> None:
        """Connect and begin; a database that cannot be reached is waited for in the background.

        Raises:
            CannotStart: it will not let us in, or its schema is not for this program.
        """
        try:
            await self._connect()
        except JournalUnavailable as error:
            if isinstance(error.__cause__, CannotStart | CannotStartNow):
                raise error.__cause__ from error
        self._task = asyncio.create_task(self._run(), name="journal writer")
        self._task.add_done_callback(self._ended)

    def submit(
        self, step: BatchStep[ItemT, ResultT], item: ItemT, *, size_bytes: int = 0
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

    async def watch(self) -> None:
        """Wait until the writer has ended; only `close` may end it.

        Raises:
            JournalWriterEnded: it ended by itself, and nothing will be written any more.
        """
        if self._task is not None:
            await asyncio.wait((self._task,))
            _require_orderly_end(self._task)

    async def close(self) -> None:
        """Commit what is queued, and end; a disk that hangs is given up.

        Raises:
            JournalWriterEnded: the writer ended by itself.
        """
        self._closing = True
        self._wake.set()
        if self._task is not None:
            _, hangs = await asyncio.wait((self._task,), timeout=CLOSE_SECONDS)
            if hangs:
                self._task.cancel()
                await asyncio.wait(hangs)
        if self._task is not None:
            _require_orderly_end(self._task)

    async def _run(self) -> None:
        pauses = doubling_pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while not (self._closing and not (self._small or self._large)):
            if self.up:
                if self._loop.time() > self._proven_at:
                    pauses = doubling_pauses(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                await self._turn()
            else:
                self._wake.clear()
                await wait_for_event(self._wake, next(pauses))
                with contextlib.suppress(JournalUnavailable):
                    await self._connect()
            self._last_turn = self._loop.time()

    async def _turn(self) -> None:
        """Commit one batch, and look around when it is time to."""
        await wait_for_event(self._wake, self._look_at - self._loop.time())
        impatient = self._loop.call_later(self.patience_seconds, self._hangs)
        try:
            if batch := self._take():
                self._under_way = batch
                await self._commit(batch)
                self._under_way = []
            else:
                self._wake.clear()
            if self.up and self._loop.time() >= self._look_at:
                pause = LISTENING_LOOK_SECONDS if self._database.listening else LOOK_SECONDS
                self._look_at = self._loop.time() + pause
                await self._look_around()
        finally:
            impatient.cancel()

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
        for attempt in range(1, TRIES + 1):
            try:
                results = await self._database.write(lambda transaction: apply(transaction, batch))
            except Outage as error:
                await self._went_down(error, batch)
                return
            except Conflict as error:
                if attempt == TRIES:
                    await self._refuse(batch, error)
                    return
            except Exception as error:  # noqa: BLE001 - a mistake of ours ends no writer
                await self._refuse(batch, error)
                return
            else:
                self._tell(results)
                break
        if self._metrics is not None:
            self._metrics.commit_seconds.observe(perf_counter() - started)
            self._metrics.commit_batch_size.observe(len(batch))

    async def _refuse(self, batch: list[Work], error: Exception) -> None:
        """One of them cannot be stored: the others are committed without it."""
        if len(batch) > 1:
            half = len(batch) // 2
            for some in (batch[:half], batch[half:]):
                if self.up:
                    await self._commit(some)
                else:
                    _fail(some, "the journal cannot be reached", error)
            return
        # Neither message nor traceback: both may hold what was to be stored.
        name, kind = batch[0].step.name, type(error).__name__
        logger.error("journal.item_refused", step=name, error=kind)
        _fail(batch, "the journal cannot store this", error)

    def _tell(self, done: Sequence[Done]) -> None:
        """Say what is on disk now."""
        for works, results in done:
            self._committed(works[0].step, [work.item for work in works], results)
            for work, result in zip(works, results, strict=True):
                if work.done.done():
                    continue  # the caller gave up; what is committed stays
                if isinstance(result, Exception):
                    work.done.set_exception(result)
                else:
                    work.done.set_result(result)

    async def _look_around(self) -> None:
        """Notice what other processes changed, and a file that is no longer there."""
        try:
            changed = await self._database.look_around()
        except DatabaseError as error:
            await self._went_down(error, [])
        else:
            if changed:
                self._changed()

    async def _connect(self) -> None:
        """Connect, and prove by a commit that the journal can be written."""
        try:
            await self._database.prepare()
            self.up_since = await self._database.write(self._prove)
        except (DatabaseError, CannotStart, CannotStartNow) as error:
            await self._went_down(error, [])
            raise JournalUnavailable("the journal cannot be reached") from error
        if self._task is not None:
            logger.warning("journal.recovered")
        self._proven_at = self._loop.time() + LONGEST_PAUSE_SECONDS
        self._is_up(True)
        self._changed()

    async def _prove(self, transaction: Transaction) -> int:
        await self._check(transaction)
        return await prove_room(transaction)

    async def _went_down(self, error: BaseException, batch: list[Work]) -> None:
        self._refuse_all(error, batch)
        await self._database.disconnect()  # which may take a moment that nobody has to wait

    def _hangs(self) -> None:
        """Nothing came of a turn for long. What is under way may still be committed, and is waited
        for; whoever waits behind it is told now. Once it ends, the writer connects anew.
        """
        reason = f"nothing was committed for {self.patience_seconds:g} s: does the disk hang?"
        self._refuse_all(Outage(reason), [])

    def _refuse_all(self, error: BaseException, batch: list[Work]) -> None:
        lasts = isinstance(error, Outage) and not error.passing
        again = str(error) != self._said or self._loop.time() >= self._say_again_at
        if self.up or self._task is None or (lasts and again):
            logger.error("journal.degraded", error=str(error))
            self._said = str(error)
            self._say_again_at = self._loop.time() + SAY_AGAIN_SECONDS
        self._is_up(False)
        _fail([*batch, *self._take_all()], "the journal cannot be reached", error)

    def _take_all(self) -> list[Work]:
        queued = [*self._small, *self._large]
        self._small.clear()
        self._large.clear()
        self._queued_bytes = 0
        return queued

    def look_soon(self) -> None:
        """Something may have happened to the database: look now, and not when it is time."""
        self._look_at = self._loop.time()
        self._wake.set()

    def _is_up(self, up: bool) -> None:
        self.up = up
        if self._metrics is not None:
            self._metrics.journal_up.set(up)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for a writer that is gone; `watch` tells whoever runs it."""
        self._is_up(False)
        _fail([*self._under_way, *self._take_all()], "the journal is closed", None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Neither message nor traceback: both may hold what was to be stored.
            logger.error("journal.degraded", error=f"the writer ended: {type(error).__name__}")


async def prove_room(transaction: Transaction) -> int:
    """Write and delete something that needs room, because a full disk may still take what only
    changes a row; returns the database's instant.
    """
    (number,) = await transaction.numbers(1)
    probe = {"number": number, "body": os.urandom(PROBE_BYTES)}
    await transaction.many("write_probe", [probe])
    await transaction.execute("delete_probe", number=number)
    ((now,),) = await transaction.execute("present")
    return int(now)


def _require_orderly_end(writer: asyncio.Task[None]) -> None:
    if not writer.cancelled() and writer.exception() is not None:
        raise JournalWriterEnded("the journal's writer ended by a mistake of this program")


def _fail(works: Sequence[Work], why: str, cause: BaseException | None) -> None:
    for work in works:
        if not work.done.done():
            failure = JournalUnavailable(why)
            failure.__cause__ = cause
            work.done.set_exception(failure)
