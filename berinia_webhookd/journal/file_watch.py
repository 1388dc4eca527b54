"""What becomes of a journal's file while we have it open, seen through the lock's own descriptor:
removed, replaced, linked, or changed while nothing of ours wrote.

Commits go into the WAL. The file itself is written only where the WAL is written back, by us or by
a command of ours, and each time its header gets a larger number, by chance so much larger that no
other state of a journal has it. So any other change is not ours; and a file whose number is not
between the one we know it by and that of the newest commit is another state of the journal, however
sound. A WAL that became shorter while the file has its old number was cut, or written back by
a stranger: a connection of its own tells which, since it reads all that is left.
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

COMMITS: Final = 64  # until the WAL is written back,
WAL_BYTES: Final = 4 * 1024 * 1024  # or once it has grown by that,
COMMITS_BETWEEN_LOOKS: Final = 8  # which is seen within so many
MAGIC: Final = b"SQLite format 3\0"
HEADER_BYTES: Final = 100
NUMBERS: Final = 1 << 31  # they begin anew behind it
FARTHEST: Final = 1 << 16  # from one to the next


class Lost(Outage):
    """The file at the journal's place is not as we left it: what we have open is all there is."""

    def __init__(self, message: str) -> None:
        super().__init__(message, passing=False)


@dataclass(frozen=True, slots=True)
class Look:
    """What is seen of a file."""

    touched: int = field(compare=False)  # when anything was done to it, and not only to its bytes
    size: int
    modified: int
    header: bytes

    @property
    def number(self) -> int:
        """The number of its state: SQLite's `user_version`."""
        return int.from_bytes(self.header[60:64], "big")

    @property
    def complete(self) -> bool:
        """Whether it has all the pages that it says it has."""
        page_size, pages = self.header[16:18], self.header[28:32]
        return self.size >= int.from_bytes(page_size, "big") * int.from_bytes(pages, "big")


NOTHING: Final = Look(0, 0, 0, b"")


class FileWatch:
    """Compares the file of an owner with how it was left. What takes a connection is called in the
    thread of the one that writes.
    """

    def __init__(self, path: Path, lock: OwnerLock) -> None:
        self._path = path
        self._lock = lock
        self._wal = path.with_name(path.name + "-wal")
        self._commits = self._wal_bytes = 0  # since the WAL was written back
        self._wal_left = (0, 0)  # its inode and size when it was last seen
        self._due = True  # so that what is there at the start has a number
        self._known = NOTHING
        self._untouched: tuple[int, int] | None = None
        self.doubt = ""  # stays until somebody has checked the file
        self.lossy = False  # whether what is doubted is another state than what we have open
        self.gone = False  # whether another file, or none, is at the journal's place

    def opened(self) -> None:
        """Take what is there at first as known."""
        if self._known is NOTHING:
            self._keep(self._glance())

    def beginning(self) -> None:
        """Refuse a transaction before it changes pages in memory: a rollback forgets those.

        Raises:
            Outage: the file is doubted.
        """
        self._see_wal()
        self._require_no_doubt()

    def committing(self, connection: sqlite3.Connection) -> None:
        """Do what belongs into a transaction, as its last statement."""
        self._see_wal()
        self.lossy = self.lossy or bool(self.doubt)  # the commit hides how much was cut
        self._commits += 1
        if self._due or self._commits % COMMITS_BETWEEN_LOOKS == 0:
            grown = self._wal_left[1] > self._wal_bytes + WAL_BYTES
            self._due = self._due or grown or self._commits >= COMMITS
        if self._due:
            number_state(connection)

    def committed(self, connection: sqlite3.Connection) -> None:
        """Check that the file was ours until now, before anybody hears of the commit, and write the
        WAL back if it is time to.

        Raises:
            Lost, Outage: as `look` does.
        """
        self._see_wal()
        self.check(connection)
        if self._due:
            self._write_back(connection, "PASSIVE")

    def check(self, connection: sqlite3.Connection) -> None:
        """Do nothing more if nothing was done to the file; that costs one system call.

        Raises:
            Lost, Outage: as `look` does.
        """
        found = os.fstat(self._lock.descriptor)
        if (found.st_ctime_ns, found.st_size) != self._untouched:
            self.look(connection)

    def look(self, connection: sqlite3.Connection) -> None:
        """Compare all that can be seen.

        Raises:
            Lost: the file is another one, or another state of it.
            Outage: it has several names, or is doubtful.
        """
        self.require_name()
        self._see_wal()
        fresh = self._glance()
        changed = fresh != self._known
        if changed and not self._is_announced(fresh, _number_in(connection)):
            self.suspect("the journal's file was changed by another program")
            self.judge()
        self._require_no_doubt()
        if changed:  # whoever writes it back may not be done
            self._write_back(connection, "PASSIVE")
        else:
            self._keep(fresh)

    def save_wal(self, connection: sqlite3.Connection) -> None:
        """Write all of the WAL back, which is not at its place any more.

        Raises:
            Outage: somebody reads it.
        """
        announce(connection)
        if not self._write_back(connection, "FULL"):
            raise Outage(
                "the journal's -wal file is gone, and cannot be written back while it is read"
            )

    def _write_back(self, connection: sqlite3.Connection, mode: str) -> bool:
        """Write the WAL, which has a number, back into the file as it was just seen; not while a
        command does. Returns whether that was possible.

        Raises:
            Lost: it was changed meanwhile.
        """
        before = _number_in(connection)
        sql = f"PRAGMA wal_checkpoint({mode})"
        busy, pages, written = connection.execute(sql).fetchone()
        if busy:
            return False
        self._commits, self._wal_bytes, self._due = 0, self._wal_left[1], False
        fresh = self._glance()
        is_ours = fresh.complete and _is_between(before, fresh.number, _number_in(connection))
        if pages == written and not is_ours:  # and no reader held it up
            self.suspect("the journal's file was changed while it was written")
            self.lossy = True
            raise Lost(self.doubt)
        self._keep(fresh)
        return True

    def require_name(self) -> None:
        """Check that the file at the journal's place is the one that is locked, by this name alone.

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
        """Doubt the file until `trust`; of any thread."""
        self.doubt = self.doubt or why
        self._untouched = None

    def judge(self) -> Look:
        """Return how a doubted file is now; of any thread.

        Raises:
            Lost: it is another state than what we have open.
        """
        fresh = self._glance()
        if fresh.number != self._known.number or not fresh.header.startswith(MAGIC):
            self.lossy = True
        if self.lossy:
            raise Lost(self.doubt)
        return fresh

    def is_as_left(self, seen: Look) -> bool:
        """Whether nobody else wrote into it: damage that was met has been there before."""
        return seen == self._known

    def trust(self, seen: Look) -> None:
        """Take it as it was seen before it was found sound."""
        self.doubt = ""
        self._keep(seen)

    def _glance(self) -> Look:
        found = os.fstat(self._lock.descriptor)
        header = os.pread(self._lock.descriptor, HEADER_BYTES, 0)
        return Look(found.st_ctime_ns, found.st_size, found.st_mtime_ns, header)

    def _is_announced(self, fresh: Look, number: int) -> bool:
        """Whether a command of ours writes the WAL back: it has put a number into it, which comes
        into the file once no reader holds it up. There may be newer ones of ours or others' by now.
        """
        known = self._known.number
        return number != known and _is_between(known, fresh.number, number)

    def _keep(self, seen: Look) -> None:
        self._known, self._untouched = seen, (seen.touched, seen.size)

    def _see_wal(self) -> None:
        """Doubt the journal if its WAL was cut; one that was removed is still open, and whole."""
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
    """Give the state that is written back next a number of its own; within a transaction."""
    last = _number_in(connection)
    farther = 1 + secrets.randbelow(FARTHEST) if last else secrets.randbits(31)
    connection.execute(f"PRAGMA user_version = {(last + farther) % NUMBERS}")


def announce(connection: sqlite3.Connection) -> None:
    """Commit a number, so that the owner knows who writes the WAL back."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        number_state(connection)


def _number_in(connection: sqlite3.Connection) -> int:
    ((found,),) = connection.execute("PRAGMA user_version")
    return int(found)


def _is_between(first: int, number: int, last: int) -> bool:
    return (number - first) % NUMBERS <= (last - first) % NUMBERS
