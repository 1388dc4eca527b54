"""The thread that writes to SQLite, at its end."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from berinia_webhookd.journal.engine import Database, prepare_file


async def test_nobody_waits_for_a_closed_writer(tmp_path: Path) -> None:
    """What is asked of it after its end fails at once, as where a connection was lost."""
    path = tmp_path / "journal.db"
    prepare_file(path)
    database = Database(f"sqlite:///{path}", clock=lambda: datetime.now(UTC))
    writer = await database.open_writer()
    assert await writer.transact(lambda connection: connection.scalar(text("SELECT 1"))) == 1
    await writer.close()
    await writer.close()
    with pytest.raises(ConnectionError):
        await writer.transact(lambda connection: connection.scalar(text("SELECT 1")))
    await database.close()
