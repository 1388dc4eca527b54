"""Erasure: nothing of a person is left in the files, and old data goes by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator

import pytest

from berinia_webhookd.journal.erase import names
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import ChannelName, Decoded, EntryState, Outcome, OutcomeKind

from .world import SqliteWorld, World, a_delivery, an_event, on_sqlite, traces

PERSON = "+33639980077"
OTHER = "+33639980088"
DAY = 86_400


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Operations]:
    async with Operations(world.url, clock=world.clock) as operations:
        yield operations


async def live(world: World, sender: str, secret: str) -> None:
    """A life that leaves data in every column there is."""
    event = an_event(f"{secret} body", sender=sender, channel=ChannelName("whatsapp"))
    receipt = await world.accept_event(event, wait_seconds=30)
    (entry,) = await world.claim()
    error = Outcome(OutcomeKind.EXCEPTION, error=f"{secret} error")
    state = EntryState.WAITING
    await world.settle(entry, outcome=error, state=state, due_in_seconds=0, hold_seconds=0)
    (entry,) = await world.claim()
    said = Outcome(OutcomeKind.SUCCESS, reply=f"{secret} reply")
    await world.settle(entry, outcome=said, late=True)
    await world.journal.stop_waiting(receipt.event_id, hung_up=True)
    refused = a_delivery(event)._replace(body=f"From=%2B{sender[1:]}&x={secret}".encode())
    await world.journal.reject(refused, {"kind": "MalformedDelivery"})


async def test_nothing_of_a_person_is_left(world: World, desk: Operations) -> None:
    """In no column, body, reply or rejected delivery, and neither in the file nor in its WAL."""
    await live(world, PERSON, "Geheimnis")
    await live(world, OTHER, "Nachbar")
    await world.accept("Geheimnis sms", sender=PERSON)
    assert await traces(world, b"Geheimnis", PERSON[1:].encode())
    dry = await desk.erase(PERSON, dry_run=True)
    assert (dry.events, dry.rejected, dry.running) == (2, 1, ())
    done = await desk.erase(PERSON)
    assert (done.events, done.conversations, done.rejected) == (2, 2, 1)
    assert done.files_clean
    assert await traces(world, b"Geheimnis", PERSON[1:].encode()) == []
    assert await traces(world, b"Nachbar", OTHER[1:].encode())
    assert await world.states() == {"erased": 3, "done": 1, "ready": 1}
    assert (await desk.erase(PERSON)).events == 0


async def test_a_mail_is_of_everybody_it_is_from(world: World, desk: Operations) -> None:
    """Found by From and Reply-To too; other mails with the same envelope stay."""
    envelope = "bounces@lists.example.net"
    people = frozenset({"anna@example.com", "lea@example.com"})
    await world.accept("Geheimnis", sender=envelope, authors=people)
    kept = await world.accept("Nachbar", sender=envelope, authors=frozenset({"zoe@example.com"}))
    found = await desk.list_events(Filters(sender="lea@example.com"))
    dry = await desk.erase("anna@example.com", dry_run=True)
    assert (len(found), dry.events, dry.conversations) == (1, 1, 1)
    done = await desk.erase("anna@example.com")
    assert (done.events, done.conversations, done.files_clean) == (1, 1, True)
    assert await traces(world, b"Geheimnis", b"anna@example.com", b"lea@example.com") == []
    assert await world.claim_bodies() == ["Nachbar"]
    assert (await desk.show(kept.event_id)).data is not None
    assert (await desk.erase("anna@example.com")).conversations == 0
    assert await traces(world, envelope.encode())


async def test_authors_go_with_their_mail(world: World) -> None:
    """When it is purged."""
    await world.accept("old", authors=frozenset({"anna@example.com"}))
    (entry,) = await world.claim()
    await world.settle(entry)
    world.clock.move(31 * DAY)
    assert await world.journal.purge() == 1
    await world.journal.close()
    assert await traces(world, b"anna@example.com") == []


@on_sqlite
async def test_readers_delay_the_cleaning_but_do_not_prevent_it(
    world: SqliteWorld, desk: Operations
) -> None:
    """A reader of an older state holds the WAL; when it ends, the WAL is emptied."""
    await live(world, PERSON, "Geheimnis")
    reader = sqlite3.connect(world.file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    stuck = await desk.erase(PERSON, patience_seconds=0)
    assert (stuck.events, stuck.files_clean) == (1, False)
    again = asyncio.create_task(desk.erase(PERSON))
    await world.accept("the daemon goes on", sender=OTHER)
    reader.execute("ROLLBACK")
    reader.close()
    assert (await again).files_clean
    assert await traces(world, b"Geheimnis") == []


async def test_what_runs_is_erased_after_its_outcome(world: World, desk: Operations) -> None:
    """An attempt under way needs its data; it is waited for, or named."""
    receipt = await world.accept("Geheimnis", sender=PERSON)
    (entry,) = await world.claim()
    left = await desk.erase(PERSON, patience_seconds=0)
    assert (left.events, left.running) == (0, (receipt.event_id,))
    waiting = asyncio.create_task(desk.erase(PERSON))
    await world.settle(entry, outcome=Outcome(OutcomeKind.ERROR, error="Geheimnis"))
    done = await waiting
    assert (done.events, done.running) == (1, ())
    assert await traces(world, b"Geheimnis") == []


async def test_the_erased_are_recognised_but_not_replayed(world: World, desk: Operations) -> None:
    """The digest stays: a copy that comes again is a duplicate, and wakes nothing."""
    receipt = await world.accept("once", sender=PERSON)
    await desk.erase(PERSON)
    again = await world.accept("once", sender=PERSON)
    assert (again.event_id, again.duplicate) == (receipt.event_id, True)
    (refused,) = await desk.replay([receipt.event_id], decode=lambda _: Decoded(()))
    assert refused.refused is not None
    shown = await desk.show(receipt.event_id)
    assert (shown.state, shown.data, shown.body_bytes) == ("erased", None, None)
    assert await world.journal.delivery_of(receipt.event_id) is None
    assert await world.claim() == []
    await world.accept("anew", sender=PERSON)
    assert (await desk.erase(PERSON)).events == 1


async def test_the_erased_are_recognised_for_as_long_as_others(
    world: World, desk: Operations
) -> None:
    """Counted from their receipt, also after what was left of them is purged."""
    receipt = await world.accept("once", sender=PERSON)
    world.clock.move(10 * DAY)
    await desk.erase(PERSON)
    world.clock.move(31 * DAY)
    assert await world.journal.purge() == 1
    assert await world.states() == {}
    world.clock.move(358 * DAY)
    assert await world.journal.purge() == 0
    again = await world.accept("once", sender=PERSON)
    assert (again.event_id, again.duplicate) == (receipt.event_id, True)
    world.clock.move(2 * DAY)
    assert await world.journal.purge() == 1
    assert not (await world.accept("once", sender=PERSON)).duplicate


@pytest.mark.parametrize(
    ("body", "sender"),
    [
        (b"From=whatsapp%3A%2B33639980077", PERSON),
        (b'{"sender": "33639980077@c.us"}', PERSON),
        (b'{"author": "+33 6 39-98 (00) 77"}', PERSON),
        (b"sender=Anna%40Example.COM", "anna@example.com"),
        (b'{"author": "Zo\xc3\xab"}', "zo\u00eb"),
    ],
)
async def test_a_sender_is_found_in_bodies_nobody_could_decode(body: bytes, sender: str) -> None:
    """In every spelling the normal form stands for."""
    assert names(body, sender)
    assert not names(b"From=%2B33639980099", sender)


@pytest.mark.parametrize(
    "body",
    [b'{"author": "Zo\\u00eb"}', b"[" * 100_000 + b"Zo\xc3\xab", b'{"author": "Zo\xc3\xab"}'],
)
async def test_what_nobody_could_read_goes_however_it_was_escaped(
    world: World, desk: Operations, body: bytes
) -> None:
    """JSON may be written with escapes, and a body be no JSON that could be read at all."""
    delivery = a_delivery(an_event("x"))._replace(body=body)
    await world.journal.reject(delivery, {"kind": "MalformedDelivery"})
    assert (await desk.erase("zo\u00eb")).rejected == 1
    assert (await desk.stats()).rejected == 0
