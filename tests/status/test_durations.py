"""How long, and how long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from berinia_webhookd.status.durations import age, duration

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.0004, "0 ms"),
        (0.45, "450 ms"),
        (0.9996, "1.0 s"),
        (1, "1.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min"),
        (60, "1 min"),
        (245, "4 min 5 s"),
        (3599.7, "1 h"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_how_long_something_took(seconds: float, shown: str) -> None:
    """In the two largest units that say something."""
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("ago", "shown"),
    [
        (timedelta(0), "just now"),
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=1), "1 s ago"),
        (timedelta(seconds=119), "1 min ago"),
        (timedelta(hours=23, minutes=59), "23 h ago"),
        (timedelta(days=40), "40 d ago"),
    ],
)
def test_how_long_ago_something_was(ago: timedelta, shown: str) -> None:
    """In the largest unit; a clock that is a little ahead makes no future."""
    assert age(NOW - ago, NOW) == shown
