"""What the watch for silence reads of a journal, on either engine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

from berinia_webhookd.journal.contract import Received
from berinia_webhookd.metrics import PREFIX, Metrics
from berinia_webhookd.model import Decoded, RejectedItem
from berinia_webhookd.status import silence
from berinia_webhookd.status.silence import SilenceWatch

from .world import SMS, START, World, a_delivery, an_event

HOURS = 15 * 24  # a little more than two weeks


def watch_of(world: World, metrics: Metrics) -> SilenceWatch:
    return SilenceWatch(
        world.journal, channels=lambda: [SMS], history_days=30, metrics=metrics, clock=world.clock
    )


def shown(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"{PREFIX}_{name}", {"channel": SMS})


async def receive(world: World, number: int) -> None:
    event = an_event(str(number), sender=f"+336399800{number % 90 + 10}")
    delivery = a_delivery(event)._replace(received_at=world.clock())
    await world.journal.accept(delivery, Decoded((event,)))


async def test_deliveries_are_counted_by_when_they_came(world: World) -> None:
    """From an instant to another, the newest so many, and no rejected ones."""
    for number in range(6):
        await receive(world, number)
        world.clock.move(10)
    reasons = (RejectedItem("", "nothing in it"),)
    await world.journal.accept(
        a_delivery(an_event("not read"))._replace(received_at=world.clock()), Decoded((), reasons)
    )
    later = START + timedelta(seconds=10)
    read = world.journal.received_between
    end = START + timedelta(seconds=50)
    assert await read(later, end, 100) == {SMS: Received(4, START + timedelta(seconds=40))}
    assert await read(later, end, 3) == {SMS: Received(3, START + timedelta(seconds=40))}
    assert await read(end, end + timedelta(days=1), 100) == {SMS: Received(1, end)}
    assert await read(START - timedelta(days=1), START, 100) == {}


async def test_a_silent_channel_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in its first hour after a start, nor once something comes again."""
    monkeypatch.setattr(silence, "PAUSE_SECONDS", 0)
    for hour in range(HOURS):
        for part in range(2):
            await receive(world, 2 * hour + part)
            world.clock.move(1800)
    world.clock.move(8 * 3600)
    metrics = Metrics()
    watch = watch_of(world, metrics)
    await watch.look()
    assert await watch.silent() == {}  # while we were away nobody could reach us
    assert shown(metrics, "last_accepted_seconds") == 8 * 3600 + 1800
    world.clock.move(2 * 3600)
    await watch.look()
    (sentence,) = (await watch.silent()).values()
    assert sentence.startswith("nothing has been accepted on sms for 10 h 30 min, since ")
    assert sentence.endswith("; by its habit at least 18 messages should have come")
    assert shown(metrics, "channel_silent") == 1
    await receive(world, 2 * HOURS)
    world.clock.move(60)
    await watch.look()
    assert await watch.silent() == {}
    assert shown(metrics, "channel_silent") == 0
    assert shown(metrics, "last_accepted_seconds") == 60


class Counting:
    """A journal that counts how often it is asked what came."""

    def __init__(self, world: World) -> None:
        self._journal = world.journal
        self.asked = 0

    @property
    def up(self) -> bool:
        return self._journal.up

    async def received_between(
        self, since: datetime, until: datetime, most: int
    ) -> Mapping[str, Received]:
        self.asked += 1
        return await self._journal.received_between(since, until, most)


@pytest.mark.parametrize("hours_ago", [None, 3])
async def test_a_young_journal_is_asked_little(
    world: World, monkeypatch: pytest.MonkeyPatch, hours_ago: int | None
) -> None:
    """Nobody reads hour by hour what was before its first message."""
    monkeypatch.setattr(silence, "PAUSE_SECONDS", 0)
    if hours_ago is not None:
        await receive(world, 1)
        world.clock.move(hours_ago * 3600)
    arrivals, metrics = Counting(world), Metrics()
    watch = SilenceWatch(
        arrivals, channels=lambda: [SMS], history_days=30, metrics=metrics, clock=world.clock
    )
    await watch.look()
    assert arrivals.asked < 20
    assert (shown(metrics, "last_accepted_seconds") is None) == (hours_ago is None)
