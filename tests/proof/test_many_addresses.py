"""A million client addresses against the limiter: bounded memory, and whoever floods stays out."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from berinia_webhookd.accept.rate_limit import MAX_BUCKETS, RateLimit
from berinia_webhookd.addresses import client_key
from berinia_webhookd.config.settings import RateLimitSettings
from berinia_webhookd.errors import RateLimited
from berinia_webhookd.metrics import Metrics

from .conftest import Say

ADDRESSES = 1_000_000
FLOODER = client_key(IPv4Address("192.0.2.7"))
MOST_MIB = 64


def memory_kib() -> int:
    """What this process has in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.timeout(900)  # it computes alone, on a machine that may be busy
async def test_a_million_addresses_stay_within_the_table(say: Say) -> None:
    """Never more buckets than allowed; who has used up his own is not forgotten for the crowd."""
    limiter = RateLimit(RateLimitSettings(100, 3600, 100), Metrics())
    before = memory_kib()
    for number in range(ADDRESSES):
        await limiter.count_failure(number.to_bytes(4))
        if number % 500 == 0:
            await limiter.count_failure(FLOODER)
    used_mib = (memory_kib() - before) // 1024
    say("client addresses", tried=ADDRESSES, kept=len(limiter), MiB=used_mib)
    assert len(limiter) <= MAX_BUCKETS
    assert used_mib <= MOST_MIB
    with pytest.raises(RateLimited):
        limiter.failures.require_token(FLOODER)


def test_the_addresses_of_one_network_share_a_bucket() -> None:
    """Nobody has a /64 of buckets."""
    keys = {client_key(IPv6Address(f"2001:db8::{number:x}")) for number in range(10_000)}
    assert len(keys) == 1
