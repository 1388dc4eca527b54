"""`GET /`: says that this is the daemon, and nothing more."""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import web

from berinia_webhookd.model import Caller

_BODY: Final = orjson.dumps({"status": "ok", "service": "berinia-webhookd"})


async def greeting_page(request: web.Request, caller: Caller) -> web.StreamResponse:
    """Answers `GET /`."""
    del request, caller
    return web.Response(body=_BODY, headers={"Content-Type": "application/json"})
