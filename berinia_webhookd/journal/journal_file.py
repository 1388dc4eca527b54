"""A SQLite journal: a file with one owner. One connection writes; a few others read.

The owner checks the file with each commit (`file_watch`). If the file was lost, it saves the open
state beside it (`saved_copies`), and writes no more until an operator has decided.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from berinia_webhookd.errors import CannotStart, CannotStartNow, JournalUnavailable
from berinia_webhookd.journal.database import (
    Changes,
    Damaged,
    Database,
    DatabaseError,
    Outage,
    ResultT,
    Step,
)
from berinia_webhookd.journal.file_watch import FileWatch, Lost
from berinia_webhookd.journal.lock import OwnerLock, real_path
from berinia_webhookd.journal.migrate import migrate
from berinia_webhookd.journal.saved_copies import (
    NotSaved,
    Saved,
    fits_into_memory,
    remove_unfinished,
    save,
    saved_copies,
)
from berinia_webhookd.journal.sqlite import (
    CLOSE_SECONDS,
    ConnectionThread,
    companions,
    connect,
    damage,
    require_journal,
    translated,
    truncate_wal,
)

logger = structlog.get_logger()

READERS: Final = 4
DATA_VERSION: Final = "PRAGMA data_version"  # which others' writes change
INTERRUPT_SECONDS: Final = 0.05  # between interrupts: one before a statement begins has no effect
SAVE_AGAIN_SECONDS: Final = 55.0  # retry: the disk may have room then


class SqliteDatabase(Database):
    """A journal in a file; commands may have it open beside the owner."""

    shared = False

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self.path = real_path(path)
        self._clock = clock
        self._lock = OwnerLock(self.path)
        self._watch = FileWatch(self.path, self._lock)
        self._writer: ConnectionThread | None = None
        self._idle: list[ConnectionThread] = []
        self._free = asyncio.Semaphore(READERS)
        self._companions: tuple[int, ...] = ()  # inodes of the WAL and its index
        self._owned = False
        self._unread = True  # whether the writing connection has not yet read the whole file
        self._proven = True  # whether the file is known to be sound
        self._hangs = False  # whether a connection could not be closed
        self._version: int | None = None
        self._saved: Saved | None = None
        self._not_saved = "nothing of it was open"
        self._save_at = 0.0
        self._saving: asyncio.Task[None] | None = None
        self._prover: ConnectionThread | None = None
        self._proving: asyncio.Task[None] | None = None

    async def own(self) -> None:
        """See `Database`."""
        if copies := saved_copies(self.path):
            raise CannotStart(
                _undecided(copies),
                hint=f"`berinia-webhookd journal restore {copies[0]}` puts it in the place of "
                f"the journal, `berinia-webhookd journal discard {copies[0]}` gives it up",
            )
        with _opening():
            require_journal(self.path)  # do not change the mode of another program's file
        prepare_folder(self.path)
        self._lock.take()
        remove_unfinished(self.path)
        wal, _ = companions(self.path)
        self._proven = not (wal.exists() and wal.stat().st_size)
        with _opening():
            self.created = await self.write(migrate)
        self._lock.keep_wal(keep=True)
        self._owned = True

    async def prepare(self) -> None:
        """See `Database`."""
        if self._lock.held:
            await self._require_trust()
            if self._unread:
                await self._read_through()
        await self.look_around()

    async def write(self, step: Step[ResultT]) -> ResultT:
        """See `Database`."""
        return await self._suspecting(self._writing_thread().transact(step))

    async def read(self, step: Step[ResultT]) -> ResultT:
        """See `Database`."""
        async with self._free:
            idle = self._idle
            reader = idle.pop() if idle else self._connection("BEGIN", complete=True)
            try:
                return await self._suspecting(reader.transact(step))
            finally:
                if idle is self._idle:
                    idle.append(reader)
                else:  # disconnected meanwhile
                    await reader.close()

    async def do(self, job: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run a function outside of transactions, with the writing connection."""
        return await self._suspecting(self._writing_thread().do(job))

    async def look_around(self) -> bool:
        """See `Database`."""
        if self._lock.held:
            await self.do(self._watch.look)
        await self._check_companions()
        ((version,),) = await self.do(lambda connection: [*connection.execute(DATA_VERSION)])
        changed, self._version = version != self._version, version
        return bool(changed)

    async def listen(self, heard: Callable[[Changes], None], lost: Callable[[], None]) -> None:
        """See `Database`: a file has no notifications; it is polled."""
        del heard, lost
        await asyncio.Event().wait()

    async def truncate_wal(self) -> bool:
        """See `Database`."""
        return await self.do(truncate_wal)

    async def disconnect(self) -> None:
        """See `Database`; keeps the connections if the file is in doubt, since they may hold the
        only data.
        """
        if self._lock.held:
            with contextlib.suppress(Outage):  # a loss may not have been noticed yet
                self._watch.require_name()
        if not (self._watch.doubt or self._watch.gone or self._saved):
            await self._disconnect()

    async def close(self) -> None:
        """See `Database`; the last to close the file writes the WAL back, if the file is intact.

        Raises:
            JournalUnavailable: it was lost, and the open state could not be saved.
        """
        if self._saving is not None:
            await self._saving
        self._save_at = 0.0  # the last chance to save it
        if self._owned and await self._answers():
            try:
                await self.prepare()
            except Outage as outage:
                logger.error("journal.degraded", error=str(outage))  # noqa: TRY400 - it is no mistake
            else:
                await self._stop_proving()
                self._lock.keep_wal(keep=not self._proven)  # then the next start checks the file
        await self._stop_proving()
        await self._disconnect()
        if not self._hangs:  # else the file is still open: keep the lock until the process ends
            self._lock.release()
        if self._owned and self._saved is None and (self._watch.doubt or self._watch.gone):
            raise JournalUnavailable(
                f"the journal was lost, and nothing of it is saved: {self._not_saved}",
                hint="put a backup in its place: `berinia-webhookd journal restore FILE`",
            )

    # ---- connections

    def _writing_thread(self) -> ConnectionThread:
        if self._writer is None:
            self._writer = self._connection("BEGIN IMMEDIATE", writes=True)
        return self._writer

    def _connection(
        self, begin: str, *, writes: bool = False, complete: bool = False
    ) -> ConnectionThread:
        watch = self._watch if writes and self._lock.held else None
        opened = partial(self._open, watch, complete=complete)
        return ConnectionThread(opened, begin, self._clock, watch)

    def _open(self, watch: FileWatch | None, *, complete: bool) -> sqlite3.Connection:
        """Connect to the locked file only; `complete` refuses one that lacks its WAL."""
        if self._lock.held:
            self._watch.require_name()
        if complete and self._saved is not None:
            raise Outage("the journal was lost, and has not been written back yet")
        connection = connect(self.path)
        if watch is not None:
            watch.opened()
        return connection

    async def _suspecting(self, work: Awaitable[ResultT]) -> ResultT:
        """Mark the file as in doubt when damage is found."""
        try:
            return await work
        except Damaged as damage:
            if self._lock.held:
                self._watch.suspect(str(damage))
            raise

    async def _read_through(self) -> None:
        """Read a journal that fits into memory, so that it can be saved if its file is cut. A
        larger one is checked in the background, and only after a crash.
        """
        small = await self.do(_read_small)
        self._unread, self._proven = False, small or self._proven
        if not self._proven and (self._proving is None or self._proving.done()):
            self._prover = self._connection("BEGIN")
            self._proving = asyncio.create_task(self._prove(self._prover), name="journal check")

    async def _prove(self, reader: ConnectionThread) -> None:
        """Check the whole file, and mark it as in doubt if it is damaged."""
        try:
            await reader.do(_require_sound)
        except Damaged as error:
            self._watch.suspect(str(error))
        except Outage:
            pass  # interrupted, or the file is gone: the next start finds it
        else:
            self._proven = True
        finally:
            await reader.close()

    async def _stop_proving(self) -> None:
        while self._proving is not None and not self._proving.done():
            if self._prover is not None:
                self._prover.interrupt()
            await asyncio.wait((self._proving,), timeout=INTERRUPT_SECONDS)

    async def _disconnect(self) -> None:
        self._companions, self._unread = (), True
        idle, self._idle = self._idle, []
        writer, self._writer = self._writer, None
        closed = await asyncio.gather(*(reader.close() for reader in idle))
        if writer is not None:  # last: of two that close at once, neither may write the WAL back
            closed.append(await writer.close())
        if not all(closed):
            self._hangs = True

    async def _answers(self) -> bool:
        """Whether the writing thread answers; a disk may hang."""
        if self._writer is None:
            return False
        await asyncio.wait((done := self._writer.do(lambda _: None),), timeout=CLOSE_SECONDS)
        return done.done() and done.exception() is None

    # ---- a file that was lost

    async def _require_trust(self) -> None:
        """Check a file in doubt; if it was lost, save the open state.

        Raises:
            Outage: the file cannot be used.
        """
        try:
            with translated():
                self._watch.require_name()
            if self._watch.doubt:
                await self._check()
        except Lost as lost:
            raise Outage(f"{lost}; {await self._save()}", passing=False) from lost
        if self._saved is not None:  # the file is back, but its WAL exists only as open here
            await self.do(self._watch.save_wal)
            self._saved.path.unlink(missing_ok=True)
            self._saved = None
        if copies := saved_copies(self.path):
            raise Outage(_undecided(copies), passing=False)

    async def _check(self) -> None:
        """Trust a file in doubt again if it is sound, and drop cached pages.

        Raises:
            Lost: it is not.
        """
        watch = self._watch
        seen = watch.judge()
        kind = "integrity_check" if watch.is_as_left(seen) else "quick_check"
        checking = self._connection("BEGIN")
        try:
            found = await checking.do(lambda connection: damage(connection, kind))
        except Damaged as error:
            found = str(error)
        finally:
            await checking.close()
        if found is not None:
            watch.lossy = True
            raise Lost(f"{watch.doubt}: {found}")
        await self._disconnect()
        watch.trust(seen)

    async def _save(self) -> str:
        """Save the open state, and remove WAL files that SQLite would apply to the file now at the
        journal's path; returns a description of the result.
        """
        now = asyncio.get_running_loop().time()
        if self._saved is None and self._writer is not None and now >= self._save_at:
            self._save_at = now + SAVE_AGAIN_SECONDS
            self._saving = asyncio.create_task(self._save_from(self._writer))
        if self._saving is not None:
            await asyncio.shield(self._saving)  # the waiting task may be cancelled
        if self._saved is None:
            return f"it cannot be saved: {self._not_saved}"
        return f"{self._saved.what} is saved in {self._saved.path}"

    async def _save_from(self, writer: ConnectionThread) -> None:
        def copy(connection: sqlite3.Connection) -> Saved:
            return save(connection, self.path, self._clock(), intact=self._watch.gone)

        try:
            self._saved = await writer.do(copy)
        except NotSaved as error:
            self._not_saved = str(error)
        else:
            self._remove_companions()

    def _remove_companions(self) -> None:
        for file, inode in zip(companions(self.path), self._companions, strict=False):
            if file.exists() and file.stat().st_ino == inode:
                file.unlink()

    async def _check_companions(self) -> None:
        """Detect that the WAL, with the latest commits, or its index is not the open one any more,
        so that others would not see these commits. It is written back at once.
        """
        inodes = tuple(file.stat().st_ino if file.exists() else 0 for file in companions(self.path))
        self._companions = self._companions or inodes
        if inodes != self._companions:
            if self._lock.held:
                await self.do(self._watch.save_wal)
            raise Outage("the journal's -wal or -shm file was replaced")


def prepare_folder(path: Path) -> None:
    """Create the journal's folder if necessary, and make the journal's files private.

    Raises:
        CannotStart: it cannot be written here.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in (path, *companions(path)):
            if file.exists() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
    except OSError as error:
        raise CannotStart(
            f"the journal {path} cannot be written: {error.strerror}",
            hint="give the daemon's user its folder, or set journal.url",
        ) from error


def _undecided(copies: Sequence[Path]) -> str:
    names = ", ".join(map(str, copies))
    return f"what was saved of a journal that was lost lies there undecided: {names}"


def _read_small(connection: sqlite3.Connection) -> bool:
    if small := fits_into_memory(connection):
        _require_sound(connection)
    return small


def _require_sound(connection: sqlite3.Connection) -> None:
    if (found := damage(connection, "quick_check")) is not None:
        raise Damaged(found)


@contextlib.contextmanager
def _opening() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        why = f"the journal cannot be opened: {error}"
        if isinstance(error, Outage) and error.passing:
            hint = "another program may be writing to it, or its disk be full"
            raise CannotStartNow(why, hint=hint) from error
        hint = "see journal.url; a damaged file can be moved away and looked at"
        raise CannotStart(why, hint=hint) from error
