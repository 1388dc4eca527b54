"""The buckets, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

import pytest

from berinia_webhookd.accept.rate_limit import MAX_BUCKETS, RateLimit
from berinia_webhookd.addresses import client_key
from berinia_webhookd.config.settings import RateLimitSettings
from berinia_webhookd.errors import RateLimited
from berinia_webhookd.metrics import Metrics

ALICE = client_key(ip_address("203.0.113.1"))
BOB = client_key(ip_address("203.0.113.2"))


@dataclass
class Clock:
    """The event loop's time, moved by hand."""

    now: float = 1000.0


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stops the event loop's clock."""
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
    return clock


def limiter(requests: int = 3, per: float = 60, verified: int = 5, most: int = 10) -> RateLimit:
    return RateLimit(RateLimitSettings(requests, per, verified), Metrics(), max_buckets=most)


async def refused(
    action: Callable[[bytes], Awaitable[None] | None], key: bytes
) -> RateLimited | None:
    try:
        if (taking := action(key)) is not None:
            await taking
    except RateLimited as error:
        return error
    return None


async def test_a_bucket_holds_its_quota_and_refills_evenly(clock: Clock) -> None:
    """Five at once, then one every twelve seconds."""
    buckets = limiter()
    for _ in range(5):
        await buckets.verified.take(ALICE)
    error = await refused(buckets.verified.take, ALICE)
    assert error is not None
    assert error.retry_after_seconds == 12
    assert (error.policy, error.quota, error.window_seconds) == ("verified", 5, 60)
    clock.now += 12
    await buckets.verified.take(ALICE)
    assert await refused(buckets.verified.take, ALICE)


async def test_waiting_as_long_as_told_is_enough(clock: Clock) -> None:
    """After Retry-After there is a token, whatever the rate."""
    for requests, per in ((1, 1.0), (3, 7.0), (100, 60.0), (7, 0.5)):
        buckets = limiter(verified=requests, per=per)
        while not (error := await refused(buckets.verified.take, ALICE)):
            pass
        clock.now += error.retry_after_seconds
        await buckets.verified.take(ALICE)


async def test_failures_empty_one_bucket_and_verified_requests_another(clock: Clock) -> None:
    """Failing does not use up what verified requests have, nor the other way round."""
    buckets = limiter(requests=3, verified=5)
    for _ in range(3):
        buckets.failures.require_token(ALICE)
        await buckets.count_failure(ALICE)
    assert await refused(buckets.failures.require_token, ALICE)
    assert await refused(buckets.failures.take, ALICE)
    for _ in range(5):
        await buckets.verified.take(ALICE)
    buckets.failures.require_token(BOB)


async def test_asking_takes_nothing(clock: Clock) -> None:
    """A client that never fails is never refused, and leaves no bucket behind."""
    buckets = limiter(requests=1)
    for _ in range(50):
        buckets.failures.require_token(ALICE)
    assert len(buckets) == 0


async def test_failures_beyond_the_bucket_do_not_lengthen_the_refusal(clock: Clock) -> None:
    """What comes in at the same moment counts up to the quota only."""
    buckets = limiter(requests=3, per=60)
    for _ in range(100):
        await buckets.count_failure(ALICE)
    clock.now += 20
    buckets.failures.require_token(ALICE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:203.0.113.1", "203.0.113.1", True),
        ("::ffff:203.0.113.1", "::ffff:203.0.113.2", False),
        ("203.0.113.1", "203.0.113.2", False),
    ],
)
def test_what_counts_as_one_client(one: str, other: str, same: bool) -> None:
    """An IPv6 /64 is one client; a mapped IPv4 address is that IPv4 address."""
    assert (client_key(ip_address(one)) == client_key(ip_address(other))) is same


def test_the_unnamed_share_one_bucket() -> None:
    """Nobody's key is nobody else's."""
    assert client_key(None) not in {ALICE, client_key(ip_address("::")), b""}


async def test_new_limits_start_afresh_and_equal_ones_change_nothing(clock: Clock) -> None:
    """A reload that touches other settings frees nobody."""
    buckets = limiter(verified=1)
    await buckets.verified.take(ALICE)
    buckets.reconfigure(RateLimitSettings(3, 60, 1))
    assert await refused(buckets.verified.take, ALICE)
    buckets.reconfigure(RateLimitSettings(3, 60, 2))
    await buckets.verified.take(ALICE)
    await buckets.verified.take(ALICE)
    assert await refused(buckets.verified.take, ALICE)


async def test_full_buckets_are_dropped_first(clock: Clock) -> None:
    """Whoever is being refused stays refused while others' buckets are full again."""
    buckets = limiter(requests=3, most=10)
    for _ in range(3):
        await buckets.count_failure(ALICE)
    for number in range(100):
        clock.now += 19 / 100
        await buckets.count_failure(client_key(IPv4Address(number)))
        assert len(buckets) <= 10
    assert await refused(buckets.failures.require_token, ALICE)


async def test_the_bucket_nearest_to_full_goes_when_none_is(clock: Clock) -> None:
    """A flood of addresses that fail once frees nobody who failed often."""
    buckets = limiter(requests=3, most=10)
    for _ in range(3):
        await buckets.count_failure(ALICE)
    for number in range(1000):
        await buckets.count_failure(client_key(IPv4Address(number)))
    assert await refused(buckets.failures.require_token, ALICE)


async def test_a_flood_of_addresses_stays_within_the_table() -> None:
    """With the real clock and size: never more buckets than allowed."""
    buckets = RateLimit(RateLimitSettings(100, 60, 100), Metrics())
    for number in range(60_000):
        key = number.to_bytes(4)
        await buckets.count_failure(key)
        await buckets.verified.take(key)
    assert len(buckets) <= MAX_BUCKETS
