"""Makes a journal of many events from one of a few by plain SQL, far faster than receiving them.
Every row of the few is copied under new numbers and ids, each copy further back in time.

The indexes are made anew and the tallies counted once, instead of row by row; nothing is flushed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from berinia_webhookd.journal.deliveries import EVENTS_EACH

# Less than `journal.retention_days`, so that nothing is purged meanwhile.
SPREAD_SECONDS = 20 * 86400

# By table: what differs from the copied row. `:copy` counts back in time, `:step` milliseconds
# each; `:numbers` is how many numbers the few deliveries take, `n` an event's place among the few,
# `:few` how many those are. An event's number is its delivery's times `EVENTS_EACH`.
_SHIFT = "(:copy * :step * 1000)"
_NUMBER = "(:copy * :few + n)"
# The id's time moved; the random rest makes it different from every other of that instant.
_MOVED = "(milliseconds(id) - :copy * :step)"
_ID = f"printf('%08x-%04x', {_MOVED} >> 16, {_MOVED} & 65535) || substr(id, 14)"


def _before(*columns: str, each: int = EVENTS_EACH) -> dict[str, str]:
    return {column: f"{column} - :copy * :numbers * {each}" for column in columns}


def _sooner(*columns: str) -> dict[str, str]:
    return {column: f"{column} - {_SHIFT}" for column in columns}


_NEW = {
    "deliveries": {"id": _ID, **_before("number", each=1), **_sooner("received_at")},
    "events": {
        "id": _ID,
        "digest": f"new_digest({_NUMBER})",
        **_before("delivery", each=1),
        **_before("number", "place"),
    },
    "entries": {
        **_before("place", "event"),
        **_sooner("created_at", "started_at", "finished_at"),
    },
    "attempts": {**_before("entry"), **_sooner("started_at", "ended_at")},
    "replies": {**_before("event"), **_sooner("decided_at")},
}
# Their keys, and how many of those there are for each number of a delivery.
_KEYS = {
    "deliveries": {"number": 1},
    "events": {"number": EVENTS_EACH, "delivery": 1, "place": EVENTS_EACH},
    "entries": {"place": EVENTS_EACH, "event": EVENTS_EACH},
    "attempts": {"entry": EVENTS_EACH},
    "replies": {"event": EVENTS_EACH},
}


def lengthen(file: Path, events: int) -> int:
    """Copies until there are about so many events; gives their number. All must be finished, and
    nobody may have the journal open.
    """
    with closing(sqlite3.connect(file, isolation_level=None)) as journal:
        journal.create_function("milliseconds", 1, _milliseconds, deterministic=True)
        journal.create_function("new_digest", 1, _digest, deterministic=True)
        for setting in ("synchronous = OFF", "journal_mode = OFF", "cache_size = -400000"):
            journal.execute(f"PRAGMA {setting}")
        (few,) = journal.execute("SELECT count(*) FROM events").fetchone()
        later = _take_away(journal)
        journal.execute("BEGIN")
        _copy(journal, few, events // few)
        journal.execute("UPDATE tallies SET total = total * ?", (events // few,))
        journal.execute("COMMIT")
        for statement in later:
            journal.execute(statement)
        journal.execute("PRAGMA journal_mode = WAL")
        (many,) = journal.execute("SELECT count(*) FROM events").fetchone()
    return int(many)


def _take_away(journal: sqlite3.Connection) -> list[str]:
    """Indexes; gives the statements that make them again."""
    found = journal.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''"
    ).fetchall()
    for name, _ in found:
        journal.execute(f"DROP INDEX {name}")
    return [sql for _, sql in found]


def _copy(journal: sqlite3.Connection, few: int, copies: int) -> None:
    (numbers,) = journal.execute(
        "SELECT 1 + max((SELECT max(number) FROM deliveries), "
        f"               (SELECT max(place) FROM entries) / {EVENTS_EACH})"
    ).fetchone()
    sources = {}
    for table, new in _NEW.items():
        # What is newest has the largest numbers, and none is below 0.
        moved = ", ".join(f"{key} = {key} + :room * {each}" for key, each in _KEYS[table].items())
        journal.execute(f"UPDATE {table} SET {moved}", {"room": numbers * copies})
        columns = [row[1] for row in journal.execute(f"PRAGMA table_info({table})")]
        journal.execute(
            f"CREATE TEMP TABLE few_{table} AS SELECT *, "
            f"row_number() OVER (ORDER BY {next(iter(_KEYS[table]))}) - 1 AS n FROM main.{table}"
        )
        values = ", ".join(new.get(column, column) for column in columns)
        sources[table] = (
            f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {values} FROM few_{table}"
        )
    for copy in reversed(range(1, copies)):
        values_of_copy = {
            "copy": copy,
            "few": few,
            "numbers": numbers,
            "step": SPREAD_SECONDS * 1000 // copies,
        }
        for statement in sources.values():
            journal.execute(statement, values_of_copy)


def _milliseconds(id_: str) -> int:
    """The time that a UUIDv7 begins with."""
    return int(id_[:8] + id_[9:13], 16)


def _digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()
