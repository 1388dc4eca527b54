"""Group commit: many in one transaction, nobody waits for another's mistake, failures are said."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from berinia_webhookd.errors import (
    CannotStart,
    CannotStartNow,
    JournalUnavailable,
)
from berinia_webhookd.journal import accept, group_commit, sqlite, steps
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import ChannelName, EntryState, Outcome, OutcomeKind

from .world import SqliteWorld, World, an_event, on_sqlite


async def accept_until_refused(world: World, size: int) -> None:
    """Fill the journal until it cannot be written any more."""
    for number in range(100_000):
        try:
            await world.accept(f"{number}" + "x" * size)
        except JournalUnavailable:
            return
    raise AssertionError("the journal took everything")


async def wait_until_up(world: World) -> None:
    """Claiming forgets old news, so the next news is that the journal is back."""
    with pytest.raises(JournalUnavailable):
        await world.claim()
    await world.journal.wait_for_work(None)


async def test_what_arrives_together_is_one_transaction(closed_world: World) -> None:
    """A burst costs few commits, whatever its size."""
    metrics = Metrics()
    await closed_world.open(metrics=metrics)
    await asyncio.gather(*(closed_world.accept(f"m{n}") for n in range(200)))
    commits = metrics.registry.get_sample_value("berinia_webhookd_commit_batch_size_count")
    items = metrics.registry.get_sample_value("berinia_webhookd_commit_batch_size_sum")
    assert commits is not None
    assert commits < 10
    assert items in {200, 201}  # giving back at start is one, where it is done
    assert metrics.registry.get_sample_value("berinia_webhookd_journal_up") == 1


async def test_an_item_that_cannot_be_stored_fails_alone(world: World) -> None:
    """The others of its batch are committed as if it had not come; the log holds no data."""
    poison = an_event("secret text")._replace(channel=ChannelName("\ud800"))
    with structlog.testing.capture_logs() as logged:
        results = await asyncio.gather(
            world.accept("one"),
            world.accept_event(poison),
            world.accept("two", sender="+33639980002"),
            return_exceptions=True,
        )
    assert isinstance(results[1], JournalUnavailable)
    assert await world.claim_bodies() == ["one", "two"]
    (line,) = [line for line in logged if line["event"] == "journal.item_refused"]
    assert "secret" not in repr(logged)
    assert line["step"] == "accept"
    assert world.journal.up


async def test_a_settlement_that_cannot_be_stored_fails_alone(world: World) -> None:
    """The same holds for the dispatcher's side."""
    await world.accept("one")
    await world.accept("two", sender="+33639980002")
    one, two = await world.claim()
    results = await asyncio.gather(
        world.settle(one, retries=2**70), world.settle(two), return_exceptions=True
    )
    assert isinstance(results[0], JournalUnavailable)
    assert await world.states() == {"done": 1, "running": 1}


@on_sqlite
async def test_a_caller_that_gives_up_takes_nothing_back(world: SqliteWorld) -> None:
    """A commit that another writer delays is kept, although its caller has left."""
    other = sqlite3.connect(world.file, isolation_level=None, check_same_thread=False)
    await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
    accepting = asyncio.create_task(world.accept("late"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(accepting, 0.1)
    other.execute("ROLLBACK")
    other.close()
    await world.journal.wait_for_work(None)
    assert await world.claim_bodies() == ["late"]


async def test_a_full_queue_refuses_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not keep up says so, rather than growing; what was queued is committed."""
    monkeypatch.setattr(group_commit, "QUEUE_ITEMS", 3)
    monkeypatch.setattr(group_commit, "QUEUE_BYTES", 10_000)
    results = await asyncio.gather(
        *(world.accept(f"m{n}") for n in range(5)), return_exceptions=True
    )
    assert [isinstance(result, JournalUnavailable) for result in results] == [False] * 3 + [
        True
    ] * 2
    with pytest.raises(JournalUnavailable):
        await world.accept("x" * 10_000)
    assert (await world.accept("small")).duplicate is False


async def test_a_large_body_waits_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large mail is a transaction of its own, in turn with the small ones."""
    sizes: list[int] = []

    async def note_and_accept(transaction: Any, arrivals: Any) -> Any:
        sizes.append(len(arrivals))
        return await accept.accept(transaction, arrivals)

    monkeypatch.setattr(steps, "ACCEPT", replace(steps.ACCEPT, apply=note_and_accept))
    big = [an_event(f"{n}" + "x" * 300_000) for n in range(3)]
    await asyncio.gather(
        *(world.accept_event(e) for e in big),
        *(world.accept(f"m{n}") for n in range(20)),
    )
    assert sorted(sizes) == [1, 1, 1, 20]
    assert 20 in sizes[:2]


async def test_what_is_on_its_way_joins_the_commit_after_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While messages come, a commit begins when the loop has no more of them at hand."""
    sizes: list[int] = []

    async def note_and_accept(transaction: Any, arrivals: Any) -> Any:
        sizes.append(len(arrivals))
        return await accept.accept(transaction, arrivals)

    monkeypatch.setattr(steps, "ACCEPT", replace(steps.ACCEPT, apply=note_and_accept))
    monkeypatch.setattr(group_commit, "BUSY_SECONDS", math.inf)
    monkeypatch.setattr(group_commit, "JOIN_SECONDS", math.inf)
    accepting = []
    for n in range(10):
        accepting.append(asyncio.ensure_future(world.accept(f"m{n}")))
        await asyncio.sleep(0)
    await asyncio.gather(*accepting)
    assert sizes == [10]


async def test_what_comes_after_a_pause_waits_for_nothing_to_join(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed at once, where waiting would have no end."""
    monkeypatch.setattr(group_commit, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(group_commit, "JOIN_SECONDS", math.inf)
    monkeypatch.setattr(group_commit, "EMPTY_TURNS", math.inf)
    async with asyncio.timeout(60):
        assert not (await world.accept("alone")).duplicate


@on_sqlite
async def test_a_full_disk_is_said_and_recovered_from(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No receipt without the disk; once there is room again, everything works by itself."""
    await world.accept("before")
    roomy = sqlite.PRAGMAS
    monkeypatch.setattr(sqlite, "PRAGMAS", (*roomy, "PRAGMA max_page_count = 100"))
    await world.reopen()
    with structlog.testing.capture_logs() as logged:
        await accept_until_refused(world, 5000)
        assert not world.journal.up
        with pytest.raises(JournalUnavailable):
            await world.accept("refused at once")
        monkeypatch.setattr(sqlite, "PRAGMAS", roomy)
        await wait_until_up(world)
    await world.accept("after")
    said = [line["event"] for line in logged if line["event"].startswith("journal.")]
    assert said == ["journal.degraded", "journal.recovered"]
    with sqlite3.connect(world.file) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()


@on_sqlite
async def test_a_file_that_is_removed_is_noticed(world: SqliteWorld) -> None:
    """Nothing is written into a file that nobody will ever see again for long."""
    await world.accept("one")
    kept = world.file.with_name("kept.db")
    with structlog.testing.capture_logs() as logged:
        world.file.rename(kept)
        await accept_until_refused(world, 10)
        kept.rename(world.file)
        await wait_until_up(world)
    await world.accept("three")
    said = [line["event"] for line in logged if line["event"].startswith("journal.")]
    assert said == ["journal.degraded", "journal.recovered"]


@on_sqlite
@pytest.mark.parametrize("end", ["-wal", "-shm"])
async def test_a_wal_that_is_removed_costs_nothing(world: SqliteWorld, end: str) -> None:
    """The latest commits are in it alone: they are saved, and others see them again."""
    await world.accept("one")
    with structlog.testing.capture_logs() as logged:
        world.file.with_name(world.file.name + end).unlink()
        async with asyncio.timeout(90):
            # Nothing but the log says so.
            while not any("recovered" in line["event"] for line in logged):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await world.accept("two")
    with contextlib.closing(sqlite3.connect(world.file)) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (2,)
    degraded = next(line for line in logged if line["event"] == "journal.degraded")
    assert end in degraded["error"]


async def test_closing_commits_what_is_queued(world: World) -> None:
    """Whoever asked before the end gets an answer that is true."""
    accepting = [asyncio.create_task(world.accept(f"m{n}")) for n in range(50)]
    await asyncio.sleep(0)
    await world.journal.close()
    receipts = await asyncio.gather(*accepting, return_exceptions=True)
    stored = sum(not isinstance(receipt, BaseException) for receipt in receipts)
    with pytest.raises(JournalUnavailable):
        await world.accept("too late")
    world.journals.clear()
    await world.open()
    assert await world.states() == {"ready": stored}
    assert stored == 50


@on_sqlite
async def test_who_writes_closes_the_file_last(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections that close at the same time each leave the WAL to the other."""
    steps: list[tuple[str, sqlite.ConnectionThread]] = []
    close = sqlite.ConnectionThread.close

    async def watched(connection: sqlite.ConnectionThread) -> bool:
        steps.append(("closes", connection))
        closed = await close(connection)
        steps.append(("closed", connection))
        return closed

    await world.accept("one")
    await asyncio.gather(*(world.journal.backlog() for _ in range(4)))
    monkeypatch.setattr(sqlite.ConnectionThread, "close", watched)
    await world.journals.pop().close()
    (begins, last), ends = steps[-2:]
    assert (begins, ends) == ("closes", ("closed", last))
    readers = {connection for _, connection in steps[:-2]}
    assert len(readers) == 4
    assert last not in readers
    assert not world.file.with_name(world.file.name + "-wal").exists()


@on_sqlite
async def test_the_file_is_nobody_elses(closed_world: SqliteWorld, tmp_path: Path) -> None:
    """Journal, WAL and index are readable by their owner only, the folder too."""
    closed_world.folder = tmp_path / "state" / "deeper"
    umask = os.umask(0)
    try:
        await closed_world.open()
        await closed_world.accept("one")
        modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in closed_world.folder.iterdir()}
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)
    assert stat.S_IMODE(closed_world.folder.stat().st_mode) == 0o700


@on_sqlite
async def test_a_second_owner_is_refused(world: SqliteWorld) -> None:
    """The message names who holds the journal."""
    second = SqlJournal(world.url, node="second", clock=world.clock)
    with pytest.raises(CannotStartNow, match=rf"process {os.getpid()}$"):
        await second.open()
    await second.close()
    await world.accept("still ours")
    await world.reopen()


@on_sqlite
async def test_a_file_that_is_no_journal_is_refused(closed_world: SqliteWorld) -> None:
    """Neither overwritten nor crashed on."""
    closed_world.file.write_bytes(b"no database at all, but long enough to be looked at" * 99)
    journal = SqlJournal(closed_world.url, node="here", clock=closed_world.clock)
    with pytest.raises(CannotStart, match="cannot be opened"):
        await journal.open()
    assert closed_world.file.read_bytes().startswith(b"no database")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y", "nonsense"])
async def test_other_urls_are_refused(closed_world: World, url: str) -> None:
    """A journal is a file, or PostgreSQL."""
    with pytest.raises(CannotStart, match=r"journal\.url"):
        SqlJournal(url, node="here", clock=closed_world.clock)


@on_sqlite
async def test_every_commit_is_flushed(world: SqliteWorld) -> None:
    """The settings that durability and erasure rest on are in force."""
    connection = sqlite.connect(world.file)
    pragmas = ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    connection.close()
    assert found == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}


async def test_what_is_settled_together_is_one_transaction(closed_world: World) -> None:
    """So is every other step: none of its statements fails for being given many rows."""
    metrics = Metrics()
    await closed_world.open(metrics=metrics)
    senders = [f"+3363998{number:04d}" for number in range(100)]

    async def commits() -> float:
        return metrics.registry.get_sample_value("berinia_webhookd_commit_batch_size_count") or 0.0

    await asyncio.gather(
        *(closed_world.accept_event(an_event(sender=s), wait_seconds=30) for s in senders)
    )
    await asyncio.gather(*(closed_world.accept(sender=sender) for sender in senders))
    before = await commits()
    said = Outcome(OutcomeKind.SUCCESS, reply="said")
    answered = Outcome(OutcomeKind.ERROR, reply="say it again")  # else the breaker lets one pass
    for outcome, changes in (
        (answered, {"state": EntryState.WAITING, "due_in_seconds": 1}),
        (said, {}),
        (said, {"late": True}),
    ):
        entries = await closed_world.claim()
        assert len(entries) == len(senders)
        settled = (closed_world.settle(entry, outcome=outcome, **changes) for entry in entries)
        await asyncio.gather(*settled)
        closed_world.clock.move(60)
    assert await commits() <= before + 3 * 4
    assert await closed_world.states() == {"done": 200, "ready": 100}


@on_sqlite
@pytest.mark.parametrize("known", [True, False])
async def test_a_commit_of_one_event_writes_few_pages(world: SqliteWorld, known: bool) -> None:
    """What a commit costs beside its flush is what it writes: a page for each table and index that
    an event is in, and a few for those that grow.
    """

    async def accept(numbers: range, senders: int) -> None:
        for number in numbers:
            sender = f"+336399{number % senders:05d}"
            await world.accept(f"{number}", sender=sender)

    await asyncio.gather(*(accept(range(n, n + 20), 2000) for n in range(0, 1000, 20)))
    assert await world.journal._database.truncate_wal()
    await accept(range(1000, 1050), 1000 if known else 2000)
    pages = world.file.with_name("journal.db-wal").stat().st_size / (4096 + 24) / 50
    assert 8 < pages <= 12.5
