"""PostgreSQL away, cut off, silent or full: nothing is said to be kept that is not, and all comes
back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import structlog

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.errors import CannotStart, JournalUnavailable
from berinia_webhookd.journal import postgresql as limits
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import Entry, EventId

from ..proxy import Proxy
from .world import ENDED, PostgresqlWorld, on_postgresql

pytestmark = on_postgresql


@pytest.fixture
def proxy(closed_world: PostgresqlWorld) -> Iterator[Proxy]:
    proxy = Proxy(closed_world.server.socket_folder / ".s.PGSQL.5432")
    yield proxy
    proxy.close()


@pytest.fixture
async def behind(closed_world: PostgresqlWorld, proxy: Proxy) -> PostgresqlWorld:
    """An open journal whose connections go through the proxy."""
    await closed_world.open(closed_world.url_by(proxy))
    return closed_world


async def claim_when_up(world: PostgresqlWorld) -> Sequence[Entry]:
    """What there is to claim, once the journal can be reached again."""
    async with asyncio.timeout(90):
        while True:
            try:
                return await world.claim()
            except JournalUnavailable:
                await world.journal.wait_for_work(None)


def journal_events(logged: Sequence[object]) -> list[object]:
    events = [line["event"] for line in logged if isinstance(line, dict)]
    return [event for event in events if str(event).startswith("journal.")]


async def test_a_database_that_is_away_at_the_start_is_waited_for(
    closed_world: PostgresqlWorld, proxy: Proxy
) -> None:
    """The process starts, refuses what it cannot keep, makes the schema, and works."""
    empty = await closed_world.server.new_database()
    proxy.shut()
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{empty}?sslmode=disable"
    journal = await closed_world.open(url)
    assert not journal.up
    with pytest.raises(JournalUnavailable):
        await closed_world.accept("too early")
    proxy.flow()
    assert await claim_when_up(closed_world) == []
    await closed_world.accept("in time")
    assert [entry.event.body for entry in await closed_world.claim()] == ["in time"]


@pytest.mark.parametrize("way", ["cut", "restart"])
async def test_what_was_accepted_survives(behind: PostgresqlWorld, proxy: Proxy, way: str) -> None:
    """Connections that break, and a server that crashes, cost no event that was answered."""
    kept: set[EventId] = set()
    stop, more = asyncio.Event(), asyncio.Event()

    async def receive(number: int) -> None:
        while not stop.is_set():
            try:
                receipt = await behind.accept(sender=f"+33639980{number:03d}")
                kept.add(receipt.event_id)
                more.set()
            except JournalUnavailable:
                # Callers come back a little later; at once, they would keep the proxy's thread
                # from its turn.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await stop.wait()

    async def disturb() -> None:
        for _ in range(3):
            before = len(kept)
            if way == "cut":
                proxy.cut()
            else:
                await asyncio.to_thread(behind.server.crash)
                await asyncio.to_thread(behind.server.start)
            while len(kept) < before + 50:
                more.clear()
                await more.wait()
        stop.set()

    with structlog.testing.capture_logs() as logged:
        await asyncio.gather(disturb(), *(receive(number) for number in range(10)))
        await claim_when_up(behind)  # what went down last has come back as well
    stored = {row["id"] for row in await behind.execute("SELECT id FROM events")}
    assert kept <= stored
    said = journal_events(logged)
    assert said == ["journal.degraded", "journal.recovered"] * (len(said) // 2)
    assert said


async def test_a_connection_that_says_nothing_is_given_up(
    closed_world: PostgresqlWorld, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for ever, for any connection; when bytes move again, so does everything."""
    await closed_world.open(closed_world.url_by(proxy))
    await closed_world.accept("before")
    await asyncio.gather(*(closed_world.journal.backlog() for _ in range(9)))
    proxy.stall()
    with pytest.raises(JournalUnavailable):
        await closed_world.accept("meanwhile")
    assert not closed_world.journal.up
    proxy.flow()
    assert [entry.event.body for entry in await claim_when_up(closed_world)] == ["before"]
    await closed_world.accept("after", sender="+33639980002")
    assert len(await closed_world.claim()) == 1
    assert caplog.records == []


async def test_a_server_that_says_goodbye_on_idle_connections(
    behind: PostgresqlWorld, proxy: Proxy
) -> None:
    """Its last word may arrive well before the end of the connection."""
    await behind.accept("before")
    await behind.journal.backlog()
    proxy.hold_ends()
    await behind.execute(ENDED)
    async with asyncio.timeout(90):
        while proxy.ends_held < len(("reader", "writer", "listener")):
            await behind.execute("SELECT 1")  # and whoever waits reads what has come meanwhile
    await behind.execute("SELECT 1")
    with pytest.raises(JournalUnavailable):
        await behind.journal.backlog()
    with pytest.raises(JournalUnavailable):
        await behind.accept("meanwhile")
    proxy.pass_ends()
    assert [entry.event.body for entry in await claim_when_up(behind)] == ["before"]


async def test_an_event_whose_receipt_is_lost_is_not_kept_twice(
    behind: PostgresqlWorld, proxy: Proxy
) -> None:
    """The commit came through and its answer did not: the provider's retry is a repetition."""
    proxy.cut_after(b"INSERT INTO deliveries", b"COMMIT")
    with pytest.raises(JournalUnavailable):
        await behind.accept("once")
    await claim_when_up(behind)
    assert proxy.cuts == 1
    assert (await behind.accept("once")).duplicate


async def test_a_claim_whose_answer_is_lost_costs_nothing(
    behind: PostgresqlWorld, proxy: Proxy
) -> None:
    """Nobody works on such an entry, so it is given back at once, and not as a loss."""
    await behind.accept("one")
    proxy.cut_after(b"UPDATE entries SET state = 'running'", b"COMMIT")
    with pytest.raises(JournalUnavailable):
        await behind.claim()
    assert proxy.cuts == 1
    assert await claim_when_up(behind) == []
    assert await behind.states() == {"running": 1}
    await behind.journal.recover()
    (entry,) = await behind.claim()
    assert (entry.event.body, entry.attempt) == ("one", 1)
    await behind.journal.recover()
    assert (await behind.settle(entry)).kept


async def test_a_burst_whose_claim_is_not_answered_is_put_together_anew(
    behind: PostgresqlWorld, proxy: Proxy
) -> None:
    """Nobody has seen it: what came since comes with it."""
    await behind.journals.pop().close()
    await behind.open(behind.url_by(proxy), gathering_of=lambda _: Gathering(5, 30))
    await behind.accept("one")
    await behind.accept("two")
    behind.clock.move(5)
    proxy.cut_after(b"UPDATE entries SET state = 'running'", b"COMMIT")
    with pytest.raises(JournalUnavailable):
        await behind.claim()
    assert await claim_when_up(behind) == []
    assert await behind.states() == {"running": 2}
    await behind.accept("three")
    await behind.journal.recover()
    assert await behind.states() == {"ready": 3}
    behind.clock.move(5)
    (entry,) = await behind.claim()
    assert (entry.text, entry.attempt) == ("one\ntwo\nthree", 1)


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$
"""


async def test_a_full_disk_is_said_and_recovered_from(world: PostgresqlWorld) -> None:
    """What cannot be written is refused for everybody, until there is room."""
    await world.accept("before")
    await world.execute(FULL)
    await world.execute(
        "CREATE TRIGGER full_disk BEFORE INSERT ON deliveries EXECUTE FUNCTION full_disk()"
    )
    with structlog.testing.capture_logs() as logged:
        with pytest.raises(JournalUnavailable):
            await world.accept("during")
        assert not world.journal.up
        await world.execute("DROP FUNCTION full_disk() CASCADE")
        assert len(await claim_when_up(world)) == 1
    assert journal_events(logged) == ["journal.degraded", "journal.recovered"]
    assert "could not extend file" in str(logged[0]["error"])
    await world.accept("after")


BROKEN = """
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'invalid page in block 7' USING ERRCODE = 'XX001'; END $$
"""


async def test_what_can_never_be_written_keeps_nothing_else_out(world: PostgresqlWorld) -> None:
    """One event that meets a broken place on the server's disk is refused, and others are kept."""
    await world.execute(BROKEN)
    await world.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON events FOR EACH ROW WHEN (new.data LIKE '%never%')"
        " EXECUTE FUNCTION broken()"
    )
    try:
        with structlog.testing.capture_logs() as logged:
            with pytest.raises(JournalUnavailable):
                await world.accept("never")
            assert await claim_when_up(world) == []
            await world.accept("after")
    finally:
        await world.execute("DROP FUNCTION broken() CASCADE")
    assert journal_events(logged) == ["journal.degraded", "journal.recovered"]
    assert await world.states() == {"ready": 1}


async def test_a_lock_that_somebody_keeps_is_not_waited_for(
    closed_world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that an operator locked makes 503s, not silence."""
    monkeypatch.setattr(limits, "LOCK_SECONDS", 0.2)
    await closed_world.open()
    await closed_world.accept("before")
    async with closed_world.connected() as operator:
        async with operator.transaction():
            await operator.execute("LOCK TABLE entries")
            with pytest.raises(JournalUnavailable):
                await closed_world.accept("during")
        assert len(await claim_when_up(closed_world)) == 1


async def shown(transaction: Any) -> list[str]:
    """Settings as they are in force in a transaction of the journal."""
    names = ("synchronous_commit", "transaction_isolation", "lock_timeout")
    return [await transaction._connection.fetchval(f"SHOW {name}") for name in names]


async def test_settings_of_the_database_do_not_weaken_a_commit(
    closed_world: PostgresqlWorld,
) -> None:
    """A commit that returned is on disk, whatever the database's own defaults say."""
    name = closed_world.database
    for setting in ("synchronous_commit = off", "default_transaction_isolation = serializable"):
        await closed_world.execute(f"ALTER DATABASE {name} SET {setting}")
    journal = await closed_world.open()
    async with closed_world.connected() as connection:
        weak = await connection.fetchval("SHOW synchronous_commit")
    found = await journal._database.read(shown)
    await closed_world.execute(f"ALTER DATABASE {name} RESET ALL")
    assert weak == "off"
    assert found == ["on", "read committed", f"{limits.LOCK_SECONDS}s"]


async def test_a_process_has_so_many_connections_and_no_more(
    closed_world: PostgresqlWorld,
) -> None:
    """However much is read and written at once."""
    journal = await closed_world.open(pool_size=3)
    receipts = await asyncio.gather(*(closed_world.accept(f"m{n}") for n in range(50)))
    most = 0
    reads = [journal.delivery_of(receipt.event_id) for receipt in receipts]
    for reading in asyncio.as_completed([*reads, *(journal.backlog() for _ in range(50))]):
        await reading
        rows = await closed_world.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'berinia-webhookd'"
        )
        most = max(most, rows[0][0])
    assert most == 3


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (("/test", "/nothing_here_"), "make the database"),
        (("postgres@", "stranger@"), "see the user"),
        (("sslmode=disable", "sslmode=nonsense"), "see the options"),
    ],
)
async def test_being_refused_is_no_reason_to_wait(
    closed_world: PostgresqlWorld, proxy: Proxy, change: tuple[str, str], hint: str
) -> None:
    """What only an operator can mend ends the start, with what to do and without the password."""
    url = closed_world.url_by(proxy).replace(*change).replace("@", ":geheim@")
    journal = SqlJournal(url, node="here", clock=closed_world.clock)
    with pytest.raises(CannotStart) as refused:
        await journal.open()
    assert refused.value.hint is not None
    assert hint in refused.value.hint
    assert "geheim" not in str(refused.value)


async def test_no_password_is_ever_said(closed_world: PostgresqlWorld, proxy: Proxy) -> None:
    """Neither by the log of a journal that is away, nor to an operator who asks for it."""
    url = closed_world.url_by(proxy).replace("postgres@", "postgres:geheim@")
    proxy.shut()
    with structlog.testing.capture_logs() as logged:
        await closed_world.open(url)
    assert journal_events(logged) == ["journal.degraded"]
    with pytest.raises(JournalUnavailable) as away:
        await Operations(url).__aenter__()
    assert "geheim" not in repr(logged) + str(away.value) + repr(away.value.__cause__)
