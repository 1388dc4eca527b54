"""Outermost: gives each request its id, finds what it asks for, and writes its one line and its
metrics when it is over. Nothing of a query string, a header or a body gets into that line.
"""

from __future__ import annotations

import re
from functools import lru_cache
from time import perf_counter
from typing import Final

import uuid_utils
from aiohttp import web
from aiohttp.typedefs import Handler

from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.visit import Step, Visit

SERVER: Final = "berinia-webhookd"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_HUNG_UP: Final = 499  # as nginx writes it
_SHOWN_PATH_CHARACTERS: Final = 200
_CACHED_CHILDREN: Final = 256


def new_request_id() -> str:
    """Unique, and unguessable enough not to be mixed up with somebody else's."""
    return uuid_utils.uuid4().hex


def shown_path(path: str) -> str:
    """A path for people's eyes: bounded, and without anything a terminal would act on."""
    shown = path[:_SHOWN_PATH_CHARACTERS]
    if shown.isascii() and shown.isprintable():
        return shown if len(path) <= _SHOWN_PATH_CHARACTERS else shown + "..."
    return ascii(shown)[1:-1]


def access_log(door: Door, inner: Step) -> Handler:
    """Request ids, the access log, request metrics."""
    metrics = door.metrics
    requests_total = lru_cache(_CACHED_CHILDREN)(
        lambda label, status: metrics.requests_total.labels(channel=label, status=str(status))
    )
    answer_seconds = lru_cache(_CACHED_CHILDREN)(
        lambda label: metrics.answer_seconds.labels(channel=label)
    )

    async def handler(request: web.Request) -> web.StreamResponse:
        begun = perf_counter()  # the loop's clock counts whole milliseconds
        visit = _arrive(request, door)
        status = _HUNG_UP
        try:
            response = await inner(request, visit)
            status = response.status
            response.headers["X-Request-ID"] = visit.request_id
            response.headers["Server"] = SERVER
            if door.stopping.is_set():
                response.force_close()  # the next request is another process's
            return response
        finally:
            seconds = perf_counter() - begun
            requests_total(visit.label, status).inc()
            answer_seconds(visit.label).observe(seconds)
            door.log.info(
                "request.finished",
                **visit.whose,
                method=request.method,
                path=shown_path(visit.path),
                status=status,
                duration_ms=round(seconds * 1000, 1),
            )

    return handler


def _arrive(request: web.Request, door: Door) -> Visit:
    wanted = request.headers.get("X-Request-ID")
    known = wanted is not None and _REQUEST_ID.fullmatch(wanted)
    path = request.raw_path.partition("?")[0]
    channel = door.channels.get(path)
    page = None if channel is not None else door.pages.get(path)
    label = channel.name if channel else page.label if page else "other"
    return Visit(
        request_id=wanted if wanted is not None and known else new_request_id(),
        path=path,
        label=label,
        channel=channel,
        page=page,
    )
