"""The receiving application: one visible list of middlewares, and one handler for all paths.

Paths are compared byte for byte as they came, so that no two spellings share a page; what lies on
which path is the door's business and may change while running. aiohttp's router would do neither,
and costs every request as much as checking a signature.
"""

from __future__ import annotations

from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from berinia_webhookd.accept.access_log import access_log
from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.problems import problems
from berinia_webhookd.accept.signature_check import signature_check
from berinia_webhookd.accept.visit import PROVEN, VISIT
from berinia_webhookd.accept.webhook import receive
from berinia_webhookd.errors import MalformedDelivery, MethodNotAllowed, UnknownPath


def build_handler(door: Door) -> Handler:
    """The whole application as one handler; run it with `server.make_runner`."""
    middlewares = [
        access_log(door),  # outermost
        problems(door),
        proxy_headers(door),
        signature_check(door),
        token_bucket(door),
    ]
    handler = _serve(door)
    for middleware in reversed(middlewares):
        handler = partial(middleware, handler=handler)
    return handler


def proxy_headers(door: Door) -> Middleware:
    """Finds out who is calling; see `proxy_headers.py`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.raw_path.startswith("/"):
            raise MalformedDelivery("The request target must begin with a slash.")
        request[VISIT].comes_from(door.proxy_headers.caller(request))
        return await handler(request)

    return middleware


def token_bucket(door: Door) -> Middleware:
    """Takes a token for what verified, and for what is read; see `rate_limit.py`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        visit = request[VISIT]
        if visit.channel is not None:
            door.limiter.take_verified(visit.key)
        elif visit.page is not None and visit.page.limited:
            door.limiter.take_reading(visit.key)
        return await handler(request)

    return middleware


def _serve(door: Door) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        visit = request[VISIT]
        if visit.channel is not None:
            return await receive(request, door, visit, visit.channel, request[PROVEN])
        if visit.page is None:
            raise UnknownPath("There is nothing here.")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("This can only be read.", allowed=("GET", "HEAD"))
        return await visit.page.handler(request, visit.caller)

    return handler
