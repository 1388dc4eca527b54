"""The HTTP client: follows no redirect, keeps no cookie, uses no proxy of the environment, and asks
for no compression, so that a bounded read is one. It decides nothing about what an answer means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Final, Self

import aiohttp
from yarl import URL

CONNECTIONS: Final = 64
Sending = Callable[[], Awaitable[None]]  # awaited before the first byte of a request


class HttpClient:
    """Keeps its connections until `close`; opens them at the first request."""

    def __init__(self, *, unix_socket: str | None = None, verify_tls: bool = True) -> None:
        self._verify_tls = verify_tls
        self._unix_socket = unix_socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def request(
        self,
        method: str,
        url: str | URL,
        *,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        sending: Sending | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send one request and open its answer; what `sending` raises once there is a connection
        keeps it from being sent.

        Raises:
            TimeoutError, aiohttp.ClientError, OSError, ValueError: there is none.
        """
        return self._opened().request(
            method,
            url,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            trace_request_ctx=sending,
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_about_to_send)
            self._session = aiohttp.ClientSession(
                trace_configs=[tracing],
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._verify_tls)
                if self._unix_socket is None
                else aiohttp.UnixConnector(self._unix_socket, limit=CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            )
        return self._session


async def _about_to_send(
    _: aiohttp.ClientSession,
    context: SimpleNamespace,
    __: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    """What aiohttp calls before it writes the head of a request."""
    if context.trace_request_ctx is not None:
        await context.trace_request_ctx()


def is_success(answer: aiohttp.ClientResponse) -> bool:
    """Return whether the status is a 2xx; a redirect is none, as it is not followed."""
    return answer.status // 100 == 2  # noqa: PLR2004 - the class of success


async def read_body(answer: aiohttp.ClientResponse, longest_bytes: int) -> bytes:
    """Read the body of an answer, and no more of it than this."""
    body = bytearray()
    while len(body) < longest_bytes:
        chunk = await answer.content.read(longest_bytes - len(body))
        if not chunk:
            break
        body += chunk
    return bytes(body)
