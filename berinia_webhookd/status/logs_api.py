"""`GET /webhook/logs`: the last lines of one of the unified logs, behind a password. The file is
one of a fixed list; nothing from the request becomes part of a path.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qs

import orjson
from aiohttp import BasicAuth, web

from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import ChannelNotConfigured, MalformedDelivery, Unauthorized
from berinia_webhookd.logs.reading import EVERYTHING, log_file, log_types, tail

DEFAULT_LINES: Final = 50
MAX_LINES: Final = 1000
_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
_READERS: Final = 2  # at once; each may hold `tail.MAX_READ_BYTES`


class LogsPage:
    """The page `GET /webhook/logs`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.logs
        self._types = log_types(settings.channels)
        self._readers = asyncio.Semaphore(_READERS)

    def reconfigure(self, settings: Settings) -> None:
        """Take effect from the next request on."""
        self._settings = settings.logs
        self._types = log_types(settings.channels)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer with the lines.

        Raises:
            ChannelNotConfigured: no password is set.
            Unauthorized: the password is missing or wrong.
            MalformedDelivery: `lines` or `type` is not valid.
        """
        self._require_password(request.headers.get("Authorization"))
        log_type, lines = _asked_for(request.raw_path.partition("?")[2], self._types)
        async with self._readers:
            found = await asyncio.to_thread(tail, log_file(self._settings.dir, log_type), lines)
            body = await asyncio.to_thread(
                orjson.dumps, {"status": "success", "log_type": log_type, "lines": found}
            )
        return web.Response(
            body=body,
            headers={
                "Content-Type": "application/json",
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
            },
        )

    def _require_password(self, authorization: str | None) -> None:
        password = self._settings.password
        if password is None or not password.reveal():
            raise ChannelNotConfigured("Reading logs needs logs.password, which is not set.")
        try:
            given = BasicAuth.decode(authorization or "", encoding="utf-8")
        except ValueError:
            raise Unauthorized("A user name and a password are needed.") from None
        # Both are always compared, so that the time says nothing about which one was wrong.
        right_name = _same(given.login, self._settings.username)
        right_password = _same(given.password, password.reveal())
        if not (right_name and right_password):
            raise Unauthorized("The user name or the password is wrong.")


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), wanted.encode("utf-8", "surrogateescape")
    )


def _asked_for(query: str, log_types: Collection[str]) -> tuple[str, int]:
    try:
        parameters = parse_qs(query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise MalformedDelivery("The query has too many fields.") from None
    lines = parameters.get("lines", [str(DEFAULT_LINES)])
    log_type = parameters.get("type", [EVERYTHING])
    invalid = []
    if len(lines) != 1 or not _NUMBER.fullmatch(lines[0]) or not 1 <= int(lines[0]) <= MAX_LINES:
        invalid.append("lines")
    if len(log_type) != 1 or log_type[0] not in log_types:
        invalid.append("type")
    if invalid:
        raise MalformedDelivery(
            f"lines is a number from 1 to {MAX_LINES}, type one of {', '.join(log_types)}.",
            invalid=tuple(invalid),
        )
    return log_type[0], int(lines[0])
