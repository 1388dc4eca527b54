"""What operators do, beside a running daemon: look, replay, discard, export."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from berinia_webhookd.errors import CannotStart, MalformedDelivery, NotFound
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Decoded,
    EntryState,
    Outcome,
    OutcomeKind,
    VerifiedDelivery,
)

from .world import AGENT, START, SqliteWorld, World, a_delivery, an_event, on_sqlite

DEAD = Outcome(OutcomeKind.EXCEPTION, error="broken")


def decode(delivery: VerifiedDelivery) -> Decoded:
    """What a channel does: here a body is a sender and a text."""
    if delivery.body.startswith(b"bad"):
        raise MalformedDelivery("still no text", missing=("Body",))
    return Decoded((an_event(delivery.body.decode(), received_at=delivery.received_at),))


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Operations]:
    """An operator beside the daemon."""
    async with Operations(world.url, clock=world.clock) as operations:
        yield operations


async def bury(world: World, *texts: str) -> None:
    """Accept events, and let their only attempts end in death."""
    for text in texts:
        await world.accept(text)
        (entry,) = await world.claim()
        await world.settle(entry, outcome=DEAD, state=EntryState.DEAD)


async def test_the_newest_come_first(world: World, desk: Operations) -> None:
    """With their state, agent, time and number of attempts."""
    await bury(world, "one")
    world.clock.move(60)
    receipt = await world.accept("two", received_at=world.clock.now)
    newest, oldest = await desk.list_events(Filters())
    assert (newest.id, newest.state, newest.attempts) == (receipt.event_id, "ready", 0)
    assert (oldest.state, oldest.agent, oldest.channel) == ("dead", AGENT, "sms")
    assert (oldest.attempts, newest.received_at - oldest.received_at) == (1, timedelta(minutes=1))
    assert await desk.list_events(Filters(), limit=1) == [newest]


async def test_filters_narrow_a_list(world: World, desk: Operations) -> None:
    """By state, channel, agent, time and sender, and all of them together."""
    await bury(world, "one")
    world.clock.move(60)
    mail = ChannelName("email")
    await world.accept(
        "two", channel=mail, agent=AgentName("Other"), sender="a@b.c", received_at=world.clock.now
    )
    for filters in (
        Filters(state=EntryState.READY),
        Filters(channel="email"),
        Filters(agent="Other"),
        Filters(since=world.clock.now),
        Filters(sender="a@b.c"),
        Filters(EntryState.READY, "email", "Other", world.clock.now, "a@b.c"),
    ):
        assert [one.channel for one in await desk.list_events(filters)] == ["email"], filters
    assert await desk.list_events(Filters(sender="a@b.c", channel="sms")) == []


async def test_an_event_is_shown_from_arrival_to_outcome(world: World, desk: Operations) -> None:
    """Its data, and every attempt with times and error."""
    receipt = await world.accept("one")
    (entry,) = await world.claim()
    await world.fail(entry, retry_in=5)
    await world.journal.note_unavailable(AGENT, "No module named 'agents'")
    shown = await desk.show(receipt.event_id)
    assert (shown.state, shown.agent, shown.node) == ("waiting", AGENT, "here")
    assert shown.data is not None
    assert shown.data["body"] == "one"
    assert shown.entries[0].unavailable == "No module named 'agents'"
    world.clock.move(5)
    await world.journal.note_unavailable(AGENT, None)
    (entry,) = await world.claim()
    await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, reply="fine"))
    shown = await desk.show(receipt.event_id[:20])
    assert shown.state == "done"
    assert [(a.number, a.outcome, a.error, a.reply) for a in shown.entries[0].attempts] == [
        (1, "exception", "broken", None),
        (2, "success", None, "fine"),
    ]
    assert shown.entries[0].unavailable is None


async def test_the_beginning_of_an_id_is_enough_if_it_is_the_only_one(
    world: World, desk: Operations
) -> None:
    """Otherwise the error says how many begin so."""
    one, two = [(await world.accept(text)).event_id for text in ("one", "two")]
    common = next(n for n in range(37) if one[n] != two[n])
    assert (await desk.show(one[: common + 1].upper())).id == one
    with pytest.raises(NotFound, match="2 ids begin with"):
        await desk.show(one[:common])
    for wrong in ("", "ffffffff", "%", "'; drop table"):
        with pytest.raises(NotFound):
            await desk.show(wrong)


async def test_what_is_replayed_starts_anew_behind_the_others(
    world: World, desk: Operations
) -> None:
    """A new place and schedule, in the old order among themselves; the history stays."""
    await bury(world, "one", "two")
    await world.accept("three")
    dry = await desk.replay_matching(Filters(state=EntryState.DEAD), decode=decode, dry_run=True)
    assert [changed.was for changed in dry] == ["dead", "dead"]
    assert await world.states() == {"dead": 2, "ready": 1}
    done = await desk.replay_matching(Filters(state=EntryState.DEAD), decode=decode)
    assert [changed.refused for changed in done] == [None, None]
    seen = []
    while entries := await world.claim():
        seen.append((entries[0].event.body, entries[0].attempt, entries[0].retries))
        await world.settle(entries[0])
    assert seen == [("three", 1, 0), ("one", 2, 0), ("two", 2, 0)]
    shown = await desk.show(done[0].id)
    assert [a.outcome for a in shown.entries[0].attempts] == ["exception", "success"]


async def test_the_daemon_notices_what_an_operator_changed(world: World, desk: Operations) -> None:
    """A dispatcher that sleeps is woken by another process' commit."""
    await bury(world, "one")
    assert await world.claim() == []
    waiting = asyncio.create_task(world.journal.wait_for_work(None))
    await desk.replay_matching(Filters(), decode=decode)
    await waiting
    assert await world.claim_bodies() == ["one"]


async def test_what_may_not_be_replayed_is_refused(world: World, desk: Operations) -> None:
    """Running and ready entries say why; what is done is replayed by id only."""
    receipt = await world.accept("one")
    (ready,) = await desk.replay([receipt.event_id], decode=decode)
    assert ready.refused is not None
    (entry,) = await world.claim()
    (running,) = await desk.replay([receipt.event_id], decode=decode)
    assert running.refused is not None
    await world.settle(entry)
    assert await desk.replay_matching(Filters(state=EntryState.DONE), decode=decode) == []
    assert await desk.replay_matching(Filters(), decode=decode) == []
    (done,) = await desk.replay([receipt.event_id], decode=decode)
    assert (done.was, done.refused) == ("done", None)
    assert await world.claim_bodies() == ["one"]


async def test_a_waiting_entry_can_be_tried_now(world: World, desk: Operations) -> None:
    """Replaying does not wait for the schedule."""
    receipt = await world.accept("one")
    (entry,) = await world.claim()
    await world.fail(entry, retry_in=3600)
    await desk.replay([receipt.event_id], decode=decode)
    assert await world.claim_bodies() == ["one"]


async def test_one_wrong_id_replays_nothing(world: World, desk: Operations) -> None:
    """All ids are looked at before anything is done."""
    receipt = await world.accept("one")
    await desk.discard([receipt.event_id])
    with pytest.raises(NotFound):
        await desk.replay([receipt.event_id, "ffff"], decode=decode)
    assert await world.states() == {"discarded": 1}


async def test_giving_up_frees_the_conversation(world: World, desk: Operations) -> None:
    """What is ready, waiting or dead can be discarded, what runs or is done can not."""
    one, _ = [await world.accept(text) for text in ("one", "two")]
    (entry,) = await world.claim()
    (running,) = await desk.discard([one.event_id])
    assert running.refused is not None
    await world.fail(entry, retry_in=5)
    (waiting,) = await desk.discard([one.event_id])
    assert (waiting.was, waiting.refused) == ("waiting", None)
    (entry,) = await world.claim()
    assert entry.event.body == "two"
    await world.settle(entry)
    (done,) = await desk.discard([entry.event_id])
    assert done.refused is not None
    assert await world.states() == {"discarded": 1, "done": 1}
    await desk.replay([one.event_id], decode=decode)
    assert await world.claim_bodies() == ["one"]


async def test_rejected_deliveries_are_kept_once(world: World, desk: Operations) -> None:
    """Once per signature or body, and only so many."""
    await world.reopen(rejected_max=3)
    event = an_event("x")
    for number in (1, 1, 2, 3, 4, 5):
        delivery = a_delivery(event)._replace(body=b"bad %d" % number)
        await world.journal.reject(delivery, {"kind": "MalformedDelivery", "missing": ["Body"]})
    for body in (b"bad 5", b"bad 6"):
        delivery = a_delivery(event, replay_key=b"k" * 32)._replace(body=body)
        await world.journal.reject(delivery, {"kind": "MalformedDelivery"})
    listed = await desk.list_events(Filters(state="rejected"))
    shown = [await desk.show(one.id) for one in listed]
    assert [(s.state, s.body_bytes) for s in shown] == [("rejected", 5)] * 3
    assert [s.rejection for s in shown][-1] == {"kind": "MalformedDelivery", "missing": ["Body"]}
    assert await world.states() == {}


async def test_a_rejected_delivery_re_enters_at_decoding(world: World, desk: Operations) -> None:
    """After a fix it becomes an event, once; before, it stays what it is."""
    good, bad = (a_delivery(an_event("x"))._replace(body=body) for body in (b"good", b"bad"))
    for delivery in (bad, good):
        await world.journal.reject(delivery, {"kind": "MalformedDelivery"})
    filters = Filters(state="rejected")
    dry = await desk.replay_matching(filters, decode=decode, dry_run=True)
    assert [changed.event_id for changed in dry] == [None, None]
    refused, became = await desk.replay_matching(filters, decode=decode)
    assert refused.refused == "still refused: still no text (missing: Body)"
    assert became.event_id is not None
    (entry,) = await world.claim()
    assert (entry.event_id, entry.event.body) == (became.event_id, "good")
    (left,) = await desk.list_events(filters)
    assert left.id == refused.id
    stored = await world.journal.delivery_of(entry.event_id)
    assert stored is not None
    assert stored.body == b"good"
    await world.journal.reject(good, {"kind": "MalformedDelivery"})
    again = await desk.replay_matching(filters, decode=decode)
    assert again[-1].refused == f"it was received again as {became.event_id}"


async def test_everything_is_exported_oldest_first(world: World, desk: Operations) -> None:
    """Also more than a page of it."""
    texts = [f"m{n}" for n in range(250)]
    for text in texts:
        await world.accept(text)
    exported = [shown async for shown in desk.export(Filters())]
    assert [shown.data and shown.data["body"] for shown in exported] == texts
    some = [shown async for shown in desk.export(Filters(state=EntryState.DEAD))]
    assert some == []
    world.clock.move(3 * 3600)
    await world.accept("late", received_at=world.clock.now)
    since = Filters(since=world.clock.now - timedelta(minutes=5))
    late = [shown async for shown in desk.export(since)]
    assert [shown.data and shown.data["body"] for shown in late] == ["late"]


async def test_statistics_count_age_and_rate(world: World, desk: Operations) -> None:
    """By the times of receipt and outcome."""
    await world.accept("long ago", sender="+33639980009", received_at=START - timedelta(days=3))
    await world.settle((await world.claim())[0])
    world.clock.move(2 * 3600)
    await bury(world, "one")
    await world.accept("two", received_at=world.clock.now)
    stats = await desk.stats()
    assert {(c.agent, c.state): c.count for c in stats.counts} == {
        (AGENT, "dead"): 1,
        (AGENT, "done"): 1,
        (AGENT, "ready"): 1,
    }
    assert (stats.received_last_hour, stats.received_last_day) == (1, 2)
    assert (stats.finished_last_hour, stats.rejected) == (0, 0)
    assert stats.oldest_open_at == {AGENT: world.clock.now}


async def test_what_came_is_counted_for_a_day(world: World, desk: Operations) -> None:
    """A repetition is not counted; a message that was erased is."""
    for number in range(3):
        await world.accept(f"{number}", received_at=world.clock.now)
    await world.accept("0", received_at=world.clock.now)
    await desk.erase("+33639980001", patience_seconds=0)
    stats = await desk.stats()
    assert (stats.received_last_hour, stats.received_last_day) == (3, 3)
    assert {count.kind for count in stats.counts} == {"agent"}
    world.clock.move(25 * 3600)
    await world.journal.purge()
    await world.accept("new", received_at=world.clock.now)
    stats = await desk.stats()
    assert (stats.received_last_hour, stats.received_last_day) == (1, 1)


@on_sqlite
async def test_operators_never_make_a_journal(closed_world: SqliteWorld) -> None:
    """Where there is none, or an empty or older one, they say so."""
    with pytest.raises(NotFound, match="there is no journal"):
        await Operations(closed_world.url).__aenter__()
    assert list(closed_world.folder.iterdir()) == []
    sqlite3.connect(closed_world.file).close()
    closed_world.file.touch()
    with pytest.raises(NotFound, match="no journal in this database"):
        await Operations(closed_world.url).__aenter__()
    await closed_world.open()
    with sqlite3.connect(closed_world.file) as other:
        other.execute("UPDATE schema SET version = 0")
    other.close()
    with pytest.raises(CannotStart, match="older than this program"):
        await Operations(closed_world.url).__aenter__()
