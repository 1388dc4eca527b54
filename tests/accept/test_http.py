"""HTTP as it should not be, on raw sockets: malformed, oversized, slow, compressed, pipelined."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from typing import Any

import pytest

from berinia_webhookd.accept.body import SHORT_BODY_BYTES
from berinia_webhookd.config.settings import RateLimitSettings

from .world import GOOD, SMS_PATH, World

Logged = list[dict[str, Any]]
SLOWLY = RateLimitSettings(100, 3600, 1000)  # refills by nothing while a test runs


def request(
    body: bytes = b"id=1", *, target: str = SMS_PATH, length: int | None = None, **headers: str
) -> bytes:
    """A good request, unless told otherwise; it asks the door to close the connection."""
    fields = {
        "Host": "x",
        "Connection": "close",
        **GOOD,
        "Content-Length": str(len(body) if length is None else length),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    return request(body, Transfer_Encoding="chunked", Content_Length="")


def statuses(reply: bytes) -> list[int]:
    """The status of each answer on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", reply)]


def assert_no_traceback(logged: Logged) -> None:
    for line in logged:
        assert line["log_level"] in ("debug", "info", "warning"), line
        assert "exc_info" not in line


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n : y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_a_bare_400(served: World, data: bytes, logged: Logged) -> None:
    """400 without a word, one harmless line in the log, and the connection is closed."""
    head, _, body = (await served.raw(data)).partition(b"\r\n\r\n")
    assert statuses(head) == [400]
    assert body == b""
    assert b"X-Request-ID: " in head
    assert_no_traceback(logged)
    (line,) = logged
    assert line["status"] == 400
    assert served.count("requests_total", channel="other", status="400") == 1


@pytest.mark.parametrize(
    "target",
    [
        f"http://x{SMS_PATH}",
        f"https://user:secret@evil.example{SMS_PATH}",
        "http://xn--a/",
        "http://[::1]/",
        "http://[v1.x]/",
        "urn:x",
        "x",
        "*",
    ],
)
async def test_a_target_that_is_no_path_is_refused(
    served: World, target: str, logged: Logged
) -> None:
    """400 for absolute forms and others; what they name is not believed."""
    reply = await served.raw(request(target=target))
    assert statuses(reply) == [400]
    assert not served.sms.seen
    assert_no_traceback(logged)


async def test_connect_is_refused(served: World, logged: Logged) -> None:
    """This is no proxy."""
    reply = await served.raw(
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n"
    )
    assert statuses(reply) == [400]
    assert_no_traceback(logged)


async def test_an_upgrade_is_not_made(served: World) -> None:
    """A websocket is not what lives here."""
    reply = await served.raw(request(Connection="close, Upgrade", Upgrade="websocket"))
    assert statuses(reply) == [200]


async def test_pipelined_requests_are_answered_in_order(served: World) -> None:
    """Each request of one connection gets its own answer."""
    three = [request(b"id=1", Connection=""), b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"]
    reply = await served.raw(b"".join(three) + request(b"id=2"))
    assert statuses(reply) == [200, 404, 200]
    assert served.inbox.committed == [b"1", b"2"]


async def test_garbage_after_a_good_request_does_not_hurt_it(served: World) -> None:
    """The first is answered, the rest refused."""
    reply = await served.raw(request(b"id=1", Connection="") + b"\x00\x01\r\n\r\n")
    assert statuses(reply) in ([200, 400], [400])


async def test_a_chunked_body_is_read(served: World) -> None:
    """Chunks and trailers are HTTP, not part of the body."""
    body = b"2\r\nid\r\n2;x=y\r\n=9\r\n0\r\nX-Test-Signature: bad\r\n\r\n"
    assert statuses(await served.raw(chunked(body))) == [200]
    assert served.inbox.committed == [b"9"]


@pytest.mark.parametrize(
    "body", [b"zz\r\n", b"4\r\nid=1X\r\n0\r\n\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\n"]
)
@pytest.mark.parametrize("apart", [False, True])
async def test_a_broken_chunked_body_is_refused_at_once(
    served: World, body: bytes, apart: bool, logged: Logged
) -> None:
    """400, whether it comes with the head or after it; nobody waits for its end."""
    data = chunked(body)
    if not apart:
        assert 400 in statuses(await served.raw(data))
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(data[: -len(body)])
        await served.get("/health")
        writer.write(body)
        async with asyncio.timeout(90):
            assert statuses(await reader.read())[0] == 400
        writer.close()
    assert not served.inbox.committed
    assert_no_traceback(logged)


async def test_an_endless_chunked_body_is_cut_off(served: World) -> None:
    """413 as soon as it is larger than the channel takes."""
    reply = await served.raw(chunked(b"1000\r\n" + b"x" * 0x1000 + b"\r\n"))
    assert statuses(reply) == [413]


async def test_a_body_too_large_is_refused_unread(served: World) -> None:
    """413 on the promise alone."""
    assert statuses(await served.raw(request(b"", length=1001))) == [413]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "x"])
async def test_compressed_bodies_are_refused(served: World, encoding: str) -> None:
    """415, and nothing is decompressed."""
    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) > 1000
    assert statuses(
        await served.raw(request(zlib.compress(b"id=1"), Content_Encoding=encoding))
    ) == [415]
    assert not served.sms.seen


async def test_what_follows_an_unknown_coding_is_no_request(served: World) -> None:
    """415, and the connection is closed: where its body ends is a matter of opinion."""
    coded = request(b"4\r\nid=1\r\n0\r\n\r\n", Transfer_Encoding="gzip, chunked", Content_Length="")
    coded = coded.replace(b"Connection: close\r\n", b"")
    assert statuses(await served.raw(coded + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")) == [415]
    assert not served.sms.seen


@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_other_versions_are_refused_in_ours(served: World, version: str) -> None:
    """400 in HTTP/1.1, and the connection is closed."""
    reply = await served.raw(f"GET /health HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close\r\n" in reply


@pytest.mark.parametrize("count", [1, 3])
async def test_a_caller_that_has_sent_all_is_answered(served: World, count: int) -> None:
    """Whoever closes its side after its requests reads their answers, after which we close ours."""
    good = request().replace(b"Connection: close\r\n", b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(good * count)
    writer.write_eof()
    async with asyncio.timeout(90):
        assert statuses(await reader.read()) == [200] * count
    writer.close()


async def test_a_caller_that_closes_within_its_body_is_let_go(served: World) -> None:
    """Nothing more can come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request(b"id", length=4))
    writer.write_eof()
    async with asyncio.timeout(90):
        assert await reader.read() == b""
    writer.close()
    assert not served.sms.seen


async def test_identity_is_no_compression(served: World) -> None:
    """An explicit `identity` is fine."""
    assert statuses(await served.raw(request(Content_Encoding="identity"))) == [200]


async def test_a_body_that_stalls_is_given_up(quiet_world: World) -> None:
    """408 when nothing comes for the configured time."""
    quiet_world.receiver.signature_check.body_timeout_seconds = 0.1
    await quiet_world.start()
    assert statuses(await quiet_world.raw(request(b"id", length=4))) == [408]
    assert quiet_world.budget.used_bytes == 0


async def test_a_body_that_trickles_is_given_up(quiet_world: World) -> None:
    """A byte now and then is progress, but not for ever."""
    quiet_world.receiver.signature_check.body_timeout_seconds = 0.1
    await quiet_world.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", quiet_world.port)
    writer.write(request(b"", length=900))
    answer = asyncio.create_task(reader.readline())
    while not answer.done():
        writer.write(b"x")
        await asyncio.wait((answer,), timeout=0.03)
    assert statuses(answer.result()) == [408]
    writer.close()


async def test_a_head_that_does_not_come_is_cut_off(quiet_world: World, logged: Logged) -> None:
    """Connections that say nothing, or begin and go on too slowly, are closed."""
    quiet_world.receiver.http.head_timeout_seconds = 0.1
    await quiet_world.start()
    assert await quiet_world.raw(b"") == b""
    assert await quiet_world.raw(b"GET / HTTP/1.1\r\nHost: x\r\nA: ") == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", quiet_world.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"}")
    writer.write(b"GET /hea")
    assert await reader.read() == b""
    writer.close()
    assert_no_traceback(logged)


async def test_continue_is_said_only_when_the_body_is_wanted(served: World) -> None:
    """A held-back body is asked for after the cheap checks, and not for a refused request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request(b"", length=4, Expect="100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"id=1")
    assert statuses(await reader.read()) == [200]
    writer.close()
    refused = request(b"", length=4, Expect="100-continue", Content_Type="text/plain")
    assert statuses(await served.raw(refused)) == [415]


async def test_a_refusal_does_not_lose_its_answer_to_unread_bytes(served: World) -> None:
    """Whoever is still sending can read why it was refused."""
    for _ in range(20):
        reply = await served.raw(request(b"x" * 300_000))
        assert statuses(reply) == [413]


async def test_too_many_connections_are_told_so(quiet_world: World, logged: Logged) -> None:
    """503 with Retry-After before anything is read; freed connections can be used again."""
    world = quiet_world
    world.receiver.http.max_connections = 2
    await world.start()
    held = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(2)]
    for _, writer in held:
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    for reader, _ in held:
        await reader.readuntil(b"}")
    reply = await world.raw(request(b"x" * 100_000))
    head, _, body = reply.partition(b"\r\n\r\n")
    assert statuses(reply) == [503]
    assert b"Retry-After: " in head
    assert b"Content-Type: application/problem+json" in head
    assert b'"status":503' in body
    assert not world.sms.seen
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    assert statuses(await world.raw(request())) == [200]


async def test_bytes_in_flight_are_bounded(served: World) -> None:
    """503 with Retry-After before reading; one client holds a quarter at most."""
    served.budget.limit_bytes = 4000
    served.sms.max_body_bytes = 10_000
    first = await asyncio.open_connection("127.0.0.1", served.port)
    first[1].write(request(b"x" * 900, length=1000))
    await served.get("/health")
    assert served.budget.used_bytes == 900
    reply = await served.raw(request(b"id=" + b"1" * 100))
    assert statuses(reply) == [503]
    assert b"Retry-After" in reply
    elsewhere = await served.raw(request(b"id=" + b"1" * 100, X_Forwarded_For="203.0.113.9"))
    assert statuses(elsewhere) == [200]
    first[1].write(b"x" * 100)
    assert statuses(await first[0].read()) == [400]
    first[1].close()
    assert served.budget.used_bytes == 0
    assert not served.budget.unverified_bytes
    assert statuses(await served.raw(request())) == [200]


async def test_short_verified_bodies_do_not_count_against_their_client(served: World) -> None:
    """While a message of a client is being stored, its next one is received."""
    served.budget.limit_bytes = 4000
    served.inbox.gate.clear()
    first = asyncio.create_task(served.raw(request(b"id=1&text=" + b"x" * 890)))
    await served.inbox.pending(1)
    second = asyncio.create_task(served.raw(request(b"id=2&text=" + b"x" * 890)))
    await served.inbox.pending(2)
    served.inbox.gate.set()
    assert statuses(await first) == statuses(await second) == [200]


async def test_a_second_large_message_of_a_client_is_not_refused(served: World) -> None:
    """It waits until the first is stored, and is stored then."""
    size = 3 * SHORT_BODY_BYTES
    served.budget.limit_bytes = 16 * SHORT_BODY_BYTES
    served.sms.max_body_bytes = 2 * size
    served.inbox.gate.clear()
    first = asyncio.create_task(served.raw(request(b"id=1&text=" + b"x" * size)))
    await served.inbox.pending(1)
    second = asyncio.create_task(served.raw(request(b"id=2&text=" + b"x" * size)))
    elsewhere = request(b"id=3&text=" + b"x" * size, X_Forwarded_For="203.0.113.9")
    third = asyncio.create_task(served.raw(elsewhere))
    await served.inbox.pending(2)
    assert not second.done()
    served.inbox.gate.set()
    assert [statuses(await one) for one in (first, second, third)] == [[200]] * 3
    assert served.budget.used_bytes == 0
    assert not served.budget.verified_bytes


async def test_a_flood_of_bad_signatures_is_turned_away_unread(served: World) -> None:
    """After a hundred failures an address gets 429 on the head alone; others do not."""
    served.receiver.rate_limit.reconfigure(SLOWLY)
    bad = {**GOOD, "X-Test-Signature": "bad"}
    for _ in range(100):
        assert (await served.post(headers=bad))[0] == 403
    assert statuses(await served.raw(request(b"", length=900, Host="localhost"))) == [429]
    assert (await served.get("/webhook/logs"))[0] == 429
    assert (await served.get("/health"))[0] == 200
    other = {**GOOD, "X-Forwarded-For": "203.0.113.9"}
    assert (await served.post(headers=other))[0] == 200
    assert served.count("rate_limited_total", channel="sms") == 1
    assert served.count("rate_limited_total", channel="logs") == 1


async def test_reading_is_limited_and_health_is_free(world: World) -> None:
    """Each reading of the logs takes a token; health takes none."""
    world.receiver.rate_limit.reconfigure(SLOWLY)
    for _ in range(100):
        assert (await world.get("/webhook/logs"))[0] == 401
    status, _, headers = await world.get("/webhook/logs", {"Authorization": "open"})
    assert status == 429
    assert headers["RateLimit-Policy"] == '"unverified";q=100;w=3600'
    for _ in range(150):
        assert (await world.get("/health"))[0] == 200
