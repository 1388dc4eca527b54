"""A channel is silent when it says nothing for far longer than it is used to: tried on a year of
five kinds of traffic, with false alarms counted, and the hours until a real silence is noticed.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import exp
from statistics import median
from zoneinfo import ZoneInfo

import pytest

from berinia_webhookd.status.silence import ENOUGH, WEEK, Habit

PARIS = ZoneInfo("Europe/Paris")  # whose clocks are changed twice a year
NEW_YEAR = datetime(2025, 1, 1, tzinfo=UTC)
YEAR = 365 * 24
PUBLIC_HOLIDAYS = {(1, 1), (4, 21), (5, 1), (5, 8), (5, 29), (6, 9), (7, 14), (8, 15)} | {
    (11, 1),
    (11, 11),
    (12, 25),
}
BY_DAY = (1, 1, 1, 1, 1, 2, 5, 10, 15, 16, 17, 16, 15, 15, 16, 16, 16, 16, 15, 13, 12, 10, 7, 4)
LONGEST = 90 * 24  # hours for which a real silence is looked at
SILENCES = 60


def busy(at: datetime) -> float:
    """Thirty an hour, fewer at night and at weekends."""
    return 6 * BY_DAY[at.hour] * (0.7 if at.weekday() >= 5 else 1)


def office_hours(at: datetime) -> float:
    """Six an hour from nine to six, but neither at weekends nor on public holidays."""
    if at.weekday() >= 5 or not 9 <= at.hour < 18 or (at.month, at.day) in PUBLIC_HOLIDAYS:
        return 0.002
    return 3 if at.hour in {12, 13} else 6


def seasonal(at: datetime) -> float:
    """Twelve an hour in the middle of July, one in April and October, none in winter."""
    share: float = 2.0 ** -(((at.timetuple().tm_yday - 200) / 45) ** 2)
    return BY_DAY[at.hour] * share


def rare(at: datetime) -> float:
    """Five a week."""
    return 5 / WEEK * BY_DAY[at.hour] / 10


def _starts() -> list[tuple[int, int]]:
    """When campaigns go out, in hours of the year, and how many answers each gets: none to two a
    week, on any working day.
    """
    chance = random.Random(9)
    return [
        (week * WEEK + chance.randrange(5) * 24 + chance.randrange(9, 17), chance.randint(50, 400))
        for week in range(52)
        for _ in range(2)
        if chance.random() < 0.95
    ]


CAMPAIGNS = _starts()
FADES = 18  # hours, in which two thirds of the answers to a campaign come


def campaigns(at: datetime) -> float:
    """Hundreds of answers after each campaign, ever fewer; in between one in some days."""
    hour = (at - NEW_YEAR) / timedelta(hours=1)
    since = [(hour - start, size) for start, size in CAMPAIGNS if 0 <= hour - start < 10 * FADES]
    return 0.02 + sum(size / FADES * exp(-ago / FADES) for ago, size in since)


def a_year(rate: Callable[[datetime], float], seed: int) -> list[int]:
    """How many came in each hour, by chance at this rate."""
    chance = random.Random(seed)
    counts = []
    for hour in range(YEAR):
        mean = rate((NEW_YEAR + timedelta(hours=hour)).astimezone(PARIS))
        until, count = chance.expovariate(1), 0
        if mean > 30:  # where it is the same, and takes less time
            until, count = mean, max(0, round(chance.gauss(mean, mean**0.5)))
        while until < mean:
            until, count = until + chance.expovariate(1), count + 1
        counts.append(count)
    return counts


def false_alarms(counts: Sequence[int]) -> list[datetime]:
    """When the channel was said to be silent, though nothing was wrong with it."""
    alarms, habit, last, told = [], Habit(YEAR), 0, False
    for now in range(YEAR):
        if not told and habit.first < now and habit.missing(last, now) >= ENOUGH:
            alarms.append((NEW_YEAR + timedelta(hours=now)).astimezone(PARIS))
            told = True
        if counts[now]:
            habit.first, last, told = min(habit.first, now), now, False
            habit.add(now, counts[now])
    return alarms


def hours_until_noticed(counts: Sequence[int], end: int) -> int:
    """How long nothing must come from an hour on."""
    heard = [hour for hour in range(end) if counts[hour]]
    habit = Habit(heard[0])
    for hour in heard:
        habit.add(hour, counts[hour])
    later = range(end, end + LONGEST)  # the longer, the more is missing
    return bisect_left(later, ENOUGH, key=lambda now: habit.missing(heard[-1], now))


@pytest.mark.parametrize(
    ("rate", "most_alarms", "usual_hours", "longest_hours"),
    [
        (busy, 0, 3, 8),
        (office_hours, 10, 24, 120),
        (seasonal, 6, 48, LONGEST),
        (rare, 0, LONGEST, LONGEST),
        (campaigns, 4, 96, LONGEST),
    ],
)
def test_a_year_of_traffic(
    rate: Callable[[datetime], float],
    most_alarms: int,
    usual_hours: int,
    longest_hours: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Few false alarms, of an office's channel on public holidays only, and a real silence is
    noticed the sooner the more comes.
    """
    counts = a_year(rate, seed=7)
    alarms = false_alarms(counts)
    chance = random.Random(8)
    ends = [chance.randrange(6 * WEEK, YEAR - 5 * WEEK) for _ in range(SILENCES)]
    ends = [end for end in ends if sum(counts[end - WEEK : end])]  # else it is out of season
    hours = [hours_until_noticed(counts, end) for end in ends]
    on_holidays = sum((one.month, one.day) in PUBLIC_HOLIDAYS for one in alarms)
    record_property(
        "proof",
        f"silence, {rate.__name__}: {sum(counts)} messages in a year, {len(alarms)} false alarms, "
        f"{on_holidays} of them on public holidays; of {len(hours)} real silences "
        f"{sum(one < LONGEST for one in hours)} noticed, half within {median(hours):g} h, "
        f"nine in ten within {sorted(hours)[len(hours) * 9 // 10]} h",
    )
    assert len(alarms) <= most_alarms
    assert rate is not office_hours or on_holidays == len(alarms)
    assert median(hours) <= usual_hours
    assert max(hours) <= longest_hours


def a_habit(weeks: int, hours: range, each: int = 12) -> tuple[Habit, int]:
    """So many weeks of messages in some hours of each day, and the hour after them."""
    habit = Habit(hours.start)
    for hour in range(weeks * WEEK):
        if hour % 24 in hours:
            habit.add(hour, each)
    return habit, weeks * WEEK


def test_nothing_is_said_of_what_is_not_known() -> None:
    """In the first two weeks there is no habit."""
    habit, end = a_habit(2, range(24))
    assert habit.missing(end - 1, end + 6) == 0  # an hour too few for two whole weeks
    habit, end = a_habit(3, range(24))
    assert habit.missing(end - 1, end + 6) == 5 * 12


def test_a_night_is_no_silence() -> None:
    """Nor a change of clocks, by which a morning or an evening is an hour off; two hours are."""
    habit, end = a_habit(4, range(9, 18))
    evening = end - 24 + 17
    assert [habit.missing(evening, end + hour) for hour in (0, 9, 10, 11)] == [0, 0, 0, 12]
    assert [habit.missing(evening - 1, end + hour) for hour in (0, 9, 10)] == [0, 0, 12]


def test_one_week_in_which_nothing_came_is_habit_too() -> None:
    """The fewest of the four weeks count."""
    habit, end = a_habit(5, range(24))
    for hour in range(end - 2 * WEEK, end - 2 * WEEK + 12):
        del habit.counts[hour]
    assert habit.missing(end - 1, end + 8) == 0
    assert habit.missing(end - 1, end + 24) > ENOUGH


def test_a_silence_of_weeks_is_held_against_the_weeks_before_it() -> None:
    """Not against itself; and nothing is kept for longer than is looked back to."""
    habit, end = a_habit(9, range(12, 13), each=1)
    assert habit.missing(end - 1, end + 3 * WEEK) == 3 * 7
    assert len(habit.counts) <= 5 * 7 + 1
