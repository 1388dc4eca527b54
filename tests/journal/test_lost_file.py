"""A SQLite file that is lost, cut or held up while its journal is open, seen from inside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from berinia_webhookd.config.values import Rate
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal import file_watch, journal_file, restoring, saved_copies, sqlite
from berinia_webhookd.journal.contract import Budget, ClaimRequest
from berinia_webhookd.journal.saved_copies import saved_copies as copies_of
from berinia_webhookd.model import EntryKind, Outcome, OutcomeKind

from .world import AGENT, SqliteWorld, on_sqlite

pytestmark = on_sqlite
SMALL_CACHE = "PRAGMA cache_size = -200"


async def wait_until(holds: Callable[[], Any]) -> None:
    """Nothing but what is looked at says so."""
    async with asyncio.timeout(90):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def written_back(world: SqliteWorld) -> None:
    """Wait for what the writing connection still does after it answered."""
    database = world.journal._database
    assert isinstance(database, journal_file.SqliteDatabase)
    await database.do(lambda _: None)


def texts_in(file: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(file)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = copy.execute("SELECT data FROM events ORDER BY number").fetchall()
    return [data for (data,) in rows]


async def test_the_latest_of_a_large_journal_survive_a_cut(
    closed_world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not in memory any more is gone with the file; the copy has the rest, and the log says
    how much that is.
    """
    monkeypatch.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, SMALL_CACHE))
    await closed_world.open()
    for start in range(0, 2000, 200):
        await asyncio.gather(*(closed_world.accept(f"m{start + n}") for n in range(200)))
    with structlog.testing.capture_logs() as logged:
        os.truncate(closed_world.file, 0)
        await wait_until(lambda: copies_of(closed_world.file))
        await wait_until(lambda: any("is saved" in line.get("error", "") for line in logged))
    (copy,) = copies_of(closed_world.file)
    kept = texts_in(copy)
    assert 0 < len(kept) < 2000
    assert "m1999" in kept[-1]
    (said,) = {line["error"] for line in logged if "is saved" in line.get("error", "")}
    assert f"{len(kept)} entries of 2000" in said


async def test_what_nothing_has_used_since_the_start_survives_a_cut(world: SqliteWorld) -> None:
    """A journal that fits into memory is read through at the start."""
    for number in range(50):
        await world.accept(f"m{number}")
    await world.reopen()
    os.truncate(world.file, 8192)
    await wait_until(lambda: copies_of(world.file))
    assert len(texts_in(copies_of(world.file)[0])) == 50


async def test_a_cut_while_a_message_is_committed_is_noticed(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit makes the WAL as long as it was; but nobody hears of it."""
    for number in range(50):
        await world.accept(f"m{number}")
    wal = world.file.with_name(world.file.name + "-wal")
    committing = file_watch.FileWatch.committing

    def cut_before(watch: file_watch.FileWatch, connection: sqlite3.Connection) -> None:
        os.truncate(wal, 0)
        committing(watch, connection)

    with monkeypatch.context() as cutting:
        cutting.setattr(file_watch.FileWatch, "committing", cut_before)
        with pytest.raises(JournalUnavailable):
            await world.accept("refused")
    await wait_until(lambda: copies_of(world.file))
    assert len(texts_in(copies_of(world.file)[0])) == 51


async def crash_with_a_large_journal(world: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one, with a WAL, that does not fit into memory."""
    monkeypatch.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, SMALL_CACHE))
    await world.open()
    for start in range(0, 1000, 200):
        await asyncio.gather(*(world.accept(f"m{start + n}") for n in range(200)))
    await world.reopen()
    await world.accept("in the WAL alone")
    wal = world.file.with_name(world.file.name + "-wal")
    left = {file: file.read_bytes() for file in (world.file, wal)}
    await world.journals.pop().close()
    for file, held in left.items():
        file.write_bytes(held)


async def test_a_large_journal_is_checked_after_a_crash_alone(
    closed_world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading all of it takes its time, in which messages are accepted as ever. One that stops
    before its end begins anew at the next start.
    """
    await crash_with_a_large_journal(closed_world, monkeypatch)
    reading = threading.Event()
    checked: list[str] = []

    def damage(connection: sqlite3.Connection, kind: str) -> None:
        checked.append(kind)
        endless = (
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT max(x) FROM n"
        )
        if not reading.is_set():
            connection.execute(endless)

    monkeypatch.setattr(journal_file, "damage", damage)
    await closed_world.open()
    await wait_until(lambda: checked == ["quick_check"])
    await closed_world.accept("while it is read")
    await closed_world.journals.pop().close()
    reading.set()
    await closed_world.open()
    await wait_until(lambda: len(checked) == 2)
    await closed_world.reopen()
    assert len(checked) == 2


async def test_damage_in_a_large_journal_is_found_after_a_crash(
    closed_world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused from then on, until an operator has decided."""
    await crash_with_a_large_journal(closed_world, monkeypatch)
    monkeypatch.setattr(journal_file, "damage", lambda _connection, _kind: "a page is broken")
    with structlog.testing.capture_logs() as logged:
        await closed_world.open()
        await wait_until(lambda: any(line["event"] == "journal.degraded" for line in logged))
    with pytest.raises(JournalUnavailable):
        await closed_world.accept("refused")
    await wait_until(lambda: copies_of(closed_world.file))


async def test_without_room_everything_stays_open(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said why, and tried again; once there is room, all of it is saved."""
    for number in range(50):
        await world.accept(f"m{number}")
    monkeypatch.setattr(journal_file, "SAVE_AGAIN_SECONDS", 0.0)
    with structlog.testing.capture_logs() as logged, monkeypatch.context() as full:
        full.setattr(saved_copies, "FAST", ("PRAGMA max_page_count = 2",))
        world.file.unlink()
        await wait_until(lambda: any("cannot be saved" in line["error"] for line in logged))
        with pytest.raises(JournalUnavailable):
            await world.accept("refused")
        assert list(world.folder.glob("*.unfinished*")) == []
        assert copies_of(world.file) == []
    await wait_until(lambda: copies_of(world.file))
    assert len(texts_in(copies_of(world.file)[0])) == 50


async def test_closing_tries_once_more(world: SqliteWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be room since the last try."""
    for number in range(50):
        await world.accept(f"m{number}")
    with structlog.testing.capture_logs() as logged, monkeypatch.context() as full:
        full.setattr(saved_copies, "FAST", ("PRAGMA max_page_count = 2",))
        world.file.unlink()
        await wait_until(lambda: any("cannot be saved" in line["error"] for line in logged))
    await world.journals.pop().close()
    assert len(texts_in(copies_of(world.file)[0])) == 50


async def test_what_cannot_be_saved_is_no_orderly_end(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes it hears so."""
    await world.accept("lost")
    monkeypatch.setattr(saved_copies, "FAST", ("PRAGMA max_page_count = 2",))
    world.file.unlink()
    with pytest.raises(JournalUnavailable, match="nothing of it is saved"):
        await world.journals.pop().close()


async def test_closing_saves_what_nobody_has_noticed_yet(world: SqliteWorld) -> None:
    """A service is restarted in the moment in which its journal was replaced."""
    for number in range(10):
        await world.accept(f"m{number}")
    world.file.unlink()
    await world.journal.close()
    (copy,) = copies_of(world.file)
    assert len(texts_in(copy)) == 10
    assert list(world.folder.glob("journal.db-*")) == []


async def test_another_state_of_the_journal_is_not_taken_for_ours(world: SqliteWorld) -> None:
    """It is sound, has the same size and even the same time: but it lacks what came since."""
    for number in range(file_watch.COMMITS * 2):
        await world.accept(f"m{number}")
    await written_back(world)
    older, times = world.file.read_bytes(), world.file.stat()
    while world.file.read_bytes() == older:
        await world.accept("newer")
        await written_back(world)
    with world.file.open("r+b") as file:
        file.write(older)
    os.utime(world.file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(JournalUnavailable):
        await world.accept("refused")
    await wait_until(lambda: copies_of(world.file))
    assert any("newer" in text for text in texts_in(copies_of(world.file)[0]))


async def test_the_wal_shrinks_after_a_peak(world: SqliteWorld) -> None:
    """A reader of an older state lets it grow; without one it goes back to its usual size."""
    wal = world.file.with_name(world.file.name + "-wal")
    with contextlib.closing(sqlite3.connect(world.file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        while wal.stat().st_size < 2 * file_watch.WAL_BYTES:
            await world.accept("x" * 100_000)
        reader.execute("ROLLBACK")
    for number in range(3 * file_watch.COMMITS):
        await world.accept(f"m{number}")
    assert wal.stat().st_size <= file_watch.WAL_BYTES


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("disk I/O error"), OSError(5, "of the file system")]
)
async def test_no_answer_waits_until_the_wal_is_written_back(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What comes next does; and if that failed, it is refused, as the disk may be full."""
    monkeypatch.setattr(file_watch, "COMMITS_BETWEEN_LOOKS", 1)
    monkeypatch.setattr(file_watch, "COMMITS", 1)
    answered = threading.Event()

    def fail(watch: file_watch.FileWatch, connection: sqlite3.Connection, mode: str) -> bool:
        del watch, connection, mode
        assert answered.wait(60)
        raise error

    with monkeypatch.context() as failing:
        failing.setattr(file_watch.FileWatch, "_write_back", fail)
        await world.accept("answered")
        answered.set()
        with pytest.raises(JournalUnavailable):
            await world.accept("refused")
    await wait_until(lambda: world.journal.up)
    await world.accept("accepted again")


async def test_a_large_change_by_a_command_is_no_doubt(world: SqliteWorld) -> None:
    """What others of ours commit stays in the WAL until the owner writes it back."""
    await world.accept("before")
    with (
        structlog.testing.capture_logs() as logged,
        contextlib.closing(sqlite.connect(world.file)) as command,
    ):
        before = world.file.stat()
        for number in range(10):
            command.execute(
                "INSERT INTO sessions (digest, kind, name, viewer, created_at, expires_at) "
                "VALUES (?, 'link', hex(zeroblob(500000)), 0, 0, 0)",
                (number,),
            )
        assert world.file.stat() == before
        for number in range(2 * file_watch.COMMITS):
            await world.accept(f"m{number}")
        assert world.file.stat().st_size > before.st_size
    assert logged == []


async def test_a_command_that_empties_the_wal_is_no_doubt(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the owner has given its next state a number before it sees that of the command, or
    the command had none of its tries seen.
    """
    monkeypatch.setattr(file_watch, "COMMITS_BETWEEN_LOOKS", 1)
    monkeypatch.setattr(file_watch, "COMMITS", 1)
    with (
        structlog.testing.capture_logs() as logged,
        contextlib.closing(sqlite.connect(world.file)) as command,
    ):
        for number in range(20):
            await world.accept(f"m{number}")
            for _ in range(number % 3):
                await wait_until(lambda: sqlite.truncate_wal(command))
    assert logged == []
    assert world.journal.up


async def test_a_command_that_is_not_done_yet_is_no_doubt(world: SqliteWorld) -> None:
    """A reader keeps its state from being written whole; what it writes later is announced too."""
    with (
        structlog.testing.capture_logs() as logged,
        contextlib.closing(sqlite.connect(world.file)) as command,
        contextlib.closing(sqlite.connect(world.file)) as reader,
    ):
        for number in range(10):
            await world.accept(f"a{number}")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            await world.accept(f"b{number}")
            assert not sqlite.truncate_wal(command)
            await world.accept(f"c{number}")
            reader.execute("ROLLBACK")
            await wait_until(lambda: sqlite.truncate_wal(command))
    await world.accept("last")
    assert logged == []
    assert world.journal.up


async def test_no_table_is_forgotten_when_a_copy_is_restored(world: SqliteWorld) -> None:
    """Rows of each are taken into the copy, or it has what it needs of them."""
    with contextlib.closing(sqlite3.connect(world.file)) as journal:
        found = journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    by_itself = {"seen", "consents", "actions", "agents", "runs"}
    of_the_copy = {"schema", "tallies", "sessions", "unavailable_agents"}
    assert {name for (name,) in found} == set(restoring.TAKEN) | by_itself | of_the_copy


async def test_what_guards_count_is_kept_when_a_copy_is_restored(world: SqliteWorld) -> None:
    """Nobody is served more, nor is more spent in a day, because a copy was put in place."""
    budget = Budget(daily_cost=5.0, per_sender=(Rate(2, 86_400.0),), loops=False)
    thrifty = ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 9, {AGENT: budget})
    generous = replace(thrifty, budgets={AGENT: replace(budget, daily_cost=None)})

    async def run_once(cost: float) -> None:
        await world.accept(f"for {cost}")
        (entry,) = (await world.journal.claim([thrifty])).entries
        await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, cost=cost))
        world.clock.move(1)

    await run_once(1.0)
    copy = world.folder / "copy.db"
    with (
        contextlib.closing(sqlite3.connect(world.file)) as journal,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        journal.backup(target)
    await run_once(4.0)
    await world.journals.pop().close()
    restoring.restore_journal(world.file, copy, world.clock.now)
    await world.open()
    await world.accept("held")
    spent = await world.journal.claim([thrifty])
    assert (spent.entries, spent.holds[0].why) == (
        [],
        "its results of today cost 5, and its daily_cost is 5",
    )
    used_up = await world.journal.claim([generous])
    assert used_up.entries == []
    assert "ran for this person as often as" in used_up.holds[0].why
