"""One line and one count for every request, and nothing of it that is nobody's business."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from berinia_webhookd.accept import signature_check
from berinia_webhookd.accept.request_context import shown_path
from berinia_webhookd.model import RawDelivery, VerifiedDelivery

from .world import GOOD, SMS_PATH, World

Logged = list[dict[str, Any]]


def finished(logged: Logged) -> dict[str, Any]:
    (line,) = [line for line in logged if line["event"] == "request.finished"]
    return line


async def test_every_request_leaves_one_line(world: World, logged: Logged) -> None:
    """Who, what, how it ended and how long it took; no query, no field, no signature."""
    headers = {**GOOD, "X-Forwarded-For": "203.0.113.9", "X-Request-ID": "abc"}
    await world.post(b"id=4711", f"{SMS_PATH}?secret=1", headers)
    line = finished(logged)
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "request.finished",
        "log_level": "info",
        "request_id": "abc",
        "channel": "sms",
        "client": "203.0.113.9",
        "method": "POST",
        "path": SMS_PATH,
        "status": 200,
    }
    assert "4711" not in str(logged)
    assert "secret" not in str(logged)


@pytest.mark.parametrize(
    ("method", "path", "label", "status"),
    [
        ("GET", "/health", "health", 200),
        ("HEAD", "/health", "health", 200),
        ("GET", "/webhook/logs", "logs", 401),
        ("GET", "/", "other", 200),
        ("GET", "/nothing", "other", 404),
        ("PUT", SMS_PATH, "sms", 405),
    ],
)
async def test_requests_are_counted(
    world: World, method: str, path: str, label: str, status: int
) -> None:
    """By channel and status; what is no channel has a label of its own."""
    async with world.client.request(method, path) as response:
        assert response.status == status
    assert world.count("requests_total", channel=label, status=str(status)) == 1
    assert world.count("answer_seconds_count", channel=label) == 1


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/webhook/logs", "/webhook/logs"),
        ("/a\x1b[31mred", r"/a\x1b[31mred"),
        ("/a\nb", r"/a\nb"),
        ("/é\u202e", r"/é\u202e"),
        ("/\udcff", r"/\udcff"),
        ("/" + "a" * 300, "/" + "a" * 199 + "..."),
    ],
)
def test_paths_are_harmless_to_look_at(path: str, shown: str) -> None:
    """Bounded, and nothing in them that a terminal obeys."""
    assert shown_path(path) == shown


async def test_a_unix_socket_names_the_client(quiet_world: World, tmp_path: Path) -> None:
    """What nginx says over a Unix socket is believed."""
    world = quiet_world
    path = str(tmp_path / "daemon.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    await world.receiver.start([listener])
    forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    async with (
        ClientSession(connector=UnixConnector(path)) as client,
        client.post(
            f"http://app.example.com{SMS_PATH}", data=b"id=1", headers={**GOOD, **forwarded}
        ) as response,
    ):
        assert response.status == 200
    (delivery,) = world.sms.seen
    assert delivery.caller.peer is None
    assert delivery.caller.peer_trusted
    assert str(delivery.caller.client) == "203.0.113.9"
    assert delivery.caller.scheme == "https"
    assert delivery.caller.host == "app.example.com"


async def test_a_huge_body_is_checked_off_the_event_loop(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A huge one is verified in a thread, a small one where it arrives."""
    threads: list[bool] = []
    verify = world.sms.verify

    def noting_verify(delivery: RawDelivery) -> VerifiedDelivery:
        threads.append(threading.current_thread() is threading.main_thread())
        return verify(delivery)

    monkeypatch.setattr(world.sms, "verify", noting_verify)
    monkeypatch.setattr(signature_check, "LONG_BODY_BYTES", 100)
    await world.post(b"id=1")
    await world.post(b"id=2&text=" + b"x" * 100)
    assert threads == [True, False]
    assert world.inbox.committed == [b"1", b"2"]
