"""What tests of `reconcile` share."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import asyncpg

from .daemon import Daemon


def ago(**span: float) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(**span)


def counts_of(printed: str) -> dict[str, int]:
    """What `reconcile` printed on stdout."""
    text = printed.partition(": ")[2].replace(";", ",").strip()
    return {part.rpartition(" ")[0]: int(part.rpartition(" ")[2]) for part in text.split(", ")}


def age_deliveries(daemon: Daemon, *, hours: int) -> None:
    """Let everything that is here have come so much earlier."""
    url = daemon.settings.journal.url.reveal()
    statement = f"UPDATE deliveries SET received_at = received_at - {hours * 3_600_000_000}"
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(statement)
        return

    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement.replace("deliveries", "berinia_webhookd.deliveries"))
        finally:
            await connection.close()

    asyncio.run(execute())
