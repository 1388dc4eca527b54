"""One owner per SQLite journal: a lock on the file itself, which ends with the process.

While SQLite has the file open, nothing else here may open it: closing any other descriptor of it
would drop SQLite's own locks. So the lock's descriptor is opened before and closed after SQLite's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Final

from berinia_webhookd.errors import CannotStart, CannotStartNow

LOCKS: Final = Path("/proc/locks")
# The bytes of a SQLite file that readers lock, and that who closes it last locks alone.
SHARED_FIRST: Final = 0x40000002
SHARED_SIZE: Final = 510
OF_ITS_OWN: Final = "stop that one first, or give this one a journal.url of its own"
STOP_IT: Final = (
    "stop it first, and the socket that would start it again: "
    "`systemctl stop berinia-webhook.socket berinia-webhook.service`"
)
_MOUNT: Final = re.compile(r"^mnt_id:\s*(\d+)", re.MULTILINE)


class OwnerLock:
    """Held by `serve` for as long as it has the journal open; other commands do without."""

    def __init__(self, journal: Path) -> None:
        self._path = real_path(journal)
        self._descriptor: int | None = None

    def take(self, *, hint: str = OF_ITS_OWN) -> None:
        """Become the owner; the file is made if need be, for nobody else to read. `hint` is what to
        do where another process is.

        Raises:
            CannotStartNow: another process is, and the message says which; or the disk is full.
            CannotStart: the file cannot be written here, or has several names.
        """
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            why = f"the journal {self._path} cannot be written: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CannotStartNow(why, hint=f"make room: df -h {self._path.parent}") from error
            hint = "give the daemon's user its folder, or set journal.url"
            raise CannotStart(why, hint=hint) from error
        try:
            require_one_name(self._path)
            self._lock(descriptor, hint)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int, hint: str) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStartNow(
                f"the journal is held by {_holder(descriptor)}",
                hint=hint,
            ) from error
        found = os.fstat(descriptor)
        if not os.path.samestat(found, self._path.stat()):
            raise CannotStartNow(f"the journal {self._path} was replaced while it was opened")

    @property
    def held(self) -> bool:
        """Whether this process is the owner."""
        return self._descriptor is not None

    @property
    def descriptor(self) -> int:
        """The file that is locked, by whatever name."""
        if self._descriptor is None:
            raise RuntimeError("the lock is not held")
        return self._descriptor

    def keep_wal(self, *, keep: bool) -> None:
        """Let nobody who closes the file write the WAL back and remove it: for SQLite this is one
        more reader. Whoever asks has it open by SQLite already.
        """
        kind = fcntl.F_RDLCK if keep else fcntl.F_UNLCK
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, SHARED_FIRST, SHARED_SIZE, 0)
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, lock)

    def release(self) -> None:
        """Let the next one be the owner, once SQLite has closed the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def real_path(journal: Path) -> Path:
    """Return the path without symbolic links, beside which SQLite has the WAL."""
    return Path(os.path.realpath(journal))


def require_one_name(path: Path) -> None:
    """Check that a journal can be reached by one name only: its latest commits lie in a WAL beside
    that name, and whoever comes by another would not see them, and write over them.

    Raises:
        CannotStart: it has hard links, or is mounted by itself.
    """
    found = path.stat()
    if found.st_nlink > 1:
        raise CannotStart(
            f"the journal {path} has {found.st_nlink} names (hard links)",
            hint=f"remove the others: find / -xdev -inum {found.st_ino}",
        )
    if _mount_of(path) != _mount_of(path.parent):
        raise CannotStart(
            f"the journal {path} is mounted into its folder by itself",
            hint="mount the folder that it is in, or set journal.url",
        )


def _mount_of(path: Path) -> str:
    # Not the device: on an overlay a file may have another one than its folder. A descriptor of a
    # path alone: closing it drops no locks.
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        found = _MOUNT.search(Path(f"/proc/self/fdinfo/{descriptor}").read_text())
    except OSError:  # no /proc
        found = None
    finally:
        os.close(descriptor)
    return found[1] if found else f"device {path.stat().st_dev}"


def _holder(descriptor: int) -> str:
    """Name the process that has the lock, as far as the kernel tells."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        locks = [line.split() for line in LOCKS.read_text().splitlines()]
    except OSError:
        locks = []
    for _, kind, _, _, pid, file, *_ in locks:
        if kind == "FLOCK" and file.rpartition(":")[2] == inode:
            return f"process {pid}"
    return "another process"
