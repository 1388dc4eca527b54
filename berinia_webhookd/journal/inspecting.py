"""What `doctor` looks at beside the figures: whether the file is sound and takes writes, why agents
cannot be loaded, and how a PostgreSQL server is set up. It changes nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, func, select, text

from berinia_webhookd.journal.contract import FileState, MissingAgent
from berinia_webhookd.journal.schema import deliveries, unavailable_agents

LOCK_SECONDS: Final = 2.0
_STEPS_BETWEEN_LOOKS: Final = 10_000  # of SQLite's machine


def inspect_file(path: Path, seconds: float) -> FileState:
    """Take the right to write and give it back; then check pages for at most `seconds`.

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
    """Whether it is about what is in the file; a full disk or a lock says nothing of that."""
    unreadable = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode in unreadable


def missing_agents(connection: Connection) -> list[MissingAgent]:
    """Which agents cannot be loaded, where, and why."""
    found = connection.execute(
        select(unavailable_agents).order_by(unavailable_agents.c.agent, unavailable_agents.c.node)
    )
    return [MissingAgent(row.agent, row.node, row.reason, row.since) for row in found]


def last_received_at(connection: Connection) -> datetime | None:
    """When the newest delivery came, by the clock of the machine that took it."""
    newest = select(func.max(deliveries.c.id)).scalar_subquery()
    return connection.execute(
        select(deliveries.c.received_at).where(deliveries.c.id == newest)
    ).scalar()


def server_settings(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Settings of the PostgreSQL server, as this connection has them; none on SQLite."""
    if connection.dialect.name == "sqlite":
        return {}
    asked = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
    return {row.name: row.setting for row in connection.execute(asked, {"names": list(names)})}
