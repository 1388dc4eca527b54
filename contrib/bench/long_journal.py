"""Makes a journal of many events from one of a few by plain SQL, far faster than receiving them.
Every row of the few is copied under new numbers and ids, each copy further back in time. After
`MESSAGES_EACH` copies come other people, so that there are as many conversations as in a journal
that grew; as many digests again outlive events that are gone.

Most indexes are made anew and the tallies counted once, instead of row by row; nothing is flushed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from berinia_webhookd.journal.deliveries import EVENTS_EACH

# Less than `journal.retention_days`, so that nothing is purged meanwhile.
SPREAD_SECONDS = 20 * 86400
MESSAGES_EACH = 10  # that a person writes

# By table: what differs from the copied row. `:copy` counts back in time, `:step` milliseconds
# each; `:numbers` is how many numbers the few deliveries take, `n` a row's place among the few,
# `:few` how many events those are; `:others` counts the people's copies, each with `:people`
# conversations. An event's number is its delivery's times `EVENTS_EACH`.
_SHIFT = "(:copy * :step * 1000)"
_NUMBER = "(:copy * :few + n)"
# The id's time moved; the random rest makes it different from every other of that instant.
_MOVED = "(milliseconds(id) - :copy * :step)"
_ID = f"printf('%08x-%04x', {_MOVED} >> 16, {_MOVED} & 65535) || substr(id, 14)"


def _before(*columns: str, each: int = EVENTS_EACH) -> dict[str, str]:
    return {column: f"{column} - :copy * :numbers * {each}" for column in columns}


def _sooner(*columns: str) -> dict[str, str]:
    return {column: f"{column} - {_SHIFT}" for column in columns}


def _of_others(column: str) -> dict[str, str]:
    return {column: f"{column} + :others * :people"}


def _other_sender(column: str) -> dict[str, str]:
    return {column: f"{column} || CASE WHEN :others THEN printf('%04d', :others) ELSE '' END"}


_NEW = {
    "deliveries": {"id": _ID, **_before("number", each=1), **_sooner("received_at")},
    "events": {
        "id": _ID,
        "digest": f"new_digest({_NUMBER})",
        **_before("delivery", each=1),
        **_before("number", "place"),
        "about": "about || ':' || :copy",
        **_of_others("conversation"),
    },
    "entries": {
        **_before("place", "event", "gathered_into"),
        **_sooner("created_at", "started_at", "finished_at"),
        **_of_others("conversation"),
    },
    "attempts": {**_before("entry"), **_sooner("started_at", "ended_at")},
    "replies": {**_before("event"), **_sooner("decided_at")},
    "authors": _before("event"),
    "runs": {**_before("entry"), **_sooner("started_at"), **_other_sender("sender")},
}
# Of people: once for all the copies that are theirs.
_NEW_PEOPLE = {
    "conversations": {**_of_others("id"), **_other_sender("sender")},
    "consents": {**_sooner("latest_at"), **_other_sender("address")},
}
# Their keys, and how many of those there are for each number of a delivery.
_KEYS = {
    "deliveries": {"number": 1},
    "events": {"number": EVENTS_EACH, "delivery": 1, "place": EVENTS_EACH},
    "entries": {"place": EVENTS_EACH, "event": EVENTS_EACH, "gathered_into": EVENTS_EACH},
    "attempts": {"entry": EVENTS_EACH},
    "replies": {"event": EVENTS_EACH},
    "authors": {"event": EVENTS_EACH},
    "runs": {"entry": EVENTS_EACH},
}
# Each digest behind the last one, which is faster to write and no different to read.
_GONE = """
INSERT INTO seen (digest, event, received_at)
SELECT CAST(printf('%016x', few_deliveries.number - :copy * :numbers) AS BLOB)
           || substr(few_events.digest, 9),
       few_events.id, few_deliveries.received_at - :copy * :step * 1000
FROM few_events JOIN few_deliveries ON few_deliveries.number = few_events.delivery
"""


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
    """Indexes whose keys ascend; gives the statements that make them again. One made at once has
    full pages, and every new digest, which may belong to any of them, would split one.
    """
    found = journal.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> '' "
        "AND name NOT IN ('events_digest', 'conversations_parties')"
    ).fetchall()
    for name, _ in found:
        journal.execute(f"DROP INDEX {name}")
    return [sql for _, sql in found]


def _copy(journal: sqlite3.Connection, few: int, copies: int) -> None:
    (numbers,) = journal.execute(
        "SELECT 1 + max((SELECT max(number) FROM deliveries), "
        f"               (SELECT max(place) FROM entries) / {EVENTS_EACH})"
    ).fetchone()
    for table, keys in _KEYS.items():
        # What is newest has the largest numbers, and none is below 0.
        moved = ", ".join(f"{key} = {key} + :room * {each}" for key, each in keys.items())
        journal.execute(f"UPDATE {table} SET {moved}", {"room": numbers * copies})
    of_copy = [*(_copying(journal, table, new) for table, new in _NEW.items()), _GONE]
    of_people = [_copying(journal, table, new) for table, new in _NEW_PEOPLE.items()]
    (people,) = journal.execute("SELECT max(id) FROM conversations").fetchone()
    values = {"few": few, "numbers": numbers, "people": people}
    values["step"] = SPREAD_SECONDS * 1000 // copies
    for copy in reversed(range(1, copies)):  # so that keys ascend
        values["copy"] = copy
        values["others"] = (copies - copy) // MESSAGES_EACH if copy >= MESSAGES_EACH else 0
        new_people = values["others"] and (copies - copy) % MESSAGES_EACH == 0
        for statement in [*of_people, *of_copy] if new_people else of_copy:
            journal.execute(statement, values)


def _copying(journal: sqlite3.Connection, table: str, new: dict[str, str]) -> str:
    """Puts the few rows of a table aside; gives the statement that copies them."""
    columns = [row[1] for row in journal.execute(f"PRAGMA table_info({table})")]
    journal.execute(
        f"CREATE TEMP TABLE few_{table} AS SELECT *, "
        f"row_number() OVER (ORDER BY {next(iter(new))}) - 1 AS n FROM main.{table}"
    )
    values = ", ".join(new.get(column, column) for column in columns)
    return f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {values} FROM few_{table}"


def _milliseconds(id_: str) -> int:
    """The time that a UUIDv7 begins with."""
    return int(id_[:8] + id_[9:13], 16)


def _digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()
