"""The types of options such as `--since`, an instant, and `--for`, a duration."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from berinia_webhookd.clock import now
from berinia_webhookd.model import LONGEST_PAUSE_SECONDS

_SPAN = re.compile(r"([0-9]{1,99})\s*([smhdw])")
_LONGEST: Final = timedelta(seconds=LONGEST_PAUSE_SECONDS)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Since(click.ParamType[datetime]):
    """`30m`, `2h`, `3d`, or ISO 8601; a time without an offset is UTC."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time, in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            return instant_of(str(value), now())
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither like 30m, 2h, 3d nor like 2026-03-01T12:00", param, ctx
            )


class Duration(click.ParamType[float]):
    """A duration such as `30m`, `12h` or `3d`, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        try:
            span = _span_of(str(value))
        except OverflowError:
            span = timedelta.max
        if not span:
            self.fail(f"{value!r} is not like 30m, 12h, 3d", param, ctx)
        if span > _LONGEST:
            self.fail(f"{value!r} is too long: {_LONGEST.days}d is the longest", param, ctx)
        return span.total_seconds()


def _span_of(text: str) -> timedelta | None:
    span = _SPAN.fullmatch(text.strip())
    return None if span is None else timedelta(**{_UNITS[span[2]]: int(span[1])})


def instant_of(text: str, now: datetime) -> datetime:
    """Return the time that a text means at `now`.

    Raises:
        ValueError, OverflowError: it is not a time.
    """
    if (ago := _span_of(text)) is not None:
        return now - ago
    instant = datetime.fromisoformat(text.strip())
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
