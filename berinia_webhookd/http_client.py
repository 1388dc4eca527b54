"""The HTTP client: it follows no redirects, keeps no cookies, uses no proxy of the environment, and
asks for no compression, so that a limit on what is read is a limit on memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter
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
        """Send one request and open its answer. What `sending` raises once there is a connection
        keeps it from being sent, and is the cause of a `ClientConnectionError`.

        Raises:
            TimeoutError, aiohttp.ClientError, OSError, ValueError: there is no answer.
        """
        return self._opened().request(
            method,
            url,
            data=body if body is None or sending is None else _LastMoment(body, sending),
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._verify_tls)
                if self._unix_socket is None
                else aiohttp.UnixConnector(self._unix_socket, limit=CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            )
        return self._session


class _LastMoment(aiohttp.BytesPayload):
    """A body that asks before it is sent; aiohttp keeps the head back until then. Its tracing tells
    the moment too, but with five signals a request.
    """

    def __init__(self, body: bytes, sending: Sending) -> None:
        super().__init__(body)
        self._sending = sending

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Ask, and write."""
        await self._sending()
        await super().write_with_length(writer, content_length)


def is_success(answer: aiohttp.ClientResponse) -> bool:
    """Whether the status is a 2xx."""
    return answer.status // 100 == 2  # noqa: PLR2004 - the class of success


async def read_body(answer: aiohttp.ClientResponse, longest_bytes: int) -> bytes:
    """Read the body of an answer, at most `longest_bytes`."""
    body = bytearray()
    while len(body) < longest_bytes and not answer.content.at_eof():
        chunk = await answer.content.read(longest_bytes - len(body))
        if not chunk:
            break
        body += chunk
    return bytes(body)
