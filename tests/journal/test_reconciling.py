"""What was taken in late stands in nobody's way."""

from __future__ import annotations

from datetime import datetime, timedelta

from berinia_webhookd.clock import now
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.reconcile import Rebuilt, Reconciliation, first_keyed_at, keyed
from berinia_webhookd.model import Decoded, Event

from .world import SMS, World, a_delivery, an_event

DAY = 86_400


def message(text: str, at: datetime) -> Rebuilt:
    event = an_event(text, sender=f"+3363998{text:>04}")._replace(received_at=at)
    return Rebuilt(a_delivery(event)._replace(received_at=at), Decoded((event,)))


async def test_lists_by_time_pass_over_nothing(world: World) -> None:
    """Of the last hours everything is found, though older messages were taken in since."""
    at = now()
    for number in range(40):
        await world.journal.accept(*message(str(number), at - timedelta(hours=50 - number)))
    async with Reconciliation(world.url) as desk:
        old = [message(str(100 + number), at - timedelta(hours=200)) for number in range(100)]
        assert len(await desk.take_in(SMS, old, lambda _: False)) == len(old)
        for number in range(10):
            await world.journal.accept(*message(str(200 + number), at))
        for hours in (15, 30, 45):
            since = at - timedelta(hours=hours, minutes=30)
            listed = await desk.list_events(Filters(since=since, channel=SMS), limit=1000)
            late = [one for one in listed if one.received_at < at - timedelta(hours=1)]
            assert len(late) == hours - 10


def a_mail(body: str, *, date: str = "1", at: datetime | None = None) -> tuple[Event, bytes]:
    """A mail as its callback or its list reads it, and the beginning of its key."""
    head = b"h" * 16
    key = head + date.encode().ljust(16)
    event = an_event(body, sender="lead@example.com", reconcile_key=key)
    return (event if at is None else event._replace(received_at=at)), head


async def take_in(desk: Reconciliation, *events: Event) -> int:
    """How many of them were new."""
    rebuilt = [
        Rebuilt(a_delivery(one), Decoded((one,)).as_reconciled(one.received_at)) for one in events
    ]
    receipts = await desk.take_in(SMS, rebuilt, lambda _: False)
    return sum(not receipt.duplicate for of in receipts for receipt in of)


async def test_a_mail_that_is_read_another_way_is_the_same_by_its_key(world: World) -> None:
    """Whichever comes first, its callback or what was rebuilt; by its digest alone it would be
    another one. Two callbacks with one key stay two mails.
    """
    called, head = a_mail("as its callback says")
    listed, _ = a_mail("as its list says")
    async with Reconciliation(world.url) as desk:
        assert await desk.read(first_keyed_at) is None
        assert await desk.read(keyed, [head]) == set()
        await world.accept_event(called)
        assert await desk.read(keyed, [head, called.reconcile_key or b"", b"i" * 16]) == {
            head,
            called.reconcile_key,
        }
        assert await desk.read(first_keyed_at) == called.received_at
        assert await take_in(desk, listed) == 0

        missed, _ = a_mail("missed", date="2")
        late, _ = a_mail("missed, as its callback says", date="2")
        assert await take_in(desk, missed, a_mail("missed again", date="2")[0]) == 1
        assert (await world.accept_event(late, replay_key=b"first")).duplicate
        assert (await world.accept_event(late, replay_key=b"second")).duplicate

        again, _ = a_mail("the same key, another mail")
        assert not (await world.accept_event(again)).duplicate
        assert len(await desk.list_events(Filters(channel=SMS))) == 3


async def test_a_mail_that_was_rebuilt_is_recognised_when_it_is_purged(world: World) -> None:
    """Its callback may come later still."""
    async with Reconciliation(world.url, clock=world.clock) as desk:
        assert await take_in(desk, a_mail("rebuilt", at=world.clock.now)[0]) == 1
        for entry in await world.claim():
            await world.settle(entry)
        world.clock.move(40 * DAY)
        assert await world.journal.purge() == 1
        assert await desk.list_events(Filters(channel=SMS)) == []
        late, _ = a_mail("as its callback says", at=world.clock.now)
        assert (await world.accept_event(late)).duplicate
        assert await take_in(desk, a_mail("rebuilt once more")[0]) == 0
