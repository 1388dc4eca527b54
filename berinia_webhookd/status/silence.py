"""Which channels are silent far beyond their habit: a number that points elsewhere, or a route that
was deleted, makes no request fail.

What came in each hour is read from the journal, a little at a time and beside its writer, and kept
here; it asks nothing of whatever receives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Protocol

from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Received
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.status.durations import duration

WEEK: Final = 7 * 24  # in hours
WEEKS: Final = 4  # that are looked back to
LEAST_WEEKS: Final = 2  # that must be known
ENOUGH: Final = 10  # messages; the chance that none comes where so many do is 1 in 20,000
FADE: Final = 12  # hours before the last message, in which a channel goes on as it is used to
FADED: Final = 10  # times as many in these hours of another week: it was ending by itself
KEPT: Final = (WEEKS + 1) * WEEK + FADE
MOST_DAYS: Final = 42.0  # of the past that a start reads
MOST_READ: Final = 5000  # deliveries of an hour that are counted: more say nothing more
LOOK_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.05  # between the hours of the past
LATE: Final = timedelta(minutes=2)  # after its arrival a delivery may be committed


class Arrivals(Protocol):
    """What is asked of the journal."""

    @property
    def up(self) -> bool:
        """Whether it takes writes."""

    async def received_between(
        self, since: datetime, until: datetime, most: int
    ) -> Mapping[str, Received]:
        """Count what was accepted on each channel, of the newest `most` deliveries in this time."""


@dataclass
class Habit:
    """What came on one channel, by the hour since 1970."""

    first: int
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, hour: int, count: int) -> None:
        """Note what came in an hour; they are told in their order."""
        self.counts[hour] = count
        for old in [one for one in self.counts if one < hour - KEPT]:
            del self.counts[old]

    def missing(self, last: int, now: int) -> int:
        """Return how many messages should have come in the whole hours from that of the last one
        to the present one, less the first or the last of them, since clocks are changed: as many
        as came in the same hours of each of the four weeks before, where the fewest came. 0 where
        two weeks are not known, and for a week where the last came as answers to campaigns end.
        """
        known, hours = min(WEEKS, (last - self.first) // WEEK), now - last - 2
        if known < LEAST_WEEKS or hours < 1 or (hours < WEEK and self._was_ending(last, known)):
            return 0
        weeks, rest = divmod(hours, WEEK)
        starts = [last + 1 + late - week * WEEK for week in range(1, known + 1) for late in (0, 1)]
        return min(weeks * self._came(start, WEEK) + self._came(start, rest) for start in starts)

    def _was_ending(self, last: int, weeks: int) -> bool:
        """Whether far fewer came before the last message than in the same hours of one of these
        weeks: where a number points elsewhere, nothing fades first.
        """
        before = last - FADE + 1
        most = max(self._came(before - week * WEEK, FADE) for week in range(1, weeks + 1))
        return most >= FADED * self._came(before, FADE)

    def _came(self, start: int, hours: int) -> int:
        return sum(self.counts.get(hour, 0) for hour in range(start, start + hours))


class SilenceWatch:
    """Watches the enabled channels of one process that receives, while `run` runs."""

    def __init__(
        self,
        arrivals: Arrivals,
        *,
        channels: Callable[[], Collection[str]],
        history_days: float,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._arrivals = arrivals
        self._channels = channels
        self._metrics = metrics
        self._clock = clock
        self._habits: dict[str, Habit] = {}
        self._last_at: dict[str, datetime] = {}
        self._silent: dict[str, str] = {}
        began = clock()
        self._next = hour_of(began - timedelta(days=min(history_days, MOST_DAYS))) + 1
        self._looked_at = start_of(hour_of(began))
        self._receives_since = hour_of(began)

    async def silent(self) -> Mapping[str, str]:
        """Return a sentence for each channel that is silent, as alerts want it."""
        return self._silent

    async def run(self) -> None:
        """Look once a minute, for ever."""
        while True:
            try:
                await self.look()
            except JournalUnavailable:
                self._receives_since = hour_of(self._clock())  # nobody could write to us
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Count the hours that are over, see what came since, and judge.

        Raises:
            JournalUnavailable: what was not counted is counted the next time.
        """
        now = self._clock()
        if not self._arrivals.up:
            self._receives_since = hour_of(now)
        over = hour_of(now - LATE)
        if not self._habits:
            self._next = await self._first_hour(over)
        while self._next < over:
            start = start_of(self._next)
            for channel, of in (await self._read(start, start_of(self._next + 1))).items():
                habit = self._habits.setdefault(channel, Habit(self._next))
                habit.add(self._next, of.count)
            self._next += 1
            await asyncio.sleep(PAUSE_SECONDS)
        await self._read(self._looked_at - LATE, now + LATE)
        self._looked_at = now
        self._judge(now)

    async def _first_hour(self, over: int) -> int:
        """Return the first hour in which something came; `over` if none did. It is found by halves:
        a young journal has nothing in most of the hours that could be counted.
        """
        first, begin = self._next, start_of(self._next)
        while first < over:
            middle = (first + over) // 2
            if await self._arrivals.received_between(begin, start_of(middle + 1), 1):
                over = middle
            else:
                first = middle + 1
        return first

    async def _read(self, since: datetime, until: datetime) -> Mapping[str, Received]:
        found = await self._arrivals.received_between(since, until, MOST_READ)
        for channel, of in found.items():
            self._last_at[channel] = max(of.last_at, self._last_at.get(channel, of.last_at))
        return found

    def _judge(self, now: datetime) -> None:
        metrics, channels = self._metrics, self._channels()
        self._silent = {}
        metrics.last_accepted_seconds.clear()
        metrics.channel_silent.clear()
        for channel in sorted(self._last_at.keys() & set(channels)):
            last_at, habit = self._last_at[channel], self._habits.get(channel)
            missing = 0
            if habit is not None and hour_of(now) > self._receives_since + 1:
                missing = habit.missing(hour_of(last_at), hour_of(now))
            if missing >= ENOUGH:
                for_ = duration((now - last_at).total_seconds())
                self._silent[channel] = (
                    f"nothing has been accepted on {channel} for {for_}, since"
                    f" {last_at.astimezone(UTC):%F %H:%M} UTC; by its habit at least {missing}"
                    " messages should have come"
                )
            metrics.channel_silent.labels(channel=channel).set(missing >= ENOUGH)
            of_channel = metrics.last_accepted_seconds.labels(channel=channel)
            of_channel.set_function(partial(self._seconds_since, last_at))

    def _seconds_since(self, instant: datetime) -> float:
        return (self._clock() - instant).total_seconds()


def hour_of(instant: datetime) -> int:
    """Return the hour since 1970 that an instant is in."""
    return int(instant.timestamp() // 3600)


def start_of(hour: int) -> datetime:
    """Return the beginning of an hour since 1970."""
    return datetime.fromtimestamp(hour * 3600, UTC)
