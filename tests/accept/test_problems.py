"""Every row of the error table, on every kind of endpoint that can show it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from berinia_webhookd import errors
from berinia_webhookd.accept.problems import TABLE, problem
from berinia_webhookd.channels.contract import Replies
from berinia_webhookd.config.settings import RateLimitSettings

from .world import CHAT_PATH, FORM, GOOD, SMS_PATH, World

Logged = list[dict[str, Any]]

BOTH_CHANNELS = pytest.mark.parametrize("path", [SMS_PATH, CHAT_PATH])


def assert_problem(status: int, answer: tuple[int, Any, Any], title: str | None = None) -> None:
    got, body, headers = answer
    assert got == status
    assert headers["Content-Type"] == "application/problem+json"
    assert body["status"] == status
    assert body["type"]
    assert body["detail"]
    assert body["request_id"] == headers["X-Request-ID"]
    if title is not None:
        assert (body["type"], body["title"]) == ("about:blank", title)


@BOTH_CHANNELS
async def test_malformed(world: World, path: str) -> None:
    """400 lists what is missing and what is invalid."""
    answer = await world.post(b"x=1", path)
    assert_problem(400, answer, "Bad Request")
    assert (answer[1]["missing"], answer[1]["invalid"]) == (["id"], [])


@BOTH_CHANNELS
async def test_bad_signature(world: World, path: str) -> None:
    """403 for a wrong signature, and for none at all."""
    assert_problem(403, await world.post(path=path, headers={"Content-Type": FORM}), "Forbidden")


@BOTH_CHANNELS
async def test_address_refused(world: World, path: str) -> None:
    """403 for an address that is not allowed."""
    headers = {**GOOD, "X-Test-Signature": "elsewhere"}
    assert_problem(403, await world.post(path=path, headers=headers), "Forbidden")


@BOTH_CHANNELS
@pytest.mark.parametrize("media_type", ["application/xml", "text/plain", "multipart/form-data"])
async def test_media_type(world: World, path: str, media_type: str) -> None:
    """415 before the body is looked at."""
    headers = {**GOOD, "Content-Type": media_type}
    answer = await world.post(path=path, headers=headers)
    assert_problem(415, answer, "Unsupported Media Type")
    assert not world.sms.seen


@BOTH_CHANNELS
async def test_body_too_large(world: World, path: str) -> None:
    """413 over the channel's own limit; exactly at the limit is fine."""
    world.chat.replies = Replies(wait_seconds=0)
    assert (await world.post(b"id=" + b"x" * 997, path))[0] in (200, 202)
    answer = await world.post(b"id=" + b"x" * 998, path)
    assert_problem(413, answer)


@pytest.mark.parametrize("path", [SMS_PATH, CHAT_PATH, "/", "/health", "/webhook/logs"])
@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_method(world: World, path: str, method: str) -> None:
    """405 says which methods are allowed."""
    async with world.client.request(method, path) as response:
        answer = (response.status, await response.json(content_type=None), response.headers)
    assert_problem(405, answer, "Method Not Allowed")
    expected = "POST" if path in (SMS_PATH, CHAT_PATH) else "GET, HEAD"
    assert answer[2]["Allow"] == expected


@pytest.mark.parametrize("path", [SMS_PATH, CHAT_PATH])
async def test_reading_a_channel(world: World, path: str) -> None:
    """A channel cannot be read."""
    assert_problem(405, await world.get(path), "Method Not Allowed")


@pytest.mark.parametrize(
    "path",
    ["/webhook", f"{SMS_PATH}/", "/nothing", "/webhook/sms%2Dresponse", "//", "/%00", "/%ff"],
)
async def test_unknown_path(served: World, path: str) -> None:
    """404, also for other spellings of a known path."""
    reply = await served.raw(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert reply.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in reply


async def test_unauthorized(world: World) -> None:
    """401 asks for a password."""
    answer = await world.get("/webhook/logs")
    assert_problem(401, answer, "Unauthorized")
    assert answer[2]["WWW-Authenticate"].startswith("Basic ")


@BOTH_CHANNELS
async def test_channel_without_secret(world: World, path: str) -> None:
    """503 with Retry-After before anything else is asked of the request."""
    world.sms.configured = world.chat.configured = False
    answer = await world.post(path=path, headers={"Content-Type": "text/plain"})
    assert_problem(503, answer, "Service Unavailable")
    assert int(answer[2]["Retry-After"]) > 0


@BOTH_CHANNELS
async def test_rate_limit(world: World, path: str) -> None:
    """429 with Retry-After and the headers of the IETF draft, for verified requests."""
    world.receiver.rate_limit.reconfigure(RateLimitSettings(100, 60, 2))
    world.chat.replies = Replies(wait_seconds=0)
    for _ in range(2):
        assert (await world.post(path=path))[0] in (200, 202)
    answer = await world.post(path=path)
    assert_problem(429, answer)
    headers = answer[2]
    assert answer[1]["violated-policies"] == ["verified"]
    assert re.fullmatch(r'"verified";q=2;w=60', headers["RateLimit-Policy"])
    match = re.fullmatch(r'"verified";r=0;t=(\d+)', headers["RateLimit"])
    assert match is not None
    assert int(headers["Retry-After"]) >= int(match[1]) > 0


@pytest.mark.parametrize("wanted", ["a", "A.b_c-9", "x" * 64])
async def test_the_callers_request_id_is_kept(world: World, wanted: str) -> None:
    """A request id of the right shape comes back, on good answers and bad ones."""
    good = await world.post(headers={**GOOD, "X-Request-ID": wanted})
    bad = await world.get("/nothing", headers={"X-Request-ID": wanted})
    assert good[2]["X-Request-ID"] == bad[2]["X-Request-ID"] == bad[1]["request_id"] == wanted


@pytest.mark.parametrize("wanted", ["", "x" * 65, "a b", "é", 'a"b', "a\tb"])
async def test_other_request_ids_are_replaced(world: World, wanted: str, logged: Logged) -> None:
    """A request id of another shape is replaced by one of ours, which the log has."""
    headers = (await world.get("/health", headers={"X-Request-ID": wanted}))[2]
    assert headers["X-Request-ID"] != wanted
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", headers["X-Request-ID"])
    assert logged[-1]["request_id"] == headers["X-Request-ID"]


def test_every_refusal_has_a_row() -> None:
    """Each error for a stranger stands in the table, so that none becomes a 400 by default."""
    refusals = set(errors.DeliveryRejected.__subclasses__())
    assert refusals <= TABLE.keys()


def test_an_error_without_a_row_is_answered_like_its_parent() -> None:
    """A subclass of a known refusal needs no row of its own."""

    class Special(errors.SignatureInvalid):
        pass

    assert problem(Special("why"), "id").status == 403


async def test_the_server_does_not_say_what_it_runs_on(served: World) -> None:
    """No version of Python or aiohttp in any answer."""
    for headers in ((await served.get("/health"))[2], (await served.get("/nothing"))[2]):
        assert headers["Server"] == "berinia-webhookd"
    assert b"aiohttp" not in await served.raw(b"nonsense\r\n\r\n")
