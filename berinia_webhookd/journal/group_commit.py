"""Group commit: one task owns the one writing connection, and commits what arrived while the
previous commit was on its way to the disk as one transaction.

Success is reported only after that commit has returned. An item that cannot be stored fails alone;
an unreachable database fails all items at once with `JournalUnavailable`, and is retried with
growing pauses.
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

LARGE_BYTES: Final = 256 * 1024  # larger items are committed alone, alternating with batches
BATCH_ITEMS: Final = 512
BATCH_BYTES: Final = 4 * 1024 * 1024
QUEUE_ITEMS: Final = 4096
QUEUE_BYTES: Final = 256 * 1024 * 1024
LOOK_SECONDS: Final = 0.75  # the longest delay until other processes' changes are noticed
LISTENING_LOOK_SECONDS: Final = 5.0  # the same, if they notify
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
PROBE_BYTES: Final = 64 * 1024  # more than most items need
SAY_AGAIN_SECONDS: Final = 60.0  # retries of an outage that needs an operator
CLOSE_SECONDS: Final = 5.0  # how long `close` waits for queued items
TRIES: Final = 3  # retries after a conflict between nodes
BUSY_SECONDS: Final = 0.01  # a commit so soon after another lets items join that are on their way,
JOIN_SECONDS: Final = 0.002  # at most for so long,
EMPTY_TURNS: Final = 2  # or until so many turns of the loop brought none


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
        self._changed = changed  # called when another process wrote
        self._check = check  # raises CannotStart if this process may not use the journal
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
        self._proven_at = 0.0  # a later outage counts as a new one
        self._last_turn = self._loop.time()
        self._said = ""
        self._say_again_at = 0.0

    @property
    def last_turn(self) -> float:
        """The loop time of the writer's last turn; during an outage, the current time."""
        waits = not self.up and self._task is not None and not self._task.done()
        return self._loop.time() if waits else self._last_turn

    async def start(self) -> None:
        """Connect and start; an unreachable database is retried in the background.

        Raises:
            CannotStart: access is denied, or its schema is not for this program.
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
        """Queue one item for commit; cancelling the future does not withdraw it. The future fails
        with `JournalUnavailable` if the item was not committed; that is raised at once if the
        journal is down, full, or closing.
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
            JournalWriterEnded: it ended unexpectedly, and nothing will be written any more.
        """
        if self._task is not None:
            await asyncio.wait((self._task,))
            _require_orderly_end(self._task)

    async def close(self) -> None:
        """Commit queued items, and end; gives up on a disk that hangs.

        Raises:
            JournalWriterEnded: the writer ended unexpectedly.
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
        """Commit one batch, and look for changes of other processes when that is due."""
        await wait_for_event(self._wake, self._look_at - self._loop.time())
        if self._loop.time() < self._last_turn + BUSY_SECONDS:
            await self._let_join()
        impatient = self._loop.call_later(self.patience_seconds, self._hangs)
        try:
            batch = self._take()
            if not (self._small or self._large):
                self._wake.clear()
            if batch:
                self._under_way = batch
                await self._commit(batch)
                self._under_way = []
            if self.up and self._loop.time() >= self._look_at:
                pause = LISTENING_LOOK_SECONDS if self._database.listening else LOOK_SECONDS
                self._look_at = self._loop.time() + pause
                await self._look_around()
        finally:
            impatient.cancel()

    async def _let_join(self) -> None:
        """Let what the loop is at work on join the batch: one commit of many items costs much less
        than many of one, and does not contend with the loop for the interpreter.
        """
        until, empty = self._loop.time() + JOIN_SECONDS, 0
        while empty < EMPTY_TURNS and self._loop.time() < until:
            before = len(self._small)
            await asyncio.sleep(0)
            empty = empty + 1 if len(self._small) == before else 0

    def _take(self) -> list[Work]:
        """Return the next batch: small items together, or one large item, alternately."""
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
        """Handle items that cannot be stored: find the one, and commit the others."""
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
        """Report what is on disk now."""
        for works, results in done:
            self._committed(works[0].step, [work.item for work in works], results)
            for work, result in zip(works, results, strict=True):
                if work.done.done():
                    continue  # the caller gave up; the commit stays
                if isinstance(result, Exception):
                    work.done.set_exception(result)
                else:
                    work.done.set_result(result)

    async def _look_around(self) -> None:
        """Detect changes of other processes, and a file that is gone."""
        try:
            changed = await self._database.look_around()
        except DatabaseError as error:
            await self._went_down(error, [])
        else:
            if changed:
                self._changed()

    async def _connect(self) -> None:
        """Connect, and verify by a commit that the journal can be written."""
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
        await self._database.disconnect()  # which may take a moment

    def _hangs(self) -> None:
        """Handle a turn that takes too long. Its batch may still be committed, and is waited for;
        queued items fail now. When it ends, the writer reconnects.
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
        """Look for changes now, because something may have happened to the database."""
        self._look_at = self._loop.time()
        self._wake.set()

    def _is_up(self, up: bool) -> None:
        self.up = up
        if self._metrics is not None:
            self._metrics.journal_up.set(up)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Fail all items of a writer that has ended; `watch` raises the reason."""
        self._is_up(False)
        _fail([*self._under_way, *self._take_all()], "the journal is closed", None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Neither message nor traceback: both may hold what was to be stored.
            logger.error("journal.degraded", error=f"the writer ended: {type(error).__name__}")


async def prove_room(transaction: Transaction) -> int:
    """Write and delete data that needs disk space, because a full disk may still accept updates;
    returns the database's instant.
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
