"""Signed probes: requests as the providers send them, marked so that the daemon verifies and
answers them and stores nothing. It reports what came back, and judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import aiohttp
from yarl import URL

from berinia_webhookd.accept.probe import HEADER
from berinia_webhookd.channels.contract import SignedRequest
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.http_client import HttpClient, read_body
from berinia_webhookd.logs.reading import tail
from berinia_webhookd.tools.posting import Target

NEAR_SECONDS: Final = 5.0  # for the daemon itself
FAR_SECONDS: Final = 10.0  # through what is before it
MAX_ANSWER_BYTES: Final = 1024 * 1024
LOG_LINES: Final = 2000
LOG_PATIENCE_SECONDS: Final = 2.0
LOG_STEP_SECONDS: Final = 0.05
OUR_IDS: Final = "doctor-"  # of requests, in the log
PROBLEM: Final = "application/problem+json"
# Nobody has this address: where it arrives as the last one, nobody has added the real one.
FORGED_CLIENT: Final = "192.0.2.77"


class Failure(StrEnum):
    """Why there was no answer."""

    NAME = "name"  # no such host
    CERTIFICATE = "certificate"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    BROKEN = "broken"  # no HTTP came back


@dataclass(frozen=True, slots=True)
class Seen:
    """How the request looked to the daemon."""

    scheme: str
    host: str
    client: str | None
    forwarded: bool
    forwarded_for: str  # the header, as it arrived
    peer_trusted: bool
    body_sha256: str
    process: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    request_id: str
    status: int = 0  # 0: nothing, see `failure`
    failure: Failure | None = None
    detail: str = ""  # for people: of the failure, or of the problem document
    of_daemon: bool = False  # whether one of ours answered, and not something before it
    seen: Seen | None = None  # where it was verified
    location: str | None = None
    date: datetime | None = None
    server: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What was read."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends probes to one place."""

    target: Target
    headers: Mapping[str, str] = field(default_factory=dict)
    patience_seconds: float = FAR_SECONDS

    async def post(self, request: SignedRequest) -> Reply:
        """Send one request; never raises for what the network does."""
        request_id = OUR_IDS + secrets.token_hex(8)
        headers = {**request.headers, "X-Request-ID": request_id, **self.headers}
        url = URL(self.target.base_url + request.path, encoded=True)
        try:
            async with (
                HttpClient(unix_socket=self.target.unix_socket) as client,
                client.request(
                    "POST",
                    url,
                    body=request.body,
                    headers=headers,
                    timeout_seconds=self.patience_seconds,
                ) as response,
            ):
                text = await _text(response)
                return _reply(request_id, response, text)
        except (aiohttp.ClientError, OSError) as error:
            failure, detail = _failure(error)
            return Reply(request_id, failure=failure, detail=detail)


async def fetch(address: str, path: str) -> Page:
    """Read a page of the daemon.

    Raises:
        WebhookdError: it does not answer.
    """
    target = Target.from_text(address)
    try:
        async with (
            HttpClient(unix_socket=target.unix_socket) as client,
            client.request("GET", target.base_url + path, timeout_seconds=NEAR_SECONDS) as response,
        ):
            return Page(response.status, await _text(response))
    except (aiohttp.ClientError, OSError) as error:
        raise WebhookdError(_failure(error)[1]) from error


async def diagnosis(logs: Path, request_id: str) -> tuple[bool, str | None]:
    """Whether the daemon's log has a failed signature of this request, and what it says of it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LOG_PATIENCE_SECONDS
    while True:
        for line in reversed(log_lines(logs)):
            if line.get("event") == "signature.invalid" and line.get("request_id") == request_id:
                said = line.get("diagnosis")
                return True, said if isinstance(said, str) else None
        if loop.time() > deadline:
            return False, None
        await asyncio.sleep(LOG_STEP_SECONDS)


def is_readable(logs: Path) -> bool:
    """Whether this user can look a failed signature up."""
    return os.access(logs / "webhook.log", os.R_OK)


def log_lines(logs: Path) -> list[dict[str, Any]]:
    """The last lines of the daemon's log, oldest first; none where this user may not read it."""
    found = []
    for line in tail(logs / "webhook.log", LOG_LINES):
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(parsed, dict):
            found.append(parsed)
    return found


async def _text(response: aiohttp.ClientResponse) -> str:
    return (await read_body(response, MAX_ANSWER_BYTES)).decode("utf-8", "replace")


def _reply(request_id: str, response: aiohttp.ClientResponse, text: str) -> Reply:
    headers = response.headers
    answered_id = headers.get("X-Request-ID")
    problem = _json(text) if response.content_type == PROBLEM else {}
    seen = _seen(headers.get(HEADER))
    return Reply(
        request_id=answered_id or request_id,  # nginx may give it another one on its way in
        status=response.status,
        detail=str(problem.get("detail", "")),
        of_daemon=seen is not None or (answered_id is not None and "request_id" in problem),
        seen=seen,
        location=headers.get("Location"),
        date=_date(headers.get("Date")),
        server=headers.get("Server", ""),
    )


def _seen(text: str | None) -> Seen | None:
    found = _json(text or "")
    try:
        client = found["client"]
        return Seen(
            scheme=str(found["scheme"]),
            host=str(found["host"]),
            client=None if client is None else str(client),
            forwarded=bool(found["forwarded"]),
            forwarded_for=str(found["forwarded_for"]),
            peer_trusted=bool(found["peer_trusted"]),
            body_sha256=str(found["body_sha256"]),
            process=int(found["process"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _failure(error: BaseException) -> tuple[Failure, str]:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure.NAME, f"the name {error.host} cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return Failure.CERTIFICATE, str(error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return Failure.CONNECTION, error.os_error.strerror or str(error.os_error)
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT, "no answer in time"
    return Failure.BROKEN, str(error) or type(error).__name__
