"""Posts signed requests, one after another or at a rate, and times each answer. It follows no
redirect, uses no proxy, and reads at most 64 KiB of an answer.
"""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import click
from yarl import URL

from berinia_webhookd.addresses import is_loopback
from berinia_webhookd.channels.contract import SignedRequest
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.http_client import HttpClient, read_body

AT_ONCE: Final = 64
MAX_ANSWER_BYTES: Final = 64 * 1024
TIMEOUT_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """The server to post to: a TCP address, or a Unix socket on this machine."""

    base_url: str  # scheme://host[:port]
    unix_socket: str | None = None

    @classmethod
    def from_text(cls, text: str, path: str = "/") -> Target:
        """Read `http://host:port`, `host:port` or `unix:/path`; a URL may go on with the path to
        post to.

        Raises:
            click.UsageError: it is none of them.
        """
        if text.startswith("unix:/"):
            return cls("http://localhost", text.removeprefix("unix:"))
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            parts.port  # noqa: B018 - reading it is what checks it
        except ValueError as error:
            raise click.UsageError(f"--to {text!r}: {error}") from error
        extra = parts.query or parts.fragment or "@" in parts.netloc
        extra = extra or parts.path not in {"", "/", path}
        if parts.scheme not in {"http", "https"} or not parts.hostname or extra:
            raise click.UsageError(
                f"--to {text!r} is not http://host:port, nor http://host:port{path.rstrip('/')}"
            )
        return cls(f"{parts.scheme}://{parts.netloc}")

    def is_loopback(self) -> bool:
        """Whether every address of the name is a loopback address.

        Raises:
            WebhookdError: the name cannot be resolved.
        """
        if self.unix_socket is not None:
            return True
        host = urlsplit(self.base_url).hostname or ""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise WebhookdError(f"{host} cannot be resolved", hint="see --to") from error
        return all(is_loopback(str(address[0])) for *_, address in found)

    def __str__(self) -> str:
        return f"unix:{self.unix_socket}" if self.unix_socket else self.base_url


@dataclass(frozen=True, slots=True)
class Posted:
    """The answer to one request."""

    number: int  # from 1, in the order of sending
    status: int
    reason: str
    answer: str
    latency_seconds: float


@dataclass
class Tally:
    """The answers to all requests, counted."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    broken: WebhookdError | None = None  # why the rest got no answer
    _latencies: array[float] = field(default_factory=lambda: array("d"))

    @property
    def sent(self) -> int:
        """The number of answers."""
        return len(self._latencies)

    def add(self, posted: Posted) -> None:
        """Count one answer."""
        self.statuses[posted.status] += 1
        self._latencies.append(posted.latency_seconds)

    def latencies(self) -> dict[str, float]:
        """Return the smallest, the median, the 95th percentile and the largest, in seconds."""
        ordered = sorted(self._latencies)
        last = len(ordered) - 1
        places = {"min": 0, "median": last // 2, "p95": round(last * 0.95), "max": last}
        return {name: ordered[place] for name, place in places.items()} if ordered else {}


async def post(
    client: HttpClient,
    target: Target,
    request: SignedRequest,
    number: int,
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Posted:
    """Post one request and return its answer.

    Raises:
        TimeoutError, aiohttp.ClientError, OSError: there is none.
    """
    began = perf_counter()
    async with client.request(
        "POST",
        URL(target.base_url + request.path, encoded=True),
        body=request.body,
        headers=request.headers,
        timeout_seconds=timeout_seconds,
    ) as response:
        answer = await read_body(response, MAX_ANSWER_BYTES)
        status, reason = response.status, response.reason or ""
    text = answer.decode("utf-8", "replace")
    return Posted(number, status, reason, text, perf_counter() - began)


async def post_all(
    target: Target,
    sign: Callable[[], SignedRequest],
    *,
    count: int,
    rate: float | None,
    posted: Callable[[Posted], None],
) -> Tally:
    """Post `count` requests, each signed just before; `posted` gets each answer. If one gets no
    answer, it stops, and the tally says why.
    """
    tally = Tally()
    places = asyncio.Semaphore(AT_ONCE if rate else 1)
    began = perf_counter()
    try:
        async with (
            HttpClient(unix_socket=target.unix_socket) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(1, count + 1):
                if rate:
                    await asyncio.sleep(max(0.0, began + (number - 1) / rate - perf_counter()))
                await places.acquire()
                poster = _Poster(client, target, places, tally, posted)
                group.create_task(poster.post(number, sign()))
    except ExceptionGroup as errors:
        expected, others = errors.split((aiohttp.ClientError, OSError))
        if expected is None or others is not None:
            raise
        tally.broken = _unreachable(target, expected.exceptions[0])
    tally.seconds = perf_counter() - began
    return tally


@dataclass(frozen=True, slots=True)
class _Poster:
    client: HttpClient
    target: Target
    places: asyncio.Semaphore
    tally: Tally
    posted: Callable[[Posted], None]

    async def post(self, number: int, request: SignedRequest) -> None:
        try:
            one = await post(self.client, self.target, request, number)
        finally:
            self.places.release()
        self.tally.add(one)
        self.posted(one)


def _unreachable(target: Target, error: BaseException) -> WebhookdError:
    if isinstance(error, aiohttp.ClientConnectorError):
        return WebhookdError(
            f"{target} cannot be reached: {error.os_error.strerror or error.os_error}",
            hint="is it running?",
        )
    if isinstance(error, TimeoutError):
        return WebhookdError(f"{target} did not answer within {TIMEOUT_SECONDS:.0f} s")
    return WebhookdError(f"{target} closed the connection: {str(error) or type(error).__name__}")
