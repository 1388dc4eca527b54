"""What the receiving stage says of a request to the pages that answer it."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from berinia_webhookd.model import Caller

CALLER: Final[web.RequestKey[Caller]] = web.RequestKey("caller", Caller)
