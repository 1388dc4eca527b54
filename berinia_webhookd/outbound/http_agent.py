"""The transport of agents behind a URL: the CloudEvents envelope, signed by Standard Webhooks.

It follows no redirects, uses plain http for loopback addresses only, reads at most 1 MiB of an
answer, keeps no cookies, and ignores the proxies of the environment. Source:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from berinia_webhookd import __version__, json_text
from berinia_webhookd.addresses import is_loopback, plain_http_allowed
from berinia_webhookd.config.agent_settings import AgentSettings, AgentsSettings
from berinia_webhookd.http_client import CONNECTIONS, HttpClient, Sending, is_success, read_body
from berinia_webhookd.model import AgentName, Entry, Outcome, OutcomeKind, Word
from berinia_webhookd.outbound.contract import AgentUnavailable, Begin, NotBegun, begin_freely
from berinia_webhookd.outbound.event_mask import EventMask
from berinia_webhookd.outbound.payload import envelope, outcome_of
from berinia_webhookd.trace_context import TRACEPARENT

ANSWER_LIMIT_BYTES: Final = 1 << 20
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets begin with
GONE: Final = 410
DID_NOTHING: Final = (429, 503)
HEADERS: Final = {
    "Content-Type": "application/cloudevents+json; charset=utf-8",
    "Accept": "application/json",
    "User-Agent": f"berinia-webhookd/{__version__}",
}


def signing_key(secret: str) -> bytes:
    """Return the key of a Standard Webhooks secret, with or without its prefix and padding.

    Raises:
        ValueError: it is not base64, or empty.
    """
    text = secret.removeprefix(SECRET_PREFIX)
    key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    if not key:
        raise ValueError("empty")
    return key


def signature_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that a receiver verifies: one id for all retries, each attempt's time."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def retry_after_seconds(header: str | None, now: float) -> float | None:
    """Return the seconds from now that a Retry-After asks for; None if it is ill-formed."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = when.replace(tzinfo=when.tzinfo or UTC).timestamp() - now
    return max(0.0, seconds)


class HttpAgents:
    """The transport of all HTTP agents, with one client, so that connections are reused."""

    capacity: Final = CONNECTIONS

    def __init__(
        self,
        settings: AgentsSettings,
        *,
        masked: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`masked` says whether errors are masked; `clock` gives seconds since the epoch."""
        self._settings = settings
        self._masked = masked
        self._clock = clock
        self._client = HttpClient()
        self._ways: dict[AgentName, tuple[str, bytes | None]] = {}  # address and key, as last read

    def reconfigure(self, settings: AgentsSettings) -> None:
        """Use these settings from the next attempt on."""
        self._settings = settings
        self._ways.clear()

    async def load(self, agent: AgentName) -> None:
        """Check that the settings are complete; the agent itself is not called."""
        self._way_to(agent)

    def _way_to(self, agent: AgentName) -> tuple[str, bytes | None]:
        if (way := self._ways.get(agent)) is None:
            way = self._ways[agent] = _address_and_key(self._settings.of(agent))
        return way

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        """Post one event. The outcome is `unreachable` only if no byte of it was written."""
        try:
            url, key = self._way_to(entry.agent)
        except AgentUnavailable as unavailable:
            return Outcome(OutcomeKind.UNREACHABLE, error=str(unavailable))
        body = json_text.encode(envelope(entry))
        headers = HEADERS | {TRACEPARENT: entry.traceparent}
        if key is not None:
            now = int(self._clock())
            headers |= signature_headers(key, entry.event_id, now, body)
        written = False

        async def sending() -> None:
            nonlocal written
            await begin()
            written = True

        try:
            outcome = await self._post(
                entry.agent,
                url,
                headers,
                body,
                timeout_seconds=timeout_seconds,
                sending=sending,
            )
            return await EventMask(entry, self._masked).outcome(outcome)
        except TimeoutError:
            kind = OutcomeKind.TIMEOUT if written else OutcomeKind.UNREACHABLE
            return Outcome(kind, error=f"no answer within {timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, NotBegun):
                raise error.__cause__ from None
            if written:
                kind = OutcomeKind.CRASH
            elif isinstance(error, aiohttp.ClientConnectionError | OSError):
                kind = OutcomeKind.UNREACHABLE
            else:
                kind = OutcomeKind.ERROR
            return Outcome(kind, error=type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(
        self,
        agent: AgentName,
        url: str,
        headers: dict[str, str],
        body: bytes,
        *,
        timeout_seconds: float,
        sending: Sending,
    ) -> Outcome:
        async with self._client.request(
            "POST",
            url,
            body=body,
            headers=headers,
            timeout_seconds=timeout_seconds,
            sending=sending,
        ) as answer:
            wait = retry_after_seconds(answer.headers.get("Retry-After"), self._clock())
            if answer.status == GONE:
                return Outcome(OutcomeKind.REJECTED, error="HTTP 410", word=Word.FAILED)
            if not is_success(answer):
                return Outcome(
                    OutcomeKind.ERROR,
                    error=_refusal(answer.status),
                    retry_after_seconds=wait,
                    word=Word.NOTHING if answer.status in DID_NOTHING else None,
                )
            outcome = outcome_of(_json(await read_body(answer, ANSWER_LIMIT_BYTES)), agent)
        if outcome.kind is OutcomeKind.ERROR and outcome.retry_after_seconds is None:
            return replace(outcome, retry_after_seconds=wait)
        return outcome


def _address_and_key(agent: AgentSettings) -> tuple[str, bytes | None]:
    url = agent.target or ""
    setting = f"agents.{agent.name}"
    if not plain_http_allowed(url):
        raise AgentUnavailable(
            "plain http:// is for loopback addresses only", hint=f"use https:// in {setting}.target"
        )
    if agent.signing_secret is None:
        if is_loopback(urlsplit(url).hostname or ""):
            return url, None
        raise AgentUnavailable("it has no signing secret", hint=f"set {setting}.signing_secret")
    try:
        return url, signing_key(agent.signing_secret.reveal())
    except (ValueError, binascii.Error) as error:
        raise AgentUnavailable(
            "its signing secret is not whsec_ and base64", hint=f"fix {setting}.signing_secret"
        ) from error


def _refusal(status: int) -> str:
    if 300 <= status < 400:  # noqa: PLR2004 - the class of redirects
        return f"HTTP {status}: redirects are not followed"
    return f"HTTP {status}"


def _json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
