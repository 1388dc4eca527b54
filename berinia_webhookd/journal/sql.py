"""The loader of statements: SQL in the files of `journal/sql`, for both SQLite and PostgreSQL.

A statement begins with `-- name: its_name`, then a comment on its purpose. It can be pasted into
`sqlite3` or `psql`. A few rules make one text valid for both engines, and each engine's module
applies them:

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
    """Return every statement by its name, in the engine's form, without comments."""
    found: dict[str, str] = {}
    for file in sorted(FOLDER.glob("[a-z]*.sql")):
        for block in file.read_text().split("-- name: ")[1:]:
            name, _, text = block.partition("\n")
            found[name.strip()] = plain(engine, text).rstrip("; ")
    return found


def text_of(engine: str, statement: str) -> str:
    """Return the statement of this name; an argument with spaces is the text of a statement."""
    return statement if " " in statement else statements(engine)[statement]


@cache
def steps() -> tuple[tuple[int, str], ...]:
    """Return the steps of the schema: their numbers and texts, in order."""
    return tuple((int(file.stem), file.read_text()) for file in sorted(FOLDER.glob("[0-9]*.sql")))


def sqlite_schema() -> str:
    """Return all steps of the schema as one script, for a file beside the journal."""
    return " ".join(plain("sqlite", text) for _, text in steps())


def plain(engine: str, text: str) -> str:
    """Return the text with this engine's own parts, in one line and without comments."""
    return " ".join(COMMENT.sub("", OPENED[engine].sub(r"\1", text)).split())


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of the parameters, in the order of first use, without `now`."""
    found = (match["list"] or match["name"] for match in PARAMETER.finditer(text))
    return tuple(dict.fromkeys(name for name in found if name != "now"))


def values_of(rows: Sequence[Any], names: tuple[str, ...]) -> Sequence[Sequence[Any]]:
    """Return the values of these names from each row: a mapping, or a tuple of just these."""
    if not isinstance(rows[0], tuple):
        return [[row[name] for name in names] for row in rows]
    if getattr(rows[0], "_fields", names) != names:
        raise TypeError(f"{type(rows[0]).__name__} is no row of {names}")
    return rows


def rows_of(text: str) -> tuple[str, ...]:
    """Return a statement in three parts: before the row after VALUES, the row, and the rest; empty
    for one without rows.
    """
    before, values, rest = text.partition("VALUES (")
    if not values:
        return ()
    depth, end = 1, 0
    while depth:
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    return f"{before}VALUES ", f"({rest[:end]}", rest[end:]
