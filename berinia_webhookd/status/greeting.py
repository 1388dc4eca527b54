"""`GET /`: the name of the daemon, and nothing more."""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import web

_BODY: Final = orjson.dumps({"status": "ok", "service": "berinia-webhookd"})


async def greeting(request: web.Request) -> web.StreamResponse:
    """Answer `GET /`."""
    del request
    return web.Response(body=_BODY, headers={"Content-Type": "application/json"})
