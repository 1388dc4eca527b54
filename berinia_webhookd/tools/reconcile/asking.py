"""How a provider's API is asked: again where that may help, and with a clear line where not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from berinia_webhookd.clock import doubling_pauses
from berinia_webhookd.errors import CannotStart, CannotStartNow

T = TypeVar("T")

PAUSES: Final = tuple(islice(doubling_pauses(1.0, 32.0), 6))  # a minute in all
LONGEST_PAUSE_SECONDS: Final = 120.0  # that a provider may ask for


class CredentialsRefused(CannotStart):
    """The provider does not know us."""


class AskAgain(Exception):
    """The answer may be another one in a while; the provider may say in how many seconds."""

    def __init__(self, why: str, after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


async def patiently(
    ask: Callable[[], Awaitable[T]], provider: str, pauses: Iterable[float] = PAUSES
) -> T:
    """Ask, and again after pauses that grow.

    Raises:
        CannotStartNow: it never answered.
    """
    for pause in pauses:
        try:
            return await ask()
        except AskAgain as error:
            asked = error.after_seconds
            await asyncio.sleep(pause if asked is None else min(asked, LONGEST_PAUSE_SECONDS))
    try:
        return await ask()
    except AskAgain as error:
        raise CannotStartNow(
            f"{provider} cannot be asked now: {error}",
            hint="what was taken in is here; give the same command again",
        ) from error


def days(since: datetime, until: datetime) -> Iterator[date]:
    """Yield the days of a time, in UTC, the oldest first."""
    first, last = since.astimezone(UTC).date(), until.astimezone(UTC).date()
    return (first + timedelta(number) for number in range((last - first).days + 1))


def status_error(provider: str, status: int, retry_after: str | None) -> Exception:
    """Return what an answer other than 200 means."""
    if status in {401, 403}:
        return CredentialsRefused(f"{provider} refuses the credentials ({status})")
    if status == 429 or status >= 500:  # noqa: PLR2004 - too many requests, and its own trouble
        after = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return AskAgain(f"it answers {status}", after)
    return CannotStartNow(f"{provider} answers {status}")
