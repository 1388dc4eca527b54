"""How a provider's API is asked: again where that may help, and with a clear line where not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import aiohttp
import orjson
from yarl import URL

from berinia_webhookd.clock import doubling_pauses
from berinia_webhookd.errors import CannotStart, CannotStartNow
from berinia_webhookd.http_client import HttpClient, read_body

T = TypeVar("T")
Waits = Callable[[str, str, float], object]  # provider, why, and for how many seconds

PAUSES: Final = tuple(islice(doubling_pauses(1.0, 32.0), 6))  # a minute in all
LONGEST_PAUSE_SECONDS: Final = 120.0  # that a provider may ask for
ASK_SECONDS: Final = 60.0  # for a whole answer
LONGEST_BYTES: Final = 16 * 1024 * 1024  # of a list


class CredentialsRefused(CannotStart):
    """The provider does not know us."""


class AskAgain(Exception):
    """The answer may be another one in a while; the provider may say in how many seconds."""

    def __init__(self, why: str, after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds


async def patiently(
    ask: Callable[[], Awaitable[T]],
    provider: str,
    pauses: Iterable[float] = PAUSES,
    *,
    waits: Waits,
) -> T:
    """Ask, and again after pauses that grow; each is told to `waits` before it begins.

    Raises:
        CannotStartNow: it never answered.
    """
    for pause in pauses:
        try:
            return await ask()
        except AskAgain as error:
            asked = error.after_seconds
            seconds = pause if asked is None else min(asked, LONGEST_PAUSE_SECONDS)
            waits(provider, str(error), seconds)
            await asyncio.sleep(seconds)
    try:
        return await ask()
    except AskAgain as error:
        raise CannotStartNow(
            f"{provider} cannot be asked now: {error}",
            hint="give the same command again: nothing is taken in twice",
        ) from error


def days(since: datetime, until: datetime) -> Iterator[date]:
    """Yield the days of a time, in UTC, the oldest first."""
    first, last = since.astimezone(UTC).date(), until.astimezone(UTC).date()
    return (first + timedelta(number) for number in range((last - first).days + 1))


class Answer(NamedTuple):
    """What a provider answered."""

    status: int
    retry_after: str | None
    content: bytes  # one byte more than was allowed where it is longer

    def require_ok(self, provider: str) -> None:
        """Check that it is a 200.

        Raises:
            CredentialsRefused: the provider does not know us.
            AskAgain: too many requests, or a trouble of its own.
            CannotStartNow: any other status.
        """
        if self.status == HTTPStatus.OK:
            return
        if self.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise CredentialsRefused(f"{provider} refuses the credentials ({self.status})")
        if (
            self.status == HTTPStatus.TOO_MANY_REQUESTS
            or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            after = self.retry_after
            seconds = float(after) if after and after.isdecimal() else None
            raise AskAgain(f"it answers {self.status}", seconds)
        raise CannotStartNow(f"{provider} answers {self.status}")


async def answer_to(
    http: HttpClient,
    method: str,
    url: str,
    headers: Mapping[str, str],
    *,
    body: bytes | None = None,
    most_bytes: int = LONGEST_BYTES,
) -> Answer:
    """Send one request; `url` goes out as it is, and no redirect is followed.

    Raises:
        AskAgain: there is no answer.
    """
    try:
        async with http.request(
            method,
            URL(url, encoded=True),
            timeout_seconds=ASK_SECONDS,
            headers=headers,
            body=body,
        ) as answer:
            content = await read_body(answer, most_bytes + 1)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        raise AskAgain(f"there is no answer ({type(error).__name__})") from error
    return Answer(answer.status, answer.headers.get("Retry-After"), content)


def parsed(body: bytes) -> Any:
    """Read JSON. Whoever writes a mail may bring half characters and bytes that are no text into
    it, for which a strict reader refuses all.

    Raises:
        ValueError, RecursionError: it is none.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        found = json.loads(body.decode("utf-8", "replace"))
        return orjson.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
