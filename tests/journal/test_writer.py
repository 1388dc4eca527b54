"""The threads that write to SQLite and read from it, at their end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from berinia_webhookd import clock
from berinia_webhookd.journal.database import Outage, Transaction
from berinia_webhookd.journal.sqlite import ConnectionThread, connect


async def count_tables(transaction: Transaction) -> int:
    return len(await transaction.tables())


async def test_nobody_waits_for_a_closed_connection(tmp_path: Path) -> None:
    """What is asked of it after its end fails at once, as where a connection was lost."""
    path = tmp_path / "journal.db"
    path.touch()
    writer = ConnectionThread(partial(connect, path), "BEGIN IMMEDIATE", clock.now)
    assert await writer.transact(count_tables) == 0
    await writer.close()
    await writer.close()
    with pytest.raises(Outage):
        await writer.transact(count_tables)


async def test_a_step_that_waits_is_a_mistake_that_is_said(tmp_path: Path) -> None:
    """Steps run to their end in the thread: nothing but their transaction may be waited for."""
    path = tmp_path / "journal.db"
    path.touch()
    writer = ConnectionThread(partial(connect, path), "BEGIN", clock.now)

    class Never:
        def __await__(self):  # type: ignore[no-untyped-def]
            yield

    async def wait(_: Transaction) -> None:
        await Never()

    with pytest.raises(AssertionError, match="waited"):
        await writer.transact(wait)
    assert await writer.transact(count_tables) == 0
    await writer.close()
