"""The receiving application: one handler for all paths, in which every step of a request stands in
its order, from the outermost in.

Paths are compared byte for byte as they came, so that no two spellings share a page; what lies on
which path is the door's business and may change while running. aiohttp's router would do neither,
and costs every request as much as checking a signature.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from berinia_webhookd.accept.access_log import access_log
from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.problems import problems
from berinia_webhookd.accept.reply_wait import answered
from berinia_webhookd.accept.signature_check import signature_check
from berinia_webhookd.accept.visit import Step, Visit
from berinia_webhookd.accept.webhook import receive
from berinia_webhookd.channels.contract import Answer
from berinia_webhookd.errors import MalformedDelivery, MethodNotAllowed, UnknownPath


def build_handler(door: Door) -> Handler:
    """The whole application as one handler; run it with `server.make_runner`."""
    return access_log(door, problems(door, _answer(door)))


def _answer(door: Door) -> Step:
    async def answer(request: web.Request, visit: Visit) -> web.StreamResponse:
        if not request.raw_path.startswith("/"):
            raise MalformedDelivery("The request target must begin with a slash.")
        visit.comes_from(door.proxy_headers.caller(request))
        channel = visit.channel
        if channel is None:
            return await _read(request, door, visit)
        with door.budget.reservation(visit.key) as reservation:
            proven = await signature_check(request, door, visit, channel, reservation)
            await door.limiter.take_verified(visit.key)
            if isinstance(proven, Answer):  # a handshake: what it repeats is no page of ours
                return answered(proven, {"X-Content-Type-Options": "nosniff"})
            return await receive(request, door, visit, channel, proven)

    return answer


async def _read(request: web.Request, door: Door, visit: Visit) -> web.StreamResponse:
    page = visit.page
    if page is None:
        raise UnknownPath("There is nothing here.")
    if page.limited:
        await door.limiter.take_reading(visit.key)
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("This can only be read.", allowed=("GET", "HEAD"))
    return await page.handler(request, visit.caller)
