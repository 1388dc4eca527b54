"""Watches the journal's file while it is open, through the lock's own descriptor: for removal,
replacement, hard links, and changes by other programs.

Commits go into the WAL. The file itself is written only at checkpoints, by the owner or by a
command of ours, and each one gives its header a larger number by a random step, so that no other
state of a journal has the same. Any other change is foreign; and a file whose number is not between
the known one and that of the newest commit is another state of the journal, even if it is sound. A
WAL that became shorter while the file has its old number was cut, or checkpointed by another
program: a new connection, which reads what is left, tells which.

The owner writes the WAL back after it has answered for the commit that made it due, and before the
next one. Beside commits, by a connection of its own, the flushes of both files delay each other
more than that, and a WAL that grows meanwhile never begins anew.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from berinia_webhookd.journal.database import Outage
from berinia_webhookd.journal.lock import OwnerLock

# If the WAL is cut, what was in it alone is saved from memory: it must fit into the cache.
COMMITS: Final = 64  # the most commits between checkpoints,
WAL_BYTES: Final = 4 * 1024 * 1024  # or the growth of the WAL that causes one,
COMMITS_BETWEEN_LOOKS: Final = 8  # checked after this many commits
MAGIC: Final = b"SQLite format 3\0"
HEADER_BYTES: Final = 100
NUMBERS: Final = 1 << 31  # the numbers wrap around here
FARTHEST: Final = 1 << 16  # the largest step between two numbers


class Lost(Outage):
    """The file at the journal's path is not as it was left: only the open one has the data."""

    def __init__(self, message: str) -> None:
        super().__init__(message, passing=False)


@dataclass(frozen=True, slots=True)
class Look:
    """The observed state of a file."""

    touched: int = field(compare=False)  # ctime: also changes without a write
    size: int
    modified: int
    header: bytes

    @property
    def number(self) -> int:
        """The number of its state: SQLite's `user_version`."""
        return int.from_bytes(self.header[60:64], "big")

    @property
    def complete(self) -> bool:
        """Whether the file is as long as its header says."""
        page_size, pages = self.header[16:18], self.header[28:32]
        return self.size >= int.from_bytes(page_size, "big") * int.from_bytes(pages, "big")


NOTHING: Final = Look(0, 0, 0, b"")


class FileWatch:
    """Compares the owner's file with its last known state. Methods that take a connection are
    called in the thread of the writing one.
    """

    def __init__(self, path: Path, lock: OwnerLock) -> None:
        self._path = path
        self._lock = lock
        self._wal = path.with_name(path.name + "-wal")
        self._commits = self._wal_bytes = 0  # since the last checkpoint
        self._wal_left = (0, 0)  # the WAL's last seen inode and size
        self.due = True  # a checkpoint: so that the state at the start gets a number
        self._failure: Exception | None = None  # of the last checkpoint, not yet raised
        self._known = NOTHING
        self._untouched: tuple[int, int] | None = None
        self.doubt = ""  # why the file is in doubt, until it was checked
        self.lossy = False  # whether the file is another state than the open one
        self.gone = False  # whether another file, or none, is at the journal's path

    def opened(self) -> None:
        """Take the first observed state as known."""
        if self._known is NOTHING:
            self._keep(self._glance())

    def beginning(self) -> None:
        """Refuse a transaction before it changes pages in memory, since a rollback drops them.

        Raises:
            Outage: the file is in doubt.
            sqlite3.Error, OSError: the last checkpoint failed.
        """
        self._see_wal()
        self._require_no_doubt()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def committing(self, connection: sqlite3.Connection) -> None:
        """Number the state if a checkpoint is due; the last statement of a transaction."""
        self._see_wal()
        self.lossy = self.lossy or bool(self.doubt)  # the commit hides a cut of the WAL
        self._commits += 1
        if self.due or self._commits % COMMITS_BETWEEN_LOOKS == 0:
            grown = self._wal_left[1] > self._wal_bytes + WAL_BYTES
            self.due = self.due or grown or self._commits >= COMMITS
        if self.due:
            number_state(connection)

    def committed(self, connection: sqlite3.Connection) -> None:
        """Check the file before the commit is reported.

        Raises:
            Lost, Outage: as `look` does.
        """
        self._see_wal()
        self.check(connection)

    def check(self, connection: sqlite3.Connection) -> None:
        """Check the file; costs one system call if its ctime and size are unchanged.

        Raises:
            Lost, Outage: as `look` does.
        """
        found = os.fstat(self._lock.descriptor)
        if (found.st_ctime_ns, found.st_size) != self._untouched:
            self.look(connection)

    def look(self, connection: sqlite3.Connection) -> None:
        """Compare the full observable state.

        Raises:
            Lost: the file is another one, or another state of it. Outage: it has several names, or
            is in doubt.
        """
        self.require_name()
        self._see_wal()
        fresh = self._glance()
        changed = fresh != self._known
        if changed and not self._is_announced(fresh, _number_in(connection)):
            self.suspect("the journal's file was changed by another program")
            self.judge()
        self._require_no_doubt()
        if changed:  # the other checkpoint may not be finished
            self._write_back(connection, "PASSIVE")
        else:
            self._keep(fresh)

    def write_back(self, connection: sqlite3.Connection) -> None:
        """Write the WAL back, since that is due. Nobody waits for it: what it finds or fails by is
        raised by the next transaction.
        """
        try:
            self._see_wal()
            if not self.doubt:
                self._write_back(connection, "PASSIVE")
        except (sqlite3.Error, OSError) as error:
            self._failure = error
        except Lost:
            pass  # which is in doubt now

    def save_wal(self, connection: sqlite3.Connection) -> None:
        """Write back all of a WAL that is no longer at its path.

        Raises:
            Outage: a reader prevents it.
        """
        announce(connection)
        if not self._write_back(connection, "FULL"):
            raise Outage(
                "the journal's -wal file is gone, and cannot be written back while it is read"
            )

    def _write_back(self, connection: sqlite3.Connection, mode: str) -> bool:
        """Write the numbered WAL back into the file as just seen, unless a command is doing so.
        Returns whether that was possible.

        Raises:
            Lost: it was changed meanwhile.
        """
        before = _number_in(connection)
        sql = f"PRAGMA wal_checkpoint({mode})"
        busy, pages, written = connection.execute(sql).fetchone()
        if busy:
            return False
        self._commits, self._wal_bytes, self.due = 0, self._wal_left[1], False
        fresh = self._glance()
        is_ours = fresh.complete and _is_between(before, fresh.number, _number_in(connection))
        if pages == written and not is_ours:  # and no reader prevented it
            self.suspect("the journal's file was changed while it was written")
            self.lossy = True
            raise Lost(self.doubt)
        self._keep(fresh)
        return True

    def require_name(self) -> None:
        """Check that the file at the journal's path is the locked one, and has no other name.

        Raises:
            Lost: it is not.
            Outage: it has several names.
        """
        held = os.fstat(self._lock.descriptor)
        self.gone = True
        try:
            named = self._path.stat()
        except FileNotFoundError as error:
            raise Lost("the journal's file was removed") from error
        if not os.path.samestat(named, held):
            raise Lost("the journal's file was replaced")
        self.gone = False
        if held.st_nlink > 1:
            raise Outage("the journal's file has several names (hard links)", passing=False)

    def suspect(self, why: str) -> None:
        """Mark the file as in doubt until `trust`; from any thread."""
        self.doubt = self.doubt or why
        self._untouched = None

    def judge(self) -> Look:
        """Return the current state of a file in doubt; from any thread.

        Raises:
            Lost: it is another state than the open one.
        """
        fresh = self._glance()
        if fresh.number != self._known.number or not fresh.header.startswith(MAGIC):
            self.lossy = True
        if self.lossy:
            raise Lost(self.doubt)
        return fresh

    def is_as_left(self, seen: Look) -> bool:
        """Whether no other program wrote to the file, so that found damage is older."""
        return seen == self._known

    def trust(self, seen: Look) -> None:
        """Take a state, seen before the check that found it sound, as known."""
        self.doubt = ""
        self._keep(seen)

    def _glance(self) -> Look:
        found = os.fstat(self._lock.descriptor)
        header = os.pread(self._lock.descriptor, HEADER_BYTES, 0)
        return Look(found.st_ctime_ns, found.st_size, found.st_mtime_ns, header)

    def _is_announced(self, fresh: Look, number: int) -> bool:
        """Whether a command of ours is writing the WAL back: it has committed a number, which
        reaches the file once no reader prevents it. Newer numbers may exist by now.
        """
        known = self._known.number
        return number != known and _is_between(known, fresh.number, number)

    def _keep(self, seen: Look) -> None:
        self._known, self._untouched = seen, (seen.touched, seen.size)

    def _see_wal(self) -> None:
        """Mark the journal as in doubt if its WAL was cut; a removed one is still complete."""
        try:
            found = os.stat(self._wal)  # noqa: PTH116 - with each commit
            inode, size = found.st_ino, found.st_size
        except FileNotFoundError:
            inode = size = 0
        known, left = self._wal_left
        shorter = inode == known and size < min(left, WAL_BYTES)
        if shorter and self._glance().number == self._known.number:
            self.suspect("the journal's -wal file was cut by another program")
        self._wal_left = inode, size

    def _require_no_doubt(self) -> None:
        if self.doubt:
            raise Outage(self.doubt, passing=False)


def number_state(connection: sqlite3.Connection) -> None:
    """Number the next checkpointed state; within a transaction."""
    last = _number_in(connection)
    farther = 1 + secrets.randbelow(FARTHEST) if last else secrets.randbits(31)
    connection.execute(f"PRAGMA user_version = {(last + farther) % NUMBERS}")


def announce(connection: sqlite3.Connection) -> None:
    """Commit a number, so that the owner recognises this checkpoint as ours."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        number_state(connection)


def _number_in(connection: sqlite3.Connection) -> int:
    ((found,),) = connection.execute("PRAGMA user_version")
    return int(found)


def _is_between(first: int, number: int, last: int) -> bool:
    return (number - first) % NUMBERS <= (last - first) % NUMBERS
