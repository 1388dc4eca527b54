"""Statements of the paths that every message takes, compiled once for SQLite and given to its
driver as they are. SQLAlchemy looks at statement, values and result anew at each execution, which
costs more than SQLite's own work on it. On PostgreSQL SQLAlchemy executes them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import CompoundSelect, Connection, Delete, Insert, Select, Update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

VALUES: Final = "values"  # the expanding parameter of what `AnyOf` asks
MOST_AT_ONCE: Final = 512
ROWS_AT_ONCE: Final = 64

# The name in a row, or None for a constant; what turns its value into the driver's; the constant.
Parameter = tuple[str | None, Callable[[Any], Any] | None, Any]


def run(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Any]:
    """What SQLite's driver returns for one statement; its errors come as SQLAlchemy's."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql, parameters)
        return cursor.fetchall()
    except sqlite3.Error as error:
        raise DBAPIError.instance(
            sql, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
    finally:
        cursor.close()


class Batch:
    """One INSERT, UPDATE or DELETE, executed for each of many rows.

    On SQLite an INSERT takes its rows together: between two rows the driver would let other threads
    have their turn, and wait for its own.
    """

    def __init__(
        self,
        statement: Insert | Update | Delete,
        *columns: str,
        postgresql: Insert | None = None,
    ) -> None:
        """`columns` are what the rows of an INSERT hold; other statements name their own.
        `postgresql` is what takes its place there.
        """
        self.statement = statement if postgresql is None else postgresql
        dialect = sqlite.dialect()
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self._sql = str(compiled)
        self._head, self._row = "", ""
        if isinstance(statement, Insert):
            self._head, _, self._row = self._sql.partition(" VALUES ")
        self._sql_of_rows = lru_cache(self._for_rows)
        self._parameters: list[Parameter] = []
        for name in compiled.positiontup or ():
            bound = compiled.binds[name]
            process = bound.type.dialect_impl(dialect).bind_processor(dialect)
            if bound.required:
                self._parameters.append((name, process, None))
            else:
                value = bound.effective_value
                self._parameters.append((None, None, process(value) if process else value))

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Do it for all rows, which may be none."""
        if not rows:
            return
        if connection.dialect.name != "sqlite":
            connection.execute(self.statement, rows)
        elif not self._head:
            for row in rows:
                run(connection, self._sql, self._values(row))
        else:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[start : start + ROWS_AT_ONCE]
                values = [value for row in some for value in self._values(row)]
                run(connection, self._sql_of_rows(len(some)), values)

    def _for_rows(self, count: int) -> str:
        return f"{self._head} VALUES {', '.join([self._row] * count)}"

    def _values(self, row: Mapping[str, Any]) -> list[Any]:
        return [
            constant if name is None else process(row[name]) if process else row[name]
            for name, process, constant in self._parameters
        ]


class Question:
    """A SELECT whose parameters and columns are text, bytes and numbers.

    `postgresql` is what takes its place there.
    """

    def __init__(self, statement: Select[Any], *, postgresql: Select[Any] | None = None) -> None:
        self._statement = statement if postgresql is None else postgresql
        compiled = statement.compile(dialect=sqlite.dialect())
        self._sql = str(compiled)
        self._parameters = [
            (name if compiled.binds[name].required else None, compiled.binds[name].effective_value)
            for name in compiled.positiontup or ()
        ]

    def execute(self, connection: Connection, **asked: Any) -> Sequence[Any]:
        """All rows."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, asked).all()
        values = [asked[name] if name else constant for name, constant in self._parameters]
        return run(connection, self._sql, values)


class AnyOf:
    """A SELECT about any of many values, which stand for the expanding parameter `values`. The rows
    hold what the driver gives, so it is for columns of text, bytes and numbers.
    """

    def __init__(self, statement: Select[Any] | CompoundSelect[Any]) -> None:
        self._statement = statement
        self._sql = lru_cache(self._compile)

    def execute(self, connection: Connection, values: Collection[Any]) -> Sequence[Any]:
        """What is found, in no order."""
        if not values:
            return ()
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, {VALUES: list(values)}).all()
        found: list[Any] = []
        listed = list(values)
        for start in range(0, len(listed), MOST_AT_ONCE):
            some = listed[start : start + MOST_AT_ONCE]
            # A few sizes, so that SQLite too has its statement ready.
            size = 1 << (len(some) - 1).bit_length()
            sql, times = self._sql(size)
            padded = some + [some[-1]] * (size - len(some))
            found += run(connection, sql, padded * times)
        return found

    def _compile(self, size: int) -> tuple[str, int]:
        """The SQL for so many values, and how often they stand in it."""
        asked = self._statement.params({VALUES: [None] * size})
        sql = str(
            asked.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True})
        )
        return sql, sql.count("?") // size
