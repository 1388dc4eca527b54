"""Formats durations, ages and counts."""

from __future__ import annotations

from datetime import datetime
from typing import Final

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return `1 event` or `2 events`; `many` is for other plurals."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Return a duration as `450 ms`, `12.3 s`, `4 min 5 s`, `3 h 20 min` or `2 d 4 h`."""
    if round(seconds, 3) < 1:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, below, small in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def age(instant: datetime, now: datetime) -> str:
    """Return an age as `4 min ago`, in the largest unit, or `just now`."""
    seconds = int((now - instant).total_seconds())
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"), (1, "s")):
        if seconds >= unit:
            return f"{seconds // unit} {name} ago"
    return "just now"
