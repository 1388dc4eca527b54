"""Sends signed probes: requests as providers send them, marked so that the daemon verifies and
answers them, but stores nothing.
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
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from berinia_webhookd.channels.contract import Channel, SignedRequest
from berinia_webhookd.clock import now
from berinia_webhookd.errors import ChannelNotConfigured, WebhookdError
from berinia_webhookd.http_client import HttpClient, read_body
from berinia_webhookd.logs.reading import tail
from berinia_webhookd.own_requests import HEADER, InstallationKey, Purpose

NEAR_SECONDS: Final = 5.0  # for the daemon itself
FAR_SECONDS: Final = 10.0  # through a proxy
MAX_ANSWER_BYTES: Final = 1024 * 1024
LOG_LINES: Final = 2000
LOG_PATIENCE_SECONDS: Final = 2.0
LOG_STEP_SECONDS: Final = 0.05
OUR_IDS: Final = "doctor-"  # of requests, in the log
PROBLEM: Final = "application/problem+json"
# Would not survive trimming, recoding or decoding twice.
DELICATE: Final = " Été  + 100 % & « 🙂 »"


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
    status: int = 0  # 0: nothing, see `error`
    error: Exception | None = None
    detail: str = ""  # of the problem document
    of_daemon: bool = False  # whether a daemon of ours answered, not something before it
    seen: Seen | None = None  # if it was verified
    location: str | None = None
    date: datetime | None = None
    server: str = ""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends requests to one place."""

    base_url: str
    unix_socket: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    patience_seconds: float = FAR_SECONDS

    @classmethod
    def to_daemon(cls, address: str, headers: Mapping[str, str] | None = None) -> Self:
        """Return a sender to the daemon itself, at `host:port` or `unix:/path`."""
        if address.startswith("unix:"):
            socket = address.removeprefix("unix:")
            return cls("http://localhost", socket, headers or {}, NEAR_SECONDS)
        return cls(f"http://{address}", None, headers or {}, NEAR_SECONDS)

    async def post(self, request: SignedRequest) -> Reply:
        """Send one request; errors of the network are in the reply."""
        request_id = OUR_IDS + secrets.token_hex(8)
        headers = {**request.headers, "X-Request-ID": request_id, **self.headers}
        try:
            async with (
                HttpClient(unix_socket=self.unix_socket) as client,
                client.request(
                    "POST",
                    URL(self.base_url + request.path, encoded=True),
                    body=request.body,
                    headers=headers,
                    timeout_seconds=self.patience_seconds,
                ) as answer,
            ):
                return _reply(request_id, answer, await _text(answer))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(request_id, error=error)

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and text of a page.

        Raises:
            WebhookdError: there is no answer.
        """
        try:
            async with (
                HttpClient(unix_socket=self.unix_socket) as client,
                client.request(
                    "GET", self.base_url + path, timeout_seconds=self.patience_seconds
                ) as answer,
            ):
                return answer.status, await _text(answer)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WebhookdError(describe(error)) from error


def describe(error: Exception) -> str:
    """Return why there was no answer."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} cannot be resolved"
        case aiohttp.ClientConnectorError() if not isinstance(error, aiohttp.ClientSSLError):
            return error.os_error.strerror or str(error.os_error)
        case TimeoutError():
            return "no answer in time"
        case _:
            return str(error) or type(error).__name__


def sign_probe(
    channel: Channel,
    base_url: str,
    key: InstallationKey,
    text: str = DELICATE,
    *,
    valid: bool = True,
) -> SignedRequest:
    """Return a probe as the channel's provider would send it, marked as ours."""
    at = now()
    fields = {channel.provider.text_field: text}
    request = channel.sign(fields, base_url=base_url, now=at, valid=valid)
    return request.marked(key, Purpose.PROBE, at)


def has_secret(channel: Channel) -> bool:
    """Whether the channel's secret is known here."""
    try:
        channel.require_secret()
    except ChannelNotConfigured:
        return False
    return True


async def diagnosis(logs: Path, request_id: str) -> tuple[bool, str | None]:
    """Return whether the daemon's log has a failed signature of this request, and its diagnosis."""
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
    """Whether this user can read the daemon's log."""
    return os.access(logs / "webhook.log", os.R_OK)


def log_lines(logs: Path, most: int = LOG_LINES) -> list[dict[str, Any]]:
    """Return the last lines of the daemon's log, oldest first; none where they cannot be read."""
    found = (_json(line) for line in tail(logs / "webhook.log", most))
    return [line for line in found if line]


async def metric(address: str, name: str, label: str) -> dict[str, float]:
    """Return a metric of the daemon by a label; empty if it cannot be read."""
    try:
        status, text = await Sender.to_daemon(address).get("/metrics")
    except WebhookdError:
        return {}  # reported by the check of health
    if status != HTTPStatus.OK:
        return {}
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError:
        return {}  # another program's page, reported by the check of the port
    return {
        sample.labels[label]: sample.value
        for family in families
        if family.name == name
        for sample in family.samples
    }


async def _text(answer: aiohttp.ClientResponse) -> str:
    return (await read_body(answer, MAX_ANSWER_BYTES)).decode("utf-8", "replace")


def _reply(request_id: str, answer: aiohttp.ClientResponse, text: str) -> Reply:
    headers = answer.headers
    answered_id = headers.get("X-Request-ID")
    problem = _json(text) if answer.content_type == PROBLEM else {}
    seen = _seen(headers.get(HEADER))
    return Reply(
        request_id=answered_id or request_id,  # nginx may give it another one on its way in
        status=answer.status,
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
    """Return a JSON object; an empty one for anything else."""
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
