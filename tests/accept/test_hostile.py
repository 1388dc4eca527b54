"""Whatever a stranger sends: never a 5xx but 503, never a traceback, never a hanging connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berinia_webhookd.channels.contract import Replies

from .world import CHAT_PATH, FORM, SMS_PATH, World

PATHS = st.sampled_from([SMS_PATH, CHAT_PATH, "/", "/health", "/webhook/logs", "/nothing"])
METHODS = st.sampled_from(["GET", "POST", "POST", "HEAD", "OPTIONS", "CONNECT", "PURGE"])
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
TARGETS = PATHS | st.tuples(PATHS, PRINTABLE).map("".join)
NAMES = st.sampled_from(
    [
        "Content-Encoding",
        "Expect",
        "Upgrade",
        "X-Test-Signature",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Request-ID",
        "Authorization",
        "Cookie",
        "Connection",
    ]
)
VALUES = (
    st.sampled_from([FORM, "good", "chunked", "gzip", "100-continue", "websocket", "close", "5"])
    | PRINTABLE
    | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=10)
)
BODIES = st.binary(max_size=200) | st.sampled_from([b"id=1", b"id=%ff", b"5\r\nid=12\r\n0\r\n\r\n"])


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all the examples of a test."""
    with asyncio.Runner() as runner:
        yield runner


async def send(data: bytes) -> tuple[bytes, list[dict[str, Any]]]:
    """What comes back, and what was logged."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    with structlog.testing.capture_logs() as lines:
        world = World()
        world.receiver.http.head_timeout_seconds = 0.02
        world.receiver.signature_check.body_timeout_seconds = 0.02
        world.chat.replies = Replies(wait_seconds=0.0)
        world.receiver.http.keep_alive_seconds = 0.05
        await world.start()
        try:
            reply = await world.raw(data)
        finally:
            await world.stop()
    assert not failures
    return reply, [dict(line) for line in lines]


def assert_harmless(reply: bytes, lines: list[dict[str, Any]]) -> None:
    for status in re.findall(rb"^HTTP/1\.[01] (\d\d\d) ", reply, re.MULTILINE):
        assert status < b"500" or status == b"503"
    for line in lines:
        assert "exc_info" not in line, line
        assert line["log_level"] != "error", line


fuzz = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(
    method=METHODS,
    target=TARGETS,
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=6),
    media_type=st.just(FORM) | VALUES,
    length=st.sampled_from([None, None, "Transfer-Encoding: chunked", "Content-Length: 3", "A: b"]),
    body=BODIES,
)
def test_any_request(
    runner: asyncio.Runner,
    *,
    method: str,
    target: str,
    headers: list[tuple[str, str]],
    media_type: str,
    length: str | None,
    body: bytes,
) -> None:
    """Nearly good HTTP of any kind."""
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Type: {media_type}",
        *(f"{name}: {value}" for name, value in headers),
        f"Content-Length: {len(body)}" if length is None else length,
    ]
    data = "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body
    assert_harmless(*runner.run(send(data)))


@fuzz
@given(data=st.binary(max_size=300))
def test_any_bytes(runner: asyncio.Runner, data: bytes) -> None:
    """Bytes that are hardly ever HTTP."""
    assert_harmless(*runner.run(send(data)))


@fuzz
@given(target=st.binary(min_size=1, max_size=80), prefix=st.sampled_from([b"", b"/", b"http://"]))
def test_any_target(runner: asyncio.Runner, target: bytes, prefix: bytes) -> None:
    """Request targets of any bytes, as paths and in absolute form."""
    data = b"GET " + prefix + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert_harmless(*runner.run(send(data)))
