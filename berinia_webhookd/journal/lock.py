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
# The bytes of a SQLite file that readers lock shared, and the last closer exclusively.
SHARED_FIRST: Final = 0x40000002
SHARED_SIZE: Final = 510
OF_ITS_OWN: Final = "stop that one first, or give this one a journal.url of its own"
STOP_IT: Final = (
    "stop it first, and the socket that would start it again: "
    "`systemctl stop berinia-webhook.socket berinia-webhook.service`"
)
_MOUNT: Final = re.compile(r"^mnt_id:\s*(\d+)", re.MULTILINE)


class OwnerLock:
    """Held by `serve` while it has the journal open; other commands do not take it."""

    def __init__(self, journal: Path) -> None:
        self._path = real_path(journal)
        self._descriptor: int | None = None

    def take(self, *, hint: str = OF_ITS_OWN) -> None:
        """Become the owner; the file is created if necessary, private. `hint` is what to do where
        another process is.

        Raises:
            CannotStartNow: another process, named in the message, has the lock; or the disk is
            full. CannotStart: the file cannot be written here, or has several names.
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
        """The descriptor of the locked file, whatever its name."""
        if self._descriptor is None:
            raise RuntimeError("the lock is not held")
        return self._descriptor

    def keep_wal(self, *, keep: bool) -> None:
        """Prevent a checkpoint and removal of the WAL when the file is closed: for SQLite this is
        one more reader. The caller must have it open by SQLite already.
        """
        kind = fcntl.F_RDLCK if keep else fcntl.F_UNLCK
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, SHARED_FIRST, SHARED_SIZE, 0)
        fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, lock)

    def release(self) -> None:
        """Release the lock, once SQLite has closed the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def real_path(journal: Path) -> Path:
    """Return the path without symbolic links, beside which SQLite puts the WAL."""
    return Path(os.path.realpath(journal))


def require_one_name(path: Path) -> None:
    """Check that a journal has one name only: its latest commits are in a WAL beside that name, and
    a process using another name would not see and overwrite them.

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
    """Return the name of the process that has the lock, if the kernel tells."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        locks = [line.split() for line in LOCKS.read_text().splitlines()]
    except OSError:
        locks = []
    for _, kind, _, _, pid, file, *_ in locks:
        if kind == "FLOCK" and file.rpartition(":")[2] == inode:
            return f"process {pid}"
    return "another process"
