"""Inspects a SQLite journal owned by another process, for `doctor`: whether it is sound and can be
written. It changes nothing.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from berinia_webhookd.journal.contract import FileState

LOCK_SECONDS: Final = 2.0
_STEPS_BETWEEN_LOOKS: Final = 10_000  # of SQLite's machine


def inspect_file(path: Path, seconds: float) -> FileState:
    """Take and release the write lock; then check pages for at most `seconds`.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=LOCK_SECONDS,
            isolation_level=None,
        )
        with closing(connection):
            refusal = _refusal(connection)
            damage, complete = _damage(connection, seconds)
    except sqlite3.DatabaseError as error:
        damage = str(error) if _is_damage(error) else None
        return FileState(damage, complete=False, refusal=str(error))
    return FileState(damage, complete, refusal)


def glance(path: Path, seconds: float) -> FileState:
    """Read the beginning of a file, without taking the write lock: its owner notices failing
    writes, and frequent checks must not delay it.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=seconds)
        with closing(connection):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        return FileState(str(error) if _is_damage(error) else None, complete=False, refusal=None)
    return FileState(None, complete=False, refusal=None)


def _refusal(connection: sqlite3.Connection) -> str | None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return str(error)
    return None


def _damage(connection: sqlite3.Connection, seconds: float) -> tuple[str | None, bool]:
    until = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS_BETWEEN_LOOKS)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if time.monotonic() > until or not _is_damage(error):
            return None, False
        return str(error), True
    return (None if found == "ok" else str(found)), True


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error means damage in the file, unlike a full disk or a lock."""
    unreadable = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode in unreadable
