"""One owner per SQLite journal: a lock on a file beside it, which ends with the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from berinia_webhookd.errors import CannotStart, CannotStartNow


class OwnerLock:
    """Held by `serve` for as long as it has the journal open; other commands do without."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(journal.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Become the owner.

        Raises:
            CannotStartNow: another process is, and the message says which; or the disk is full.
            CannotStart: the lock file cannot be written here.
        """
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CannotStartNow(
                    f"the lock file {self._path} cannot be written: {error.strerror}",
                    hint=f"make room: df -h {self._path.parent}",
                ) from error
            raise CannotStart(
                f"the lock file {self._path} cannot be written: {error.strerror}",
                hint="give the daemon's user the journal's folder",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "a process"
            os.close(descriptor)
            raise CannotStartNow(
                f"the journal is held by {holder}",
                hint="stop that one first, or give this one a journal.url of its own",
            ) from error
        self._descriptor = descriptor
        # Whom to name to others is a courtesy, which a full disk may refuse; the lock is held.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Let the next one be the owner; the file stays, so that nobody locks a deleted one."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
