"""Statements of the paths that every message takes, compiled once for SQLite and given to its
driver as they are. SQLAlchemy looks at statement, values and result anew at each execution, which
costs more than SQLite's own work on it. On PostgreSQL SQLAlchemy executes them.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import CompoundSelect, Connection, Delete, Insert, Select, Update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

SQLITE: Final = sqlite.dialect()
VALUES: Final = "values"  # the expanding parameter of what `AnyOf` asks
MOST_AT_ONCE: Final = 512
ROWS_AT_ONCE: Final = 64

Asked = Select[Any] | CompoundSelect[Any]


def run(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Any]:
    """What SQLite's driver returns for one statement; its errors come as SQLAlchemy's."""
    driver: Any = connection.connection.dbapi_connection
    try:
        return driver.execute(sql, parameters).fetchall()  # type: ignore[no-any-return]
    except sqlite3.Error as error:
        raise DBAPIError.instance(
            sql, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect
        ) from error


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
        compiled = statement.compile(dialect=SQLITE, column_keys=columns)
        self._sql = str(compiled)
        self._head, self._row = "", ""
        if isinstance(statement, Insert):
            self._head, _, self._row = self._sql.partition(" VALUES ")
        self._sql_of_rows = lru_cache(self._for_rows)
        self._values = _Values(compiled)

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Do it for all rows, which may be none."""
        if not rows:
            return
        if connection.dialect.name != "sqlite":
            connection.execute(self.statement, rows)
        elif not self._head:
            for row in rows:
                run(connection, self._sql, self._values.of(row))
        else:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[start : start + ROWS_AT_ONCE]
                values = list(chain.from_iterable(map(self._values.of, some)))
                run(connection, self._sql_of_rows(len(some)), values)

    def _for_rows(self, count: int) -> str:
        return f"{self._head} VALUES {', '.join([self._row] * count)}"


class Question:
    """A SELECT. Its rows have their columns' names, and are tuples.

    `postgresql` is what takes its place there.
    """

    def __init__(self, statement: Asked, *, postgresql: Asked | None = None) -> None:
        self._statement = statement if postgresql is None else postgresql
        compiled = statement.compile(dialect=SQLITE)
        self._sql = str(compiled)
        self._values = _Values(compiled)
        self._rows = _Rows(statement)

    def execute(self, connection: Connection, **asked: Any) -> Sequence[Any]:
        """All rows."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, asked).all()
        return self._rows.of(run(connection, self._sql, self._values.of(asked)))


class AnyOf:
    """A SELECT about any of many values, which stand for the expanding parameter `values`; it is
    given the names of its other parameters. Its rows are as those of a `Question`, in no order.
    """

    def __init__(self, statement: Asked, *parameters: str, postgresql: Asked | None = None) -> None:
        self._asked = statement
        self._statement = statement if postgresql is None else postgresql
        self._others = dict.fromkeys(parameters)
        self._prepared = lru_cache(self._compile)
        self._rows = _Rows(statement)

    def execute(
        self, connection: Connection, values: Collection[Any], **asked: Any
    ) -> Sequence[Any]:
        """What is found, in no order."""
        if not values:
            return ()
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, {VALUES: list(values), **asked}).all()
        found: list[Any] = []
        listed = list(values)
        for start in range(0, len(listed), MOST_AT_ONCE):
            some = listed[start : start + MOST_AT_ONCE]
            # A few sizes, so that SQLite too has its statement ready.
            size = 1 << (len(some) - 1).bit_length()
            sql, bound = self._prepared(size)
            some += [some[-1]] * (size - len(some))
            given = asked | dict(zip(_names(size), some, strict=True))
            found += run(connection, sql, bound.of(given))
        return self._rows.of(found)

    def _compile(self, size: int) -> tuple[str, _Values]:
        """The SQL for so many values."""
        asked = self._asked.params({VALUES: [None] * size, **self._others})
        compiled = asked.compile(dialect=SQLITE, compile_kwargs={"render_postcompile": True})
        return str(compiled), _Values(compiled, {*self._others, *_names(size)})


@cache
def _names(size: int) -> list[str]:
    """What SQLAlchemy calls the values of an expanding parameter."""
    return [f"{VALUES}_{number}" for number in range(1, size + 1)]


class _Rows:
    """What the driver gives as what we want."""

    def __init__(self, statement: Asked) -> None:
        columns = statement.selected_columns
        self._row: Any = namedtuple("Row", [column.name for column in columns])  # type: ignore[misc]
        processors = (
            column.type.dialect_impl(SQLITE).result_processor(SQLITE, None) for column in columns
        )
        self._processed = [(at, process) for at, process in enumerate(processors) if process]

    def of(self, found: Sequence[Sequence[Any]]) -> Sequence[Any]:
        if not self._processed:
            return list(map(self._row._make, found))
        return [self._one(list(row)) for row in found]

    def _one(self, values: list[Any]) -> Any:
        for at, process in self._processed:
            values[at] = process(values[at])
        return self._row._make(values)


class _Values:
    """What we give as what the driver wants: the values of a statement's parameters, in order."""

    def __init__(self, compiled: SQLCompiler, names: Collection[str] = ()) -> None:
        """`names` are of parameters that get a value though none is required."""
        self._names = compiled.positiontup or []
        self._processed: list[tuple[int, Callable[[Any], Any]]] = []
        self._constants: dict[str, Any] = {}
        for at, name in enumerate(self._names):
            bound = compiled.binds[name if name in compiled.binds else VALUES]
            process = bound.type.dialect_impl(SQLITE).bind_processor(SQLITE)
            if not bound.required and name not in names:
                constant = bound.effective_value
                self._constants[name] = process(constant) if process else constant
            elif process is not None:
                self._processed.append((at, process))

        self._pick = _picker(self._names)

    def of(self, given: Mapping[str, Any]) -> Sequence[Any]:
        if self._constants:
            given = {**self._constants, **given}
        if not self._processed:
            return self._pick(given)
        values = list(self._pick(given))
        for at, process in self._processed:
            values[at] = process(values[at])
        return values


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """The values of these names; written in C but for few."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda given: [given[name] for name in names]
