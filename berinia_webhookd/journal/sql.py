"""The statements: SQL in the files of `journal/sql`, for SQLite and PostgreSQL alike.

A statement begins with `-- name: its_name`, then a comment that says what it is for. It can be
pasted into `sqlite3` or `psql`. Few rules make one text good for both engines, and each engine's
module applies them:

- `:name` is a parameter; `:now` is the transaction's instant, in microseconds since 1970, and is
  given by the engine. Instants are BIGINT, yes and no are 1 and 0.
- `IN (:names)` takes a list, which may be empty.
- The row after VALUES is repeated for as many rows as `Transaction.many` is given.
- `/*postgresql … */` is for PostgreSQL alone, `/*sqlite … */` for SQLite alone.
- Where two parameters meet, or one in VALUES that is no INSERT's: `CAST(:now AS BIGINT) + :lease`.
- Columns are named; `SELECT *` would break a node when a newer one adds a column.
- The conditions of partial indexes are written out as literals, as the index spells them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).with_name("sql")
PARAMETER: Final = re.compile(r"IN \(:(?P<list>\w+)\)|(?<![:\w]):(?P<name>[a-z]\w*)")
OPENED: Final = {
    engine: re.compile(rf"/\*{engine}\b(.*?)\*/", re.DOTALL) for engine in ("sqlite", "postgresql")
}
COMMENT: Final = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)


@cache
def statements(engine: str) -> dict[str, str]:
    """Every statement by its name, as the engine reads it, without comments."""
    found: dict[str, str] = {}
    for file in sorted(FOLDER.glob("[a-z]*.sql")):
        for block in file.read_text().split("-- name: ")[1:]:
            name, _, text = block.partition("\n")
            found[name.strip()] = plain(engine, text).rstrip("; ")
    return found


def text_of(engine: str, statement: str) -> str:
    """The statement of this name; one that has no name is given as its text."""
    return statement if " " in statement else statements(engine)[statement]


@cache
def steps() -> tuple[tuple[int, str], ...]:
    """The steps of the schema: their numbers and texts, in order."""
    return tuple((int(file.stem), file.read_text()) for file in sorted(FOLDER.glob("[0-9]*.sql")))


def plain(engine: str, text: str) -> str:
    """The text with what is for this engine alone, in one line and without comments."""
    return " ".join(COMMENT.sub("", OPENED[engine].sub(r"\1", text)).split())


def names_in(text: str) -> tuple[str, ...]:
    """The names of the parameters, in the order in which they first stand, without the instant."""
    found = (match["list"] or match["name"] for match in PARAMETER.finditer(text))
    return tuple(dict.fromkeys(name for name in found if name != "now"))


def values_of(rows: Sequence[Any], names: tuple[str, ...]) -> Sequence[Sequence[Any]]:
    """The values of these names from each row: a mapping, or a tuple of just these."""
    if not isinstance(rows[0], tuple):
        return [[row[name] for name in names] for row in rows]
    if getattr(rows[0], "_fields", names) != names:
        raise TypeError(f"{type(rows[0]).__name__} is no row of {names}")
    return rows


def rows_of(text: str) -> tuple[str, ...]:
    """A statement in three parts: what is before the row after VALUES, the row, and the rest; empty
    for one that takes no rows.
    """
    before, values, rest = text.partition("VALUES (")
    if not values:
        return ()
    depth, end = 1, 0
    while depth:
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    return f"{before}VALUES ", f"({rest[:end]}", rest[end:]
