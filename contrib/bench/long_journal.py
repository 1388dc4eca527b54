"""Makes a journal of many events from one of a few by plain SQL, far faster than receiving them.
Every row of the few is copied under new ids, each copy further back in time.

The indexes are made anew and the tallies counted once, instead of row by row; nothing is flushed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

# Less than `journal.retention_days`, so that nothing is purged meanwhile.
SPREAD_SECONDS = 20 * 86400

# By table: what differs from the copied row. `:copy` counts back in time, `:step` milliseconds
# each; `n` is the event's number among the few, `:few` how many those are.
_SHIFT = "(:copy * :step * 1000)"
_NUMBER = "(:copy * :few + n)"


def _earlier(column: str) -> str:
    """The id's time moved; the random rest makes it different from every other of that instant."""
    moved = f"({column}_ms - :copy * :step)"
    return f"printf('%08x-%04x', {moved} >> 16, {moved} & 65535) || substr({column}, 14)"


_NEW = {
    "deliveries": {
        "id": _earlier("id"),
        "received_at": f"received_at - {_SHIFT}",
    },
    "delivery_bodies": {"delivery": _earlier("delivery")},
    "events": {
        "id": _earlier("id"),
        "delivery": _earlier("delivery"),
        "digest": f"new_digest({_NUMBER})",
        "received_at": f"received_at - {_SHIFT}",
    },
    "entries": {
        "id": _earlier("id"),
        "event": _earlier("event"),
        "place": "place - :copy * :places",
        "created_at": f"created_at - {_SHIFT}",
        "started_at": f"started_at - {_SHIFT}",
        "finished_at": f"finished_at - {_SHIFT}",
    },
    "attempts": {
        "entry": _earlier("entry"),
        "started_at": f"started_at - {_SHIFT}",
        "ended_at": f"ended_at - {_SHIFT}",
    },
    "replies": {
        "event": _earlier("event"),
        "decided_at": f"decided_at - {_SHIFT}",
    },
}
_IDS = {
    "deliveries": ("id",),
    "delivery_bodies": ("delivery",),
    "events": ("id", "delivery"),
    "entries": ("id", "event"),
    "attempts": ("entry",),
    "replies": ("event",),
}
# How a row of each table finds its event's number.
_EVENT = {
    "deliveries": "JOIN few ON few.delivery = source.id",
    "delivery_bodies": "JOIN few ON few.delivery = source.delivery",
    "events": "JOIN few ON few.event = source.id",
    "entries": "JOIN few ON few.event = source.event",
    "attempts": "JOIN entries ON entries.id = source.entry JOIN few ON few.event = entries.event",
    "replies": "JOIN few ON few.event = source.event",
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
        _remember(journal)
        journal.execute("UPDATE tallies SET total = total * ?", (events // few,))
        journal.execute("COMMIT")
        for statement in later:
            journal.execute(statement)
        journal.execute("PRAGMA journal_mode = WAL")
        (many,) = journal.execute("SELECT count(*) FROM events").fetchone()
    return int(many)


def _take_away(journal: sqlite3.Connection) -> list[str]:
    """Triggers and indexes; gives the statements that make them again."""
    found = journal.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql <> ''"
    ).fetchall()
    for kind, name, _ in found:
        journal.execute(f"DROP {kind} {name}")
    return [sql for _, _, sql in found]


def _copy(journal: sqlite3.Connection, few: int, copies: int) -> None:
    journal.execute(
        "CREATE TEMP TABLE few AS SELECT id AS event, delivery, "
        "row_number() OVER (ORDER BY id) - 1 AS n FROM events"
    )
    (places,) = journal.execute("SELECT max(place) + 1 FROM entries").fetchone()
    # What is newest has the largest places, and none is below 0.
    journal.execute("UPDATE entries SET place = place + ?", (places * copies,))
    sources = {}
    for table, new in _NEW.items():
        columns = [row[1] for row in journal.execute(f"PRAGMA table_info({table})")]
        times = "".join(f", milliseconds(source.{id_}) AS {id_}_ms" for id_ in _IDS[table])
        journal.execute(
            f"CREATE TEMP TABLE few_{table} AS SELECT source.*, few.n{times} "
            f"FROM main.{table} AS source {_EVENT[table]}"
        )
        values = ", ".join(new.get(column, column) for column in columns)
        sources[table] = (
            f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {values} FROM few_{table}"
        )
    for copy in reversed(range(1, copies)):
        values_of_copy = {
            "copy": copy,
            "few": few,
            "places": places,
            "step": SPREAD_SECONDS * 1000 // copies,
        }
        for statement in sources.values():
            journal.execute(statement, values_of_copy)


def _remember(journal: sqlite3.Connection) -> None:
    """What was seen, in the order of its keys."""
    journal.execute(
        "INSERT OR IGNORE INTO seen (key, event, seen_at) "
        "SELECT digest, id, received_at FROM events ORDER BY digest"
    )


def _milliseconds(id_: str) -> int:
    """The time that a UUIDv7 begins with."""
    return int(id_[:8] + id_[9:13], 16)


def _digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()
