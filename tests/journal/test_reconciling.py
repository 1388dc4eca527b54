"""What was taken in late stands in nobody's way."""

from __future__ import annotations

from datetime import datetime, timedelta

from berinia_webhookd.clock import now
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.reconcile import Rebuilt, Reconciliation
from berinia_webhookd.model import Decoded

from .world import SMS, World, a_delivery, an_event


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
