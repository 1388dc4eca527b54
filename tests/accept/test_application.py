"""The application as a whole: its routes, its middlewares, and what a reload changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berinia_webhookd.accept.receive import ChannelHandler, endpoint
from berinia_webhookd.config.settings import RateLimitSettings

from .test_real_channels import CHANNELS
from .world import CHAT_PATH, GOOD, RATE_LIMIT, SERVER, SMS_PATH, FakeChannel, World


async def test_the_middlewares_stand_in_their_order(world: World) -> None:
    """From the outermost in; aiohttp runs them as they are listed."""
    middlewares: list[Any] = list(world.receiver.application.middlewares)
    assert [middleware.__qualname__ for middleware in middlewares] == [
        "RequestContexts.middleware",
        "problems",
        "ProxyHeaders.middleware",
        "OwnRequests.middleware",
        "RateLimit.middleware",
        "SignatureCheck.middleware",
    ]


async def test_each_channel_has_a_handler_of_its_own(world: World) -> None:
    """Registered as the bound method of an object that has the channel."""
    for channel in CHANNELS.values():
        found = endpoint(channel, world.receiver.commits)
        handler = getattr(found.handle, "__self__", None)
        assert isinstance(handler, ChannelHandler)
        assert handler.channel is found.channel is channel
        assert found.methods == frozenset({"POST"})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (SMS_PATH, 200),
        (SMS_PATH + "?a=b", 200),
        (SMS_PATH + "?", 200),
        (SMS_PATH + "/", 404),
        ("/" + SMS_PATH, 404),
        (SMS_PATH.replace("sms", "%73ms"), 404),
        (SMS_PATH.replace("sms", "SMS"), 404),
        (SMS_PATH + ";a", 404),
        ("/webhook/../webhook/sms-response", 404),
        ("/webhook/./sms-response", 404),
        ("/Caf%C3%A9", 200),
        ("/Caf%c3%a9", 404),
        ("/%", 404),
    ],
)
async def test_paths_are_compared_byte_for_byte(served: World, path: str, status: int) -> None:
    """No two spellings share an endpoint."""
    served.have(served.sms, FakeChannel("cafe", "/Caf%C3%A9"))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n"
    fields = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
    reply = await served.raw(f"{head}{fields}\r\nid=1".encode())
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_reload_holds_from_the_next_request_on(world: World) -> None:
    """Limits, proxies and channels change without dropping the connection."""
    forwarded = {**GOOD, "X-Forwarded-For": "203.0.113.9"}
    assert (await world.post(headers=forwarded))[0] == 200
    moved = FakeChannel("sms", "/moved")
    world.receiver.reconfigure(
        replace(SERVER, trusted_proxies=(), max_connections=7),
        RateLimitSettings(100, 60, 1),
        channels=(moved,),
    )
    assert (await world.post(headers=forwarded))[0] == 404
    assert (await world.post(path="/moved", headers=forwarded))[0] == 200
    assert (await world.post(path="/moved", headers=forwarded))[0] == 429
    assert str(moved.seen[0].caller.client) == "127.0.0.1"
    assert (world.receiver.http.max_connections, world.receiver.http.trusted_proxies) == (7, ())
    assert (await world.get("/health"))[0] == 200


async def test_a_reload_frees_nobody_from_equal_limits(world: World) -> None:
    """Buckets are kept unless their limits changed."""
    limits = replace(RATE_LIMIT, verified_requests=1)
    world.receiver.reconfigure(SERVER, limits, channels=(world.sms,))
    assert (await world.post())[0] == 200
    world.receiver.reconfigure(SERVER, limits, channels=(world.sms,))
    assert (await world.post())[0] == 429


async def test_what_a_reload_takes_away_is_gone(world: World) -> None:
    """404 by any method; the pages stay."""
    world.have()
    for path in (SMS_PATH, CHAT_PATH):
        async with world.client.put(path) as response:
            assert response.status == 404
    assert (await world.get("/health"))[0] == 200
