"""Two token buckets per client address, asked and never waited for: one is emptied by requests
that fail verification or authentication (and by reading), one by requests that verified.

An IPv6 client is its /64 network. The table is bounded; when it is full, the bucket that is full
again (or nearest to it) is dropped, so that a flood of addresses frees nobody who is being refused.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush, heapreplace
from typing import Final

from aiolimiter import AsyncLimiter

from berinia_webhookd.addresses import believed_addresses, unmapped
from berinia_webhookd.config.settings import RateLimitSettings
from berinia_webhookd.errors import RateLimited
from berinia_webhookd.model import Caller, IPAddress

MAX_BUCKETS: Final = 50_000
_STEPS_PER_ARRIVAL: Final = 16  # bounds the work of finding a bucket to drop
_IPV6_NETWORK_BYTES: Final = 8
_NOBODY: Final = b"?"  # all whom no proxy names share one bucket


def client_key(client: IPAddress | None) -> bytes:
    """What counts as one client: an IPv4 address, an IPv6 /64, or all the unnamed together."""
    return _NOBODY if client is None else unmapped(client).packed[:_IPV6_NETWORK_BYTES]


def caller_key(caller: Caller) -> bytes:
    """Return whose buckets a request takes from. A proxy without its headers makes everybody look
    like this machine, or like itself: they share the bucket of the unnamed.
    """
    believed = believed_addresses(caller)
    return client_key(believed[0] if believed else None)


class Bucket(AsyncLimiter):
    """An `AsyncLimiter` whose caller takes a token now or not at all."""

    __slots__ = ()

    def take(self) -> bool:
        """Take a token; False when there is none."""
        if not self.has_capacity():
            return False
        self._level += 1
        return True

    @property
    def full_at(self) -> float:
        """When, on the event loop's clock, this bucket is as good as new; moves with each token."""
        return self._last_check + self._level / self._rate_per_sec

    @property
    def seconds_to_a_token(self) -> float:
        """As of the last question asked."""
        return max(0.0, (self._level + 1 - self.max_rate) / self._rate_per_sec)


class _Buckets:
    """One kind of bucket for many clients; each stands once in the heap, ordered by when it will
    be full, with an instant that may be out of date but is never late.
    """

    def __init__(self, policy: str, quota: int, window_seconds: float, most: int) -> None:
        self.policy = policy
        self.quota = quota
        self.window_seconds = window_seconds
        self._most = most
        self._buckets: dict[bytes, Bucket] = {}
        self._by_full_at: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._buckets)

    def require_token(self, key: bytes) -> None:
        """Raise `RateLimited` when the bucket is empty; takes nothing."""
        bucket = self._buckets.get(key)
        if bucket is not None and not bucket.has_capacity():
            raise self._refusal(bucket)

    def take(self, key: bytes) -> None:
        """Take a token, or raise `RateLimited`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._add(key)
        if not bucket.take():
            raise self._refusal(bucket)

    def _add(self, key: bytes) -> Bucket:
        if len(self._buckets) >= self._most:
            self._drop_one()
        bucket = self._buckets[key] = Bucket(self.quota, self.window_seconds)
        heappush(self._by_full_at, (bucket.full_at, key))
        return bucket

    def _drop_one(self) -> None:
        heap = self._by_full_at
        for _ in range(_STEPS_PER_ARRIVAL):
            noted, key = heap[0]
            actual = self._buckets[key].full_at
            if actual <= noted:
                break
            heapreplace(heap, (actual, key))
        _, key = heappop(heap)
        del self._buckets[key]

    def _refusal(self, bucket: Bucket) -> RateLimited:
        return RateLimited(
            "Too many requests from this address.",
            retry_after_seconds=max(1, math.ceil(bucket.seconds_to_a_token)),
            policy=self.policy,
            quota=self.quota,
            window_seconds=max(1, math.ceil(self.window_seconds)),
        )


class RateLimiter:
    """The buckets of all clients. Every method that raises, raises `RateLimited`."""

    def __init__(self, settings: RateLimitSettings, *, max_buckets: int = MAX_BUCKETS) -> None:
        self._most = max_buckets // 2
        self._settings = settings
        self._fill()

    def reconfigure(self, settings: RateLimitSettings) -> None:
        """Take new limits; everybody starts afresh if they changed."""
        if settings != self._settings:
            self._settings = settings
            self._fill()

    def require_no_flood(self, client: bytes) -> None:
        """Raise if this client's bucket of failures is empty; asked before a body is read."""
        self._failures.require_token(client)

    def count_failure(self, client: bytes) -> None:
        """Note that a request failed verification; what the bucket cannot hold is forgotten."""
        try:
            self._failures.take(client)
        except RateLimited:
            return  # it came while others of this client were being refused

    def take_reading(self, client: bytes) -> None:
        """One request of a reading endpoint."""
        self._failures.take(client)

    def take_verified(self, client: bytes) -> None:
        """One request that verified."""
        self._verified.take(client)

    def __len__(self) -> int:
        return len(self._failures) + len(self._verified)

    def _fill(self) -> None:
        settings = self._settings
        window = settings.per_seconds
        self._failures = _Buckets("unverified", settings.requests, window, self._most)
        self._verified = _Buckets("verified", settings.verified_requests, window, self._most)
