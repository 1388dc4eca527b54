"""Fixtures: the status pages on a real socket, seen by a caller of the test's choice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import orjson
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from berinia_webhookd.errors import (
    AddressRefused,
    ChannelNotConfigured,
    MalformedDelivery,
    Unauthorized,
)
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.model import Caller

LOOPBACK = ip_address("127.0.0.1")
Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = tuple[int, Any, dict[str, str]]
_STATUS: dict[type[Exception], int] = {
    MalformedDelivery: 400,
    Unauthorized: 401,
    AddressRefused: 403,
    ChannelNotConfigured: 503,
}


def caller(
    client: str | None = "127.0.0.1",
    *,
    host: str = "127.0.0.1:8001",
    forwarded: bool = False,
    peer_trusted: bool = True,
) -> Caller:
    """A caller on this machine, unless said otherwise: through a proxy on it, or directly."""
    address = None if client is None else ip_address(client)
    return Caller(
        peer=LOOPBACK if forwarded else address,
        client=address,
        scheme="http",
        host=host,
        forwarded=forwarded,
        peer_trusted=peer_trusted,
    )


Get = Callable[..., Awaitable[Answer]]


@pytest.fixture
def get(aiohttp_client: AiohttpClient) -> Get:
    """Reads a page: status, body (JSON decoded), headers."""

    async def get(
        page: Page, query: str = "", *, by: Caller | None = None, **headers: str
    ) -> Answer:
        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                request[CALLER] = by or caller()
                return await page(request)
            except tuple(_STATUS) as error:
                body = orjson.dumps(getattr(error, "invalid", ()))
                return web.Response(status=_STATUS[type(error)], body=body)

        application = web.Application()
        application.router.add_get("/", handler)
        client = await aiohttp_client(application)
        async with client.get(f"/{query}", headers=headers) as response:
            raw = await response.read()
            is_json = response.content_type in ("application/json", "application/octet-stream")
            return response.status, orjson.loads(raw) if is_json else raw, dict(response.headers)

    return get
