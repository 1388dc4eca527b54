"""Several processes with one journal: each event once, each entry to one of them, in order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import structlog

from berinia_webhookd.journal import notifications, postgresql
from berinia_webhookd.journal.contract import Budget, ClaimRequest, Reply, ReplyRoute
from berinia_webhookd.journal.database import EVERYTHING, Changes, Transaction
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import (
    ChannelName,
    Decoded,
    EntryKind,
    EntryState,
    EventId,
    Outcome,
    OutcomeKind,
    Receipt,
)

from .world import AGENT, LEASE_SECONDS, PostgresqlWorld, a_delivery, an_event, on_postgresql

pytestmark = on_postgresql

QUICK = {AGENT: Budget(loops=False)}  # these senders answer at once, and are no machines
REQUESTS = [ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 5, QUICK)]
ALL = [ClaimRequest(EntryKind.AGENT, frozenset({AGENT}), 100, QUICK)]


@pytest.fixture
async def other(world: PostgresqlWorld) -> SqlJournal:
    """A second process, on another node."""
    journal = await world.open(node="there")
    world.journals.insert(0, world.journals.pop())  # `world.journal` stays the first one
    return journal


async def accept(journal: SqlJournal, text: str, **changes: str) -> Receipt:
    (receipt,) = await journal.accept(
        a_delivery(event := an_event(text, **changes)), Decoded((event,))
    )
    return receipt


async def test_an_event_that_comes_to_both_is_kept_once(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """However close together: both answer with the same id, and one entry is made."""
    texts = [f"m{n % 40}" for n in range(200)]
    both = [accept((world.journal, other)[n % 2], text) for n, text in enumerate(texts)]
    receipts = await asyncio.gather(*both, *(accept(other, text) for text in texts))
    ids = defaultdict(set)
    for text, receipt in zip(texts * 2, receipts, strict=True):
        ids[text].add(receipt.event_id)
    assert {len(found) for found in ids.values()} == {1}
    assert [receipt.duplicate for receipt in receipts].count(False) == 40
    assert await world.states() == {"ready": 40}


async def test_what_comes_to_both_at_once_shares_a_conversation(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """A sender who is new to two nodes at one moment gets one line, not two."""
    for number in range(10):
        sender = f"+3363998{number:04d}"
        await asyncio.gather(
            accept(world.journal, f"a{number}", sender=sender),
            accept(other, f"b{number}", sender=sender),
        )
    assert len(await world.claim()) == 10


async def test_each_entry_has_one_claimer(world: PostgresqlWorld, other: SqlJournal) -> None:
    """Two dispatchers that claim at the same time share what there is."""
    for number in range(60):
        await world.accept(sender=f"+3363998{number:04d}")
    claims = await asyncio.gather(
        *(journal.claim(REQUESTS) for journal in (world.journal, other) * 6)
    )
    ids = [entry.id for claimed in claims for entry in claimed.entries]
    assert len(ids) == len(set(ids)) == 60


async def dispatch(
    world: PostgresqlWorld, journal: SqlJournal, seen: dict[str, list[str]], left: list[int]
) -> None:
    """Claim and settle until everything has been seen."""
    while left[0]:
        claimed = await journal.claim(REQUESTS)
        for entry in claimed.entries:
            seen[entry.event.sender].append(entry.event.body)
            await asyncio.sleep(0)
        for entry in claimed.entries:
            assert (await world.settle(entry, journal)).kept
            left[0] -= 1
        if not claimed.entries and left[0]:
            await journal.wait_for_work(1)


async def test_order_holds_across_dispatchers(world: PostgresqlWorld, other: SqlJournal) -> None:
    """While both nodes receive and both dispatch, each conversation is heard in its order."""
    seen: dict[str, list[str]] = defaultdict(list)
    senders = [f"+3363998{number:04d}" for number in range(6)]

    async def talk(sender: str) -> None:
        for number in range(15):
            await accept((world.journal, other)[number % 2], f"{number:02d}", sender=sender)

    left = [15 * len(senders)]
    await asyncio.gather(
        *map(talk, senders),
        dispatch(world, world.journal, seen, left),
        dispatch(world, other, seen, left),
    )
    assert seen == {sender: [f"{n:02d}" for n in range(15)] for sender in senders}
    assert await world.states() == {"done": 90}


async def test_an_outcome_here_and_an_arrival_there_leave_nothing_standing(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """Two transactions that change one line at one moment see each other."""
    senders = [f"+3363998{number:04d}" for number in range(30)]
    await asyncio.gather(*(world.accept("0", sender=sender) for sender in senders))
    for number in range(1, 16):
        entries = (await world.journal.claim(ALL)).entries
        assert len(entries) == len(senders)
        await asyncio.gather(
            *(world.settle(entry) for entry in entries),
            *(accept(other, f"{number}", sender=sender) for sender in senders),
        )


async def test_a_dead_nodes_work_is_taken_over(world: PostgresqlWorld, other: SqlJournal) -> None:
    """After its lease, and as a loss; what it says later is not recorded any more."""
    await world.accept("one")
    (entry,) = await world.claim()
    world.clock.move(LEASE_SECONDS - 1)
    assert await other.recover() == 0
    world.clock.move(2)
    assert await other.recover() == 1
    (again,) = (await other.claim(REQUESTS)).entries
    assert (again.id, again.attempt, again.retries) == (entry.id, 2, 0)
    assert not (await world.settle(entry)).kept
    assert list(await world.journal.renew([entry])) == [entry]
    assert (await world.settle(again, other)).kept
    async with Operations(world.url, clock=world.clock) as desk:
        shown = await desk.show(entry.event_id)
    tries = [(tried.number, tried.node, tried.outcome) for tried in shown.entries[0].attempts]
    assert tries == [(1, "here", "lost"), (2, "there", "success")]
    assert shown.node == "here"


async def test_a_renewed_lease_is_not_taken_over(world: PostgresqlWorld, other: SqlJournal) -> None:
    """Attempts may take as long as they like while their node lives."""
    await world.accept("one")
    (entry,) = await world.claim()
    for _ in range(5):
        world.clock.move(LEASE_SECONDS / 3)
        assert list(await world.journal.renew([entry])) == []
        assert await other.recover() == 0
    assert (await world.settle(entry)).kept


async def test_whoever_comes_back_waits_for_the_others(world: PostgresqlWorld) -> None:
    """After an outage every lease is over; their holders get the time to renew them."""
    await world.accept("one")
    (entry,) = await world.claim()
    world.clock.move(3600)
    newcomer = await world.open(node="there")
    world.journals.reverse()
    assert await newcomer.recover() == 0
    assert list(await world.journal.renew([entry])) == []
    world.clock.move(LEASE_SECONDS - 1)
    assert list(await world.journal.renew([entry])) == []
    world.clock.move(2)
    assert await newcomer.recover() == 0
    assert (await world.settle(entry)).kept


async def test_an_arrival_wakes_the_other_node(world: PostgresqlWorld, other: SqlJournal) -> None:
    """So does an outcome that frees its conversation, and what an operator changes."""
    assert (await other.claim(REQUESTS)).entries == []
    receipt = await world.accept("one")
    await other.wait_for_work(None)
    (entry,) = (await other.claim(REQUESTS)).entries
    await world.accept("two")
    assert await world.claim() == []
    await world.settle(entry, other, state=EntryState.DEAD)
    await world.journal.wait_for_work(None)
    (two,) = await world.claim()
    assert two.event.body == "two"
    await world.settle(two)
    assert (await other.claim(REQUESTS)).entries == []
    async with Operations(world.url, clock=world.clock) as desk:
        await desk.replay([receipt.event_id], decode=lambda _: Decoded(()))
    await other.wait_for_work(None)
    assert [e.event.body for e in (await other.claim(REQUESTS)).entries] == ["one"]


async def test_what_is_committed_while_the_listening_ends_is_told(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the next connection that listens."""
    told: list[bool] = []
    looks = [True]

    class Ending(notifications.Notifications):
        @property
        def on(self) -> bool:
            return bool(looks and looks.pop())

        @on.setter
        def on(self, _: bool) -> None: ...

        def tell(self, changes: Changes) -> None:
            told.append(changes.work)

    async def step(transaction: Transaction) -> None:
        transaction.changes.work = True

    monkeypatch.setattr(postgresql, "Notifications", Ending)
    database = postgresql.PostgresqlDatabase(world.url, pool_size=3, patient=False)
    await database.write(step)
    await database.close()
    assert told == [True]


async def test_commits_close_together_are_told_at_once(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one at once; those until the pause is over together, or when the journal closes."""
    monkeypatch.setattr(notifications, "PAUSE_SECONDS", 3600)
    told: asyncio.Queue[str] = asyncio.Queue()
    listens = asyncio.Event()
    ours = notifications.Notifications()
    async with world.connected() as connection, world.connected() as theirs:
        await theirs.add_listener(
            notifications.CHANNEL, lambda *about: told.put_nowait(str(about[3]))
        )
        exchange = asyncio.create_task(ours.exchange(connection, lambda _: listens.set()))
        await listens.wait()
        ours.tell(Changes(work=True))
        await told.get()
        ours.tell(Changes(replies={EventId("one")}))
        ours.tell(Changes(replies={EventId("two")}))
        exchange.cancel()
        await asyncio.wait((exchange,))
        heard = notifications.understood(await told.get())
        assert heard.replies == {EventId("one"), EventId("two")}
        await theirs.execute("SELECT 1")  # brings all that was told before
        assert told.empty()
        await theirs.reset()


@pytest.mark.parametrize("many", [1, 5])
async def test_a_commit_takes_few_round_trips(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """However many messages it has, of people who are known or not: each costs both sides."""
    committed: asyncio.Queue[list[str]] = asyncio.Queue()
    connect = asyncpg.connect

    async def logging(*words: Any, **options: Any) -> asyncpg.Connection:
        queries: list[str] = []

        def note(logged: Any) -> None:
            queries.append(logged.query)
            if logged.query == "COMMIT;":
                committed.put_nowait(queries.copy())
                queries.clear()

        connection = await connect(*words, **options)
        connection.add_query_logger(note)
        return connection

    async def commit(text: str, people: int) -> list[str]:
        events = [an_event(text, sender=f"+336399800{people}{one}") for one in range(many)]
        await journal.accept(a_delivery(events[0]), Decoded(tuple(events)))
        while "INTO events" not in str(queries := await committed.get()):
            continue  # another connection's
        return queries

    monkeypatch.setattr(asyncpg, "connect", logging)
    journal = await world.open(node="there")
    await commit("what the driver asks on first use, it asks now", 1)
    assert len(await commit("of somebody known", 1)) == 9
    assert len(await commit("of somebody new", 2)) == 9


FLOOD = "SELECT pg_notify($1, $2 || number || '}') FROM generate_series(1, 10 * $3::int) AS number"


@pytest.mark.parametrize("says", ["", "not ours", '{"work": false, "replies": null, "n": '])
async def test_a_flood_of_notifications_wakes_everybody_once(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    """Every role that may connect can send any: no claim and no question of ours follows each."""
    monkeypatch.setattr(notifications, "LONG_PAUSE_SECONDS", 3600)
    heard: asyncio.Queue[Changes] = asyncio.Queue()
    ours = notifications.Notifications()
    async with world.connected() as connection, world.connected() as stranger:
        exchange = asyncio.create_task(ours.exchange(connection, heard.put_nowait))
        assert await heard.get() == EVERYTHING  # something may have been missed before
        await stranger.fetch(FLOOD, notifications.CHANNEL, says, notifications.MOST_HEARD)
        assert (await heard.get()).all_replies
        await connection.execute("SELECT 1")  # brings all that was told before
        exchange.cancel()
        await asyncio.wait((exchange,))
        assert heard.empty()


async def test_a_mistake_of_ours_ends_no_listening(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said without what was heard, and the node listens again."""
    exchange = notifications.Notifications.exchange
    mistakes: list[Exception] = [RecursionError("what a stranger said")]
    listens = asyncio.Event()

    async def first_broken(ours: Any, connection: Any, heard: Any) -> None:
        if mistakes:
            raise mistakes.pop()
        listens.set()
        await exchange(ours, connection, heard)

    monkeypatch.setattr(notifications.Notifications, "exchange", first_broken)
    with structlog.testing.capture_logs() as logged:
        await world.open(node="there")
        async with asyncio.timeout(60):
            await listens.wait()
    (broke,) = [line for line in logged if line["event"] == "journal.listening_broke"]
    assert broke["error"] == "RecursionError"
    assert "stranger" not in str(logged)


@pytest.mark.parametrize(
    "replies",
    [
        *("[" * 1015 + "]" * 1015, '[{"a": 1}]', "[null]", '"ids"', '{"id": 1}', "1"),
        repr(list(map(str, range(notifications.MOST_REPLIES + 1)))).replace("'", '"'),
    ],
)
async def test_a_notification_that_no_node_sends_ends_no_listening(
    world: PostgresqlWorld, replies: str
) -> None:
    """However deep it is nested, and however many it names."""
    heard: asyncio.Queue[Changes] = asyncio.Queue()
    ours = notifications.Notifications()
    async with world.connected() as connection, world.connected() as stranger:
        exchange = asyncio.create_task(ours.exchange(connection, heard.put_nowait))
        await heard.get()
        said = f'{{"work": false, "replies": {replies}}}'
        await stranger.fetch(notifications.NOTIFY, notifications.CHANNEL, said)
        hearing = asyncio.create_task(heard.get())
        await asyncio.wait((hearing, exchange), return_when=asyncio.FIRST_COMPLETED)
        assert ours.on
        assert await hearing == EVERYTHING
        exchange.cancel()
        await asyncio.wait((exchange,))


async def test_more_notifications_than_are_read_mean_that_everything_changed(
    world: PostgresqlWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they say is not kept: there is room for so many, whoever sends them."""
    monkeypatch.setattr(notifications, "MOST_HEARD", 3)
    heard: asyncio.Queue[Changes] = asyncio.Queue()
    says = '{"work": false, "replies": [], "number": '
    ours = notifications.Notifications()
    async with world.connected() as connection, world.connected() as stranger:
        exchange = asyncio.create_task(ours.exchange(connection, heard.put_nowait))
        await heard.get()
        await stranger.fetch(FLOOD, notifications.CHANNEL, says, 1)
        assert await heard.get() == EVERYTHING
        exchange.cancel()
        await asyncio.wait((exchange,))


async def test_a_reply_reaches_the_node_where_the_caller_waits(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """The agent runs elsewhere; the caller is answered as soon as the outcome is on disk."""
    event = an_event("question", channel=ChannelName("whatsapp"), group="Support IA")
    receipt = await world.accept_event(event, wait_seconds=30)
    waiting = asyncio.create_task(world.journal.wait_for_reply(receipt.event_id, 30))
    (entry,) = (await other.claim(REQUESTS)).entries
    said = Outcome(OutcomeKind.SUCCESS, reply="said")
    settled = await world.settle(entry, other, outcome=said, late=True)
    assert settled.reply is ReplyRoute.INLINE
    assert await waiting == Reply("said", failed=False)


async def test_a_caller_who_leaves_one_node_makes_it_late_on_the_other(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """One transaction decides, wherever it is made."""
    event = an_event("question", channel=ChannelName("whatsapp"), group="Support IA")
    receipt = await world.accept_event(event, wait_seconds=30)
    (entry,) = (await other.claim(REQUESTS)).entries
    said = Outcome(OutcomeKind.SUCCESS, reply="said")
    left, settled = await asyncio.gather(
        world.journal.stop_waiting(receipt.event_id, hung_up=False),
        world.settle(entry, other, outcome=said, late=True),
    )
    late = (await other.claim([ClaimRequest(EntryKind.REPLY, None, 9)])).entries
    assert (left is None) == (settled.reply is ReplyRoute.LATE) == (len(late) == 1)


async def test_clocks_that_differ_change_nothing(world: PostgresqlWorld) -> None:
    """Leases and retries run by the database's clock; what a node is told are durations."""
    wrong = timedelta(hours=-3)
    late = await world.open(node="there", clock=lambda: world.clock.now + wrong)
    await world.accept("one")
    (entry,) = (await late.claim(REQUESTS)).entries
    failed = Outcome(OutcomeKind.ERROR, error="e")
    await world.settle(
        entry,
        late,
        outcome=failed,
        state=EntryState.WAITING,
        due_in_seconds=30,
        hold_seconds=30,
    )
    assert (await late.claim(REQUESTS)).next_due_seconds == 30
    assert (await world.journals[0].claim(REQUESTS)).next_due_seconds == 30
    world.clock.move(30)
    (entry,) = (await late.claim(REQUESTS)).entries
    world.clock.move(LEASE_SECONDS + 1)
    assert await late.recover() == 1


async def test_two_that_start_at_once_make_one_journal(world: PostgresqlWorld) -> None:
    """The schema is made once; both can use it."""
    empty = PostgresqlWorld(world.server, await world.server.new_database())
    both = [SqlJournal(empty.plain_url, node=n, clock=world.clock) for n in ("here", "there")]
    try:
        await asyncio.gather(*(journal.open() for journal in both))
        receipts = [await accept(journal, f"m{n}") for n, journal in enumerate(both)]
    finally:
        for journal in both:
            await journal.close()
    assert [receipt.duplicate for receipt in receipts] == [False, False]
    assert len(await empty.execute("SELECT * FROM berinia_webhookd.schema")) == 1


async def test_each_node_says_why_it_cannot_load_an_agent(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """By its name where they differ; what a node said that is gone is forgotten."""
    receipt = await world.accept("one")

    async def said() -> str | None:
        async with Operations(world.url, clock=world.clock) as desk:
            return (await desk.show(receipt.event_id)).entries[0].unavailable

    await world.journal.note_unavailable(AGENT, "no module")
    await other.note_unavailable(AGENT, "no memory")
    assert await said() == "here: no module; there: no memory"
    world.clock.move(3000)
    await other.note_unavailable(AGENT, "no memory")
    world.clock.move(3000)
    await other.purge()
    assert await said() == "no memory"
    await other.note_unavailable(AGENT, None)
    assert await said() is None


async def test_old_data_is_deleted_by_one_node_at_a_time(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """Those that come at the same moment leave it to the first, and nothing is counted twice."""
    for number in range(20):
        await world.accept(sender=f"+3363998{number:04d}")
    for entry in await world.claim():
        await world.settle(entry)
    world.clock.move(31 * 86400)
    gone = await asyncio.gather(*(journal.purge() for journal in (world.journal, other) * 3))
    assert sum(gone) == 20
    assert await world.states() == {}
    async with Operations(world.url, clock=world.clock) as desk:
        assert await desk.list_events(Filters()) == []


async def test_counts_are_right_whoever_made_them(
    world: PostgresqlWorld, other: SqlJournal
) -> None:
    """Also after the sessions that counted have ended."""
    for number in range(6):
        await accept((world.journal, other)[number % 2], "m", sender=f"+3363998{number:04d}")
    (one, *_) = (await other.claim(REQUESTS)).entries
    await world.settle(one, other)
    assert await world.states() == {"ready": 1, "running": 4, "done": 1}
    await world.reopen()
    await world.journal.purge()
    assert await world.states() == {"ready": 1, "running": 4, "done": 1}


async def test_texts_are_compared_byte_by_byte(world: PostgresqlWorld) -> None:
    """In a database of any language: the beginning of an id finds it, and ids have their order."""
    rows = await world.execute(
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'berinia_webhookd' AND data_type = 'text' "
        "AND collation_name IS DISTINCT FROM 'C'"
    )
    assert rows == []
