"""What a list had already, in a temporary file: a day may have more than memory should hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Self

import orjson


class Listed(NamedTuple):
    """When something was listed first, and where it is stored."""

    at: datetime
    places: tuple[str, ...]


class Seen:
    """By a digest, what was listed first under it. The file has no name, and goes with it."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # in a file of its own, beyond a cache of 2 MB
        self._database.execute(
            "CREATE TABLE seen (digest BLOB PRIMARY KEY, at TEXT, places TEXT) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def first(self, digest: bytes, at: datetime, places: Sequence[str]) -> Listed | None:
        """Return what came first under a digest; None: it is this, which is remembered."""
        written = self._database.execute(
            "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)",
            (digest, at.isoformat(), orjson.dumps(places).decode()),
        )
        if written.rowcount:
            return None
        found = self._database.execute("SELECT at, places FROM seen WHERE digest = ?", (digest,))
        (first, stored) = found.fetchone()
        return Listed(datetime.fromisoformat(first), tuple(orjson.loads(stored)))
