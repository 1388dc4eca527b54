"""Middleware: two token buckets per client address, asked and never waited for. One is emptied by
requests that fail verification or authentication (and by reading) and is asked before a body is
read; one is emptied by requests that verified, which `signature_check` takes from. Each is an
`AsyncLimiter` of aiolimiter, by its public methods alone.

An IPv6 client is its /64 network. The table is bounded; when it is full, the bucket that is full
again (or nearest to it) is dropped, so that a flood of addresses frees nobody who is being refused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from heapq import heappop, heappush, heapreplace
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from aiolimiter import AsyncLimiter

from berinia_webhookd.accept.request_context import CONTEXT, RequestContext
from berinia_webhookd.config.settings import RateLimitSettings
from berinia_webhookd.errors import RateLimited
from berinia_webhookd.metrics import Metrics

MAX_BUCKETS: Final = 50_000
_STEPS_PER_ARRIVAL: Final = 16  # bounds the work of finding a bucket to drop
_HALVINGS: Final = 7  # a level is found to 1/128


class _Buckets:
    """One kind of bucket for many clients; each stands once in the heap, ordered by when it will
    be full, with an instant that may be out of date but is never late.
    """

    def __init__(self, policy: str, quota: int, window_seconds: float, most: int) -> None:
        self.policy = policy
        self.quota = quota
        self.window_seconds = window_seconds
        self._most = most
        self._limiters: dict[bytes, AsyncLimiter] = {}
        self._by_full_at: list[tuple[float, bytes]] = []
        self._precision_seconds = window_seconds / 2**_HALVINGS
        self._clock = asyncio.get_running_loop().time

    def __len__(self) -> int:
        return len(self._limiters)

    def require_token(self, key: bytes) -> None:
        """Raise `RateLimited` when the bucket is empty; takes nothing."""
        limiter = self._limiters.get(key)
        if limiter is not None and not limiter.has_capacity():
            raise self._refusal(limiter)

    def take(self, key: bytes) -> Awaitable[None]:
        """Take a token, or raise `RateLimited`; what it returns never waits."""
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._add(key)
        if not limiter.has_capacity():
            raise self._refusal(limiter)
        return limiter.acquire()  # which does not give up its turn, since there is capacity

    def _add(self, key: bytes) -> AsyncLimiter:
        if len(self._limiters) >= self._most:
            self._drop_one()
        limiter = self._limiters[key] = AsyncLimiter(self.quota, self.window_seconds)
        heappush(self._by_full_at, (self._clock(), key))
        return limiter

    def _drop_one(self) -> None:
        """Drop the bucket that is full, or will be first, as far as a few steps show."""
        now, heap = self._clock(), self._by_full_at
        for _ in range(_STEPS_PER_ARRIVAL):
            noted, key = heap[0]
            actual = now + _seconds_until(self._limiters[key], self.quota)
            if actual <= max(noted, now) + self._precision_seconds:
                break
            heapreplace(heap, (actual, key))
        _, key = heappop(heap)
        del self._limiters[key]

    def _refusal(self, limiter: AsyncLimiter) -> RateLimited:
        return RateLimited(
            "Too many requests from this address.",
            retry_after_seconds=max(1, math.ceil(_seconds_until(limiter, 1))),
            policy=self.policy,
            quota=self.quota,
            window_seconds=max(1, math.ceil(self.window_seconds)),
        )


def _seconds_until(limiter: AsyncLimiter, tokens: float) -> float:
    """Return how long until there are so many tokens, found by asking: never too short."""
    if limiter.has_capacity(tokens):
        return 0.0
    there, step = 0.0, tokens / 2
    for _ in range(_HALVINGS):
        if limiter.has_capacity(there + step):
            there += step
        step /= 2
    return (tokens - there) * limiter.time_period / limiter.max_rate


class RateLimit:
    """The buckets of all clients, and the middleware that asks them: `failures` are emptied by
    requests that fail verification and by reading, `verified` by those that verified.
    """

    def __init__(
        self, settings: RateLimitSettings, metrics: Metrics, *, max_buckets: int = MAX_BUCKETS
    ) -> None:
        self._most = max_buckets // 2
        self._settings = settings
        self._rate_limited_total = metrics.rate_limited_total
        self._throttle = Throttle()
        self._fill()

    def reconfigure(self, settings: RateLimitSettings) -> None:
        """Take new limits; everybody starts afresh if they changed."""
        if settings != self._settings:
            self._settings = settings
            self._fill()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse clients that failed too often or read too much; log and count those that are
        refused further in as well.
        """
        context = request[CONTEXT]
        client, endpoint = context.bucket, context.endpoint
        try:
            if endpoint.channel is not None:
                self.failures.require_token(client)
            elif endpoint.limited:
                await self.failures.take(client)
            return await handler(request)
        except RateLimited as error:
            self._note(context, error)
            raise

    async def count_failure(self, client: bytes) -> None:
        """Note that a request failed verification; what the bucket cannot hold is forgotten."""
        try:
            await self.failures.take(client)
        except RateLimited:
            return  # it came while others of this client were being refused

    def __len__(self) -> int:
        return len(self.failures) + len(self.verified)

    def _fill(self) -> None:
        settings = self._settings
        window = settings.per_seconds
        self.failures = _Buckets("unverified", settings.requests, window, self._most)
        self.verified = _Buckets("verified", settings.verified_requests, window, self._most)

    def _note(self, context: RequestContext, error: RateLimited) -> None:
        self._rate_limited_total.labels(channel=context.endpoint.label).inc()
        if self._throttle.due():
            skipped = self._throttle.take_skipped()
            context.log.warning("rate_limit.exceeded", bucket=error.policy, skipped=skipped)


class Throttle:
    """A throttle: at most one yes per interval; it counts the others."""

    def __init__(self, interval_seconds: float = 1.0) -> None:
        self._interval_seconds = interval_seconds
        self._clock = asyncio.get_running_loop().time
        self._next = 0.0
        self._skipped = 0

    def due(self) -> bool:
        """Whether it is time again."""
        now = self._clock()
        if now < self._next:
            self._skipped += 1
            return False
        self._next = now + self._interval_seconds
        return True

    def take_skipped(self) -> int:
        """Return how many were told no since this was last asked."""
        skipped, self._skipped = self._skipped, 0
        return skipped
