"""A SQLite file that was moved away from under its owner, and is back."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from berinia_webhookd.clock import now
from berinia_webhookd.journal.database import Outage, Transaction
from berinia_webhookd.journal.journal_file import SqliteDatabase
from berinia_webhookd.journal.saved_copies import saved_copies as copies_of


async def test_a_file_that_is_back_is_read_once_it_is_whole(tmp_path: Path) -> None:
    """Its WAL was removed when its content was saved: until the owner has written it back, whoever
    opens the file would find it cut, and what he finds is no damage. The copy stays until then.
    """

    async def people(transaction: Transaction) -> int:
        return len(await transaction.execute("list_paused"))

    database = SqliteDatabase(tmp_path / "journal.db", now)
    await database.own()
    await database.prepare()
    elsewhere = database.path.rename(tmp_path / "elsewhere")
    with pytest.raises(Outage, match="removed; all that it held is saved"):
        await database.prepare()
    elsewhere.rename(database.path)
    await database.disconnect()
    with pytest.raises(Outage, match="not been written back yet"):
        await database.read(people)
    assert copies_of(database.path)
    with pytest.raises(Outage, match="replaced"):
        await database.prepare()
    await database.disconnect()
    await database.prepare()
    assert await database.read(people) == 0
    assert not copies_of(database.path)
    await database.close()


async def test_a_copy_stays_while_a_reader_keeps_the_wal_from_being_written_back(
    tmp_path: Path,
) -> None:
    """What is open here, and the copy, are all there is until then."""
    database = SqliteDatabase(tmp_path / "journal.db", now)
    await database.own()
    await database.prepare()
    with contextlib.closing(sqlite3.connect(database.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM schema").fetchall()
        elsewhere = database.path.rename(tmp_path / "elsewhere")
        with pytest.raises(Outage, match="is saved"):
            await database.prepare()
        elsewhere.rename(database.path)
        with pytest.raises(Outage, match="while it is read"):
            await database.prepare()
        await database.disconnect()
        assert copies_of(database.path)
    with pytest.raises(Outage, match="replaced"):
        await database.prepare()
    assert not copies_of(database.path)
    await database.close()
