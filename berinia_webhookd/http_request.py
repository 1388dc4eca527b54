"""What the receiving stage stores on a request for the pages that answer it."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from berinia_webhookd.model import Caller

CALLER: Final[web.RequestKey[Caller]] = web.RequestKey("caller", Caller)
