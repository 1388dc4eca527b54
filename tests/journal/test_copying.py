"""Moving a journal from a file into PostgreSQL, or back: all of it, once, and it goes on there."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.errors import CannotStart, CannotStartNow, JournalUnavailable, NotFound
from berinia_webhookd.journal import copying
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.copying import copy_journal
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.show import Shown
from berinia_webhookd.model import ChannelName, EntryState, OptOut, Outcome, OutcomeKind

from ..postgresql import Postgresql
from ..proxy import Proxy
from .batches import a_batch, decode, decode_more, message
from .world import PostgresqlWorld, SqliteWorld, World, a_delivery, an_event

KEY = b"k" * 32
BURST = ["a", "thought", "in four", "messages"]
PEOPLE = [f"+336399820{number:02}" for number in range(30)]
BATCH = a_batch(
    *(message(one, f"of {one}") for one in PEOPLE), {"from": "+33639982099", "txt": "x"}
)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteWorld]:
    """A journal in a file, with a bit of everything, that nobody uses."""
    world = SqliteWorld(tmp_path / "file")
    await world.open()
    await live(world)
    await world.journals.pop().close()
    yield world
    for journal in world.journals:
        await journal.close()


@pytest.fixture
async def database(postgresql: Postgresql) -> AsyncIterator[PostgresqlWorld]:
    """An empty database."""
    world = PostgresqlWorld(postgresql, await postgresql.new_database())
    yield world
    for journal in world.journals:
        await journal.close()


async def live(world: World) -> None:
    """Entries in every state, a reply, deliveries that were rejected or have many events, digests
    of what is gone.
    """
    await world.accept_event(an_event("gone"), replay_key=KEY)
    await world.settle((await world.claim())[0])
    world.clock.move(31 * 86_400)
    await world.journal.purge()
    for number in range(40):
        await world.accept(f"done {number}", sender=f"+3363998{number:04d}")
    for entry in await world.claim():
        await world.settle(entry)
    event = an_event("\ud83d half", channel=ChannelName("whatsapp"), group="Support")
    await world.accept_event(event, wait_seconds=30)
    (entry,) = await world.claim()
    await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, reply="said"), late=True)
    await world.accept("failed")
    await world.fail((await world.claim())[0], retry_in=60)
    await world.accept("dead", sender="+33639981001")
    await world.settle((await world.claim())[0], state=EntryState.DEAD)
    await world.accept("first", sender="+33639981002")
    await world.accept("second", sender="+33639981002")
    refused = a_delivery(event)._replace(body=b"no form at all")
    await world.journal.reject(refused, {"kind": "MalformedDelivery"})
    await world.journal.accept(BATCH, decode(BATCH))
    await world.reopen(gathering_of=lambda _: Gathering(5, 30))
    for text in BURST:
        await world.accept(text, sender="+33639981004")
    world.clock.move(5)
    (burst,) = [entry for entry in await world.claim() if entry.members]
    await world.settle(burst, state=EntryState.DEAD)
    await world.reopen()


async def everything(url: str) -> tuple[list[Shown], list[object], list[object]]:
    async with Operations(url) as desk:
        shown = [one async for one in desk.export(Filters())]
        rejected: list[object] = [*await desk.list_events(Filters(state="rejected"))]
        counts: list[object] = [*sorted(map(str, (await desk.stats()).counts))]
    return shown, rejected, counts


async def test_all_of_it_arrives_and_goes_on_there(
    file: SqliteWorld, database: PostgresqlWorld
) -> None:
    """Events, entries, attempts, replies, bodies and digests; and the order goes on."""
    tables = await copy_journal(file.url, database.plain_url)
    assert all(table.complete for table in tables)
    assert {table.table: table.source for table in tables}["entries"] == 79
    assert await everything(database.plain_url) == await everything(file.url)
    database.clock = file.clock
    await database.open(database.plain_url)
    assert (await database.accept("done 7", sender="+33639980007")).duplicate
    await database.accept("third", sender="+33639981002")
    heard = []
    while entries := [e for e in await database.claim() if e.event.sender == "+33639981002"]:
        heard += [entry.event.body for entry in entries]
        await database.settle(entries[0])
    assert heard == ["first", "second", "third"]
    await database.accept("new", sender="+33639981003")
    assert len(await database.claim()) == 1
    async with Operations(database.plain_url, clock=database.clock) as desk:
        (one, *_) = await desk.list_events(Filters(sender="+33639981004"))
        await desk.replay([one.id], decode=decode)
    (burst,) = await database.claim()
    assert [message.event.body for message in burst.messages] == BURST


async def test_consents_arrive_there(file: SqliteWorld, database: PostgresqlWorld) -> None:
    """Those of erased people by their digests: the same key recognises them."""
    key, (anna, ben) = ConsentsKey("k" * 32), PEOPLE[:2]
    await file.open(consents_key=key)
    for sender in (anna, ben):
        await file.accept(sender=sender, opt_out=OptOut.STOP)
    async with Operations(file.url, key=key) as desk:
        await desk.erase(anna)
        before = [one async for one in desk.export_consents()]
    await file.journals.pop().close()
    await copy_journal(file.url, database.plain_url)
    async with Operations(database.plain_url, key=key) as desk:
        after = [one async for one in desk.export_consents()]
        (found,) = await desk.consents_of(anna)
    assert sorted(map(str, after)) == sorted(map(str, before))
    assert {one.address for one in after} == {None, ben}
    assert found.state == "opted_out"


async def test_what_was_seen_or_rejected_is_known_there(
    file: SqliteWorld, database: PostgresqlWorld
) -> None:
    """Digests and signatures of what is gone, and a delivery of many events, one item rejected."""
    await copy_journal(file.url, database.plain_url)
    database.clock = file.clock
    await database.open(database.plain_url)
    assert (await database.accept("gone")).duplicate
    with pytest.raises(ReplayedSignature):
        await database.accept_event(an_event("another"), replay_key=KEY)
    again = await database.journal.accept(BATCH, decode_more(BATCH))
    assert [one.duplicate for one in again] == [True] * 30 + [False]
    async with Operations(database.plain_url) as desk:
        (changed,) = [
            one
            for one in await desk.replay_matching(Filters("rejected"), decode=decode_more)
            if one.event_id is not None
        ]
    assert changed.refused == f"it was received again as {again[-1].event_id}"


async def test_it_goes_back_as_well(
    file: SqliteWorld, database: PostgresqlWorld, tmp_path: Path
) -> None:
    """From PostgreSQL into a file nobody had."""
    await copy_journal(file.url, database.plain_url)
    back = f"sqlite:///{tmp_path / 'back' / 'journal.db'}"
    tables = await copy_journal(database.plain_url, back)
    assert all(table.complete for table in tables)
    assert await everything(back) == await everything(file.url)


async def test_a_copy_that_was_broken_off_goes_on(
    file: SqliteWorld, database: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the connection broke, the same command completes it; again, it copies nothing."""
    monkeypatch.setattr(copying, "PAGE_ROWS", 7)
    monkeypatch.setattr(copying, "PAGE_BYTES", 300)
    moved: list[str] = []
    for table in ("deliveries", "events", "entries"):
        proxy = Proxy(database.server.socket_folder / ".s.PGSQL.5432")
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database.database}?sslmode=disable"
        insertion = f"INSERT INTO {table}".encode()
        proxy.cut_after(insertion, b"COMMIT", b"COMMIT")
        try:
            with pytest.raises(JournalUnavailable):
                await copy_journal(file.url, url, progress=lambda name, _: moved.append(name))
            assert proxy.cuts == 1
        finally:
            proxy.close()
    tables = await copy_journal(
        file.url, database.plain_url, progress=lambda name, _: moved.append(name)
    )
    assert all(table.complete for table in tables)
    assert await everything(database.plain_url) == await everything(file.url)
    assert moved.count("deliveries") == 8
    moved.clear()
    await copy_journal(file.url, database.plain_url, progress=lambda name, _: moved.append(name))
    assert moved == []


async def test_two_journals_are_never_mixed(file: SqliteWorld, database: PostgresqlWorld) -> None:
    """A target that holds anything else is refused, and nothing is written."""
    await database.open(database.plain_url)
    await database.accept("its own")
    await database.journals.pop().close()
    before = await everything(database.plain_url)
    with pytest.raises(CannotStart, match="a journal of its own"):
        await copy_journal(file.url, database.plain_url)
    assert await everything(database.plain_url) == before


@pytest.mark.parametrize("used", ["file", "database"])
async def test_a_journal_in_use_is_not_copied(
    file: SqliteWorld, database: PostgresqlWorld, used: str
) -> None:
    """What is written meanwhile would be missing."""
    if used == "file":
        await file.open()
    else:
        await database.open(database.plain_url)
    with pytest.raises(CannotStartNow):
        await copy_journal(file.url, database.plain_url)


async def test_a_dry_run_makes_nothing(
    file: SqliteWorld, database: PostgresqlWorld, tmp_path: Path
) -> None:
    """It counts, on both sides where there are two."""
    for target in (database.plain_url, f"sqlite:///{tmp_path / 'none.db'}"):
        tables = await copy_journal(file.url, target, dry_run=True)
        assert {(t.table, t.source, t.target) for t in tables} > {
            ("entries", 79, 0),
            ("seen", 2, 0),
        }
    assert not (tmp_path / "none.db").exists()
    assert await database.execute("SELECT to_regnamespace('berinia_webhookd')::text") == [(None,)]


async def test_there_must_be_something_to_copy(database: PostgresqlWorld, tmp_path: Path) -> None:
    """Neither a file that is not there nor an empty database is a journal."""
    for source in (f"sqlite:///{tmp_path / 'none.db'}", database.plain_url):
        with pytest.raises(NotFound):
            await copy_journal(source, f"sqlite:///{tmp_path / 'new.db'}")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.usefixtures("file")
def test_no_table_is_forgotten(tmp_path: Path) -> None:
    """All are copied but those that are made anew."""
    with closing(sqlite3.connect(tmp_path / "file" / "journal.db")) as journal:
        found = journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    tables = {name for (name,) in found if not name.startswith("sqlite_")}
    anew = {"schema", "tallies", "unavailable_agents", "sessions"}
    assert {table.name for table in copying.TABLES} == tables - anew
