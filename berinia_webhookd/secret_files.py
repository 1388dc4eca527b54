"""Secrets that the daemon makes for itself: files in its state folder, for the owner alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

_BYTES: Final = 32
_SHORTEST: Final = 32  # characters: one that somebody chose for the configuration
_LONGEST: Final = 1024


def made(file: Path) -> str:
    """Read a secret; make it where there is none.

    Raises:
        OSError: the folder cannot be written.
        ValueError: what lies there is no secret, or others may read it.
    """
    if not file.exists():
        with contextlib.suppress(FileExistsError):
            put(file, secrets.token_hex(_BYTES))
    return read(file)


def put(file: Path, secret: str) -> None:
    """Write a secret that there was already.

    Raises:
        FileExistsError: there is one, or another process made it meanwhile.
        OSError: the folder cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secret + "\n")
            stream.flush()
            os.fsync(descriptor)
        file.hardlink_to(fresh)  # atomic, and never over another
    finally:
        fresh.unlink()


def read(file: Path) -> str:
    """Read a secret.

    Raises:
        OSError: there is none, or this user may not read it.
        ValueError: what lies there is no secret, or others may read it.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor) as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(f"{file} must be a file for its owner alone")
        text = stream.read(_LONGEST).strip()
    if len(text) < _SHORTEST:
        raise ValueError(f"{file} holds no key")
    return text
