"""Middleware: finds the requests of this very installation by their mark. One that carries a mark
of another making is refused, since no provider sends such a header, and a probe that is not
recognised would become a message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from berinia_webhookd import sample_keys
from berinia_webhookd.accept.loopback_guard import LoopbackGuard
from berinia_webhookd.accept.request_context import CONTEXT
from berinia_webhookd.addresses import is_this_machine
from berinia_webhookd.clock import now
from berinia_webhookd.errors import SignatureInvalid
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.model import SampleKey
from berinia_webhookd.own_requests import HEADER, InstallationKey, Mark, Purpose

_LONGEST_SHOWN: Final = 300


class OwnRequests:
    """The middleware: a request of ours has a `mark` in its context."""

    def __init__(
        self,
        key: InstallationKey,
        guard: LoopbackGuard,
        runtime: Path,
        clock: Callable[[], datetime] = now,
    ) -> None:
        """`runtime` is the folder in which `send` leaves its keys."""
        self._key = key
        self._guard = guard
        self._runtime = runtime
        self._clock = clock

    @web.middleware
    def middleware(self, request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        """Hand on at once what carries no mark."""
        header = request.headers.get(HEADER)
        return handler(request) if header is None else self._marked(request, handler, header)

    async def _marked(
        self, request: web.Request, handler: Handler, header: str
    ) -> web.StreamResponse:
        """Note the mark; what the guard of loopback sent has arrived, whatever its path.

        Raises:
            SignatureInvalid: another installation's, or too old.
        """
        mark = self._key.proven(header, self._clock())
        if mark is None:
            raise SignatureInvalid("This is no probe of this installation.")
        if mark.purpose is Purpose.ARRIVAL:
            self._guard.note_arrival(mark.nonce, forwarded_for(request))
            return web.Response(status=web.HTTPNoContent.status_code)
        context = request[CONTEXT]
        context.mark = mark
        context.said["sample"] = True
        if mark.purpose is Purpose.SAMPLE:
            context.sample_key = self._sample_key(request, mark)
        return await handler(request)

    def _sample_key(self, request: web.Request, mark: Mark) -> SampleKey | None:
        channel = request[CONTEXT].endpoint.channel
        if channel is None or channel.can_sign or not is_this_machine(request[CALLER]):
            return None
        file = sample_keys.file_of(self._runtime, mark.nonce)
        return sample_keys.read(file, channel.name, self._clock())


def forwarded_for(request: web.Request) -> str:
    """Return the header as it arrived."""
    return ",".join(request.headers.getall("X-Forwarded-For", ()))


def how_it_arrived(request: web.Request, body_sha256: str) -> str:
    """Say how a probe looked when it arrived: ASCII alone, whatever its host was."""
    caller = request[CALLER]
    seen = {
        "scheme": caller.scheme,
        "host": caller.host[:_LONGEST_SHOWN],
        "client": None if caller.client is None else str(caller.client),
        "forwarded": caller.forwarded,
        "forwarded_for": forwarded_for(request)[-_LONGEST_SHOWN:],
        "peer_trusted": caller.peer_trusted,
        "body_sha256": body_sha256,
        "process": os.getpid(),
    }
    return json.dumps(seen)
