"""What becomes of a request that means well: stored, then answered."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import struct
from datetime import timedelta
from typing import Any

import orjson
import pytest

from berinia_webhookd.clock import now
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.own_requests import InstallationKey, Purpose

from .world import GOOD, KEY, SMS_PATH, World

DATA_SEGMENTS_IN = 152  # where Linux has it in `struct tcp_info`
Logged = list[dict[str, Any]]


def named(logged: Logged, name: str) -> Logged:
    return [line for line in logged if line["event"] == name]


async def test_a_verified_message_is_stored_and_answered_by_its_channel(
    world: World, logged: Logged
) -> None:
    """200 with the channel's own body, and the event in the inbox."""
    status, body, headers = await world.post(b"id=7&text=hello")
    assert (status, body) == (200, b"<Response/>")
    assert headers["Content-Type"] == "text/xml"
    assert world.inbox.committed == [b"7"]
    (line,) = named(logged, "event.accepted")
    assert (line["channel"], line["event_id"]) == ("sms", "event-0")
    assert line["request_id"] == headers["X-Request-ID"]


async def test_an_answer_that_has_no_body_gets_none(served: World) -> None:
    """Whatever a channel says: the next answer on the connection would begin with it."""
    served.sms.answer_status = 204
    head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
    first = f"POST {SMS_PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 4\r\n\r\nid=1"
    last = first.replace("Host: x", "Host: x\r\nConnection: close").replace("id=1", "id=2")
    said = await served.raw((first + last).encode())
    assert said.count(b"HTTP/1.1 204 No Content\r\n") == 2
    assert b"Response" not in said
    assert b"Content-Length" not in said


async def test_an_answer_is_sent_in_one_piece(served: World) -> None:
    """Head and body each by themselves cost two system calls, two segments and two wake-ups."""
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", served.port)) as caller:
        caller.setblocking(False)
        head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
        request = f"POST {SMS_PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 4\r\n\r\nid=1"
        await loop.sock_sendall(caller, request.encode())
        said = b""
        while not said.endswith(b"<Response/>"):
            said += await loop.sock_recv(caller, 65_536)
        of_connection = caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (segments,) = struct.unpack_from("I", of_connection, DATA_SEGMENTS_IN)
    assert segments == 1


async def test_the_answer_waits_for_the_commit(world: World) -> None:
    """No answer leaves while the commit is held back."""
    world.inbox.gate.clear()
    posting = asyncio.create_task(world.post())
    await world.inbox.pending(1)
    assert not posting.done()
    world.inbox.gate.set()
    assert (await posting)[0] == 200


async def test_the_same_message_again_is_answered_as_the_first_time(
    world: World, logged: Logged
) -> None:
    """A duplicate is told apart in the log and the metrics only."""
    first = await world.post(b"id=1")
    second = await world.post(b"id=1")
    assert first[:2] == second[:2]
    assert len(named(logged, "event.duplicate")) == 1
    assert world.count("duplicates_total", channel="sms") == 1


async def test_the_channel_sees_the_request_as_it_came(served: World) -> None:
    """Target and body byte for byte, media type in lower case without parameters."""
    target = f"{SMS_PATH}?a=%20b&c"
    headers = {**GOOD, "Content-Type": "Application/X-WWW-Form-Urlencoded; charset=UTF-8"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    body = b" id=1 \n"
    request = f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}Content-Length: 7"
    await served.raw(request.encode() + b"\r\n\r\n" + body)
    (delivery,) = served.sms.seen
    assert delivery.target == target
    assert delivery.body == body
    assert delivery.content_type == "application/x-www-form-urlencoded"
    assert delivery.content_type_header == headers["Content-Type"]
    assert delivery.caller.host == "x"


def probe(body: bytes, *, key: InstallationKey = KEY, of: bytes | None = None) -> dict[str, str]:
    """The headers of a probe of `doctor`, made for this body or another."""
    mark = key.mark(Purpose.PROBE, now(), body if of is None else of)
    return {**GOOD, "Berinia-Probe": mark}


async def test_a_probe_is_answered_and_not_journaled(world: World) -> None:
    """A verified request with this installation's own mark leaves no trace in the inbox."""
    status, body, _ = await world.post(b"id=1", headers=probe(b"id=1"))
    assert (status, body) == (200, b"<Response/>")
    assert not world.inbox.committed
    assert not world.inbox.rejected


async def test_a_message_is_a_message_whatever_its_fields_say(world: World) -> None:
    """What people write, headers of mails included, makes no probe."""
    status, _, headers = await world.post(b"id=1&BeriniaProbe=1&Berinia-Probe=probe")
    assert status == 200
    assert "Berinia-Probe" not in headers
    assert world.inbox.committed == [b"1"]


async def test_a_mark_that_is_not_ours_is_refused(world: World) -> None:
    """Of another installation, of yesterday, or no mark at all: neither a probe nor a message."""
    other = InstallationKey(b"x" * 32)
    old = KEY.mark(Purpose.PROBE, now() - timedelta(days=1), b"id=1")
    for mark in (probe(b"id=1", key=other)["Berinia-Probe"], old, "1", "", "é", "a" * 5000):
        status, _, _ = await world.post(b"id=1", headers={**GOOD, "Berinia-Probe": mark})
        assert status == 403
    bad = {**probe(b"id=1"), "X-Test-Signature": "bad"}
    assert (await world.post(b"id=1", headers=bad))[0] == 403
    assert not world.inbox.committed


async def test_a_message_under_the_mark_of_a_probe_is_refused(world: World) -> None:
    """Whoever saw a mark on its way cannot make another message vanish behind a 2xx."""
    status, _, headers = await world.post(b"id=2", headers=probe(b"id=2", of=b"id=1"))
    assert status == 400
    assert (
        orjson.loads(headers["Berinia-Probe"])["body_sha256"] == hashlib.sha256(b"id=2").hexdigest()
    )
    assert not world.inbox.committed


async def test_a_badly_signed_sample_counts_for_nothing(world: World, logged: Logged) -> None:
    """`send --bad-signature` is refused, and raises no alarm."""
    mark = KEY.mark(Purpose.SAMPLE, now(), b"id=1")
    bad = {**GOOD, "X-Test-Signature": "bad", "Berinia-Probe": mark}
    assert (await world.post(b"id=1", headers=bad))[0] == 403
    assert world.count("signature_failures_total", channel="sms") == 0
    (line,) = named(logged, "signature.invalid")
    assert line["sample"] is True
    assert (await world.post(b"id=1", headers={**GOOD, "Berinia-Probe": mark}))[0] == 200
    assert world.inbox.committed == [b"1"]


async def test_a_probe_is_told_how_it_arrived(world: World) -> None:
    """What the proxy made of the request, so that its sender can compare; nothing unverified is."""
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "Host": "a\xe9.x"}
    _, _, headers = await world.post(b"id=1", headers={**probe(b"id=1"), **forwarded})
    seen = orjson.loads(headers["Berinia-Probe"])
    assert (seen["scheme"], seen["client"]) == ("https", "203.0.113.9")
    assert seen["host"].startswith("a")
    assert (seen["forwarded"], seen["forwarded_for"]) == (True, "203.0.113.9")
    assert seen["process"] == os.getpid()
    assert seen["body_sha256"] == hashlib.sha256(b"id=1").hexdigest()
    bad = {**probe(b"id=1"), "X-Test-Signature": "bad"}
    for sent in (bad, GOOD):
        _, _, headers = await world.post(b"id=1", headers=sent)
        assert "Berinia-Probe" not in headers


async def test_a_verified_message_that_is_malformed_is_kept(world: World, logged: Logged) -> None:
    """400 with the names of the missing fields, and the delivery kept as rejected."""
    status, body, _ = await world.post(b"text=hello")
    assert status == 400
    assert (body["missing"], body["invalid"]) == (["id"], [])
    ((delivery, reason),) = world.inbox.rejected
    assert delivery.body == b"text=hello"
    assert reason["missing"] == ["id"]
    assert len(named(logged, "delivery.rejected")) == 1
    assert world.count("rejected_total", channel="sms") == 1


async def test_a_message_of_another_account_is_refused_and_kept(world: World) -> None:
    """403, and the delivery kept as rejected."""
    status, _, _ = await world.post(b"id=1&account=foreign")
    assert status == 403
    assert len(world.inbox.rejected) == 1


@pytest.mark.parametrize("body", [b"id=1", b"text=malformed"])
async def test_a_journal_that_cannot_store_gives_503(world: World, body: bytes) -> None:
    """503 with Retry-After and no word about the journal's state, also for what is malformed."""
    world.inbox.failure = JournalUnavailable("/var/lib/secret/path is full")
    status, answer, headers = await world.post(body)
    assert status == 503
    assert int(headers["Retry-After"]) > 0
    assert "secret" not in str(answer)


async def test_a_late_commit_is_refused_to_the_caller_and_kept(
    quiet_world: World, logged: Logged
) -> None:
    """503 past the deadline; the commit goes on, and is logged when it comes."""
    world = quiet_world
    world.receiver.commits.ack_timeout_seconds = 0.05
    await world.start()
    world.inbox.gate.clear()
    status, _, headers = await world.post()
    assert status == 503
    assert "Retry-After" in headers
    assert not world.inbox.committed
    assert world.budget.used_bytes > len(b"id=1")
    world.inbox.gate.set()
    await world.receiver.commits.close()
    assert world.budget.used_bytes == 0
    assert world.inbox.committed == [b"1"]
    assert len(named(logged, "event.accepted")) == 1


async def test_a_caller_that_hangs_up_does_not_take_its_commit_back(served: World) -> None:
    """The message of a caller that is gone is stored all the same."""
    served.inbox.gate.clear()
    body = b"id=gone"
    head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
    request = f"POST {SMS_PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request.encode() + body)
    await served.inbox.pending(1)
    reset = struct.pack("ii", 1, 0)  # one that only closes its side could still read
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    writer.close()
    await writer.wait_closed()
    await served.get("/health")
    assert served.count("requests_total", channel="sms", status="499") == 1
    served.inbox.gate.set()
    await served.receiver.commits.close()
    assert served.inbox.committed == [b"gone"]


async def test_commits_that_do_not_end_leave_no_room_for_more(quiet_world: World) -> None:
    """While the journal hangs, memory stays bounded: further requests are refused at once."""
    world = quiet_world
    world.receiver.commits.ack_timeout_seconds = 0.01
    world.budget.limit_bytes = 40_000
    await world.start()
    world.inbox.gate.clear()
    for _ in range(5):
        assert (await world.post())[0] == 503
    assert world.inbox.arrivals == 3


async def test_stopping_lets_requests_finish(served: World) -> None:
    """A request under way when the server stops gets its answer; the connection is closed."""
    served.inbox.gate.clear()
    posting = asyncio.create_task(served.post())
    await served.inbox.pending(1)
    stopping = asyncio.create_task(served.shut())
    await asyncio.sleep(0)
    served.inbox.gate.set()
    assert (await posting)[0] == 200
    await stopping


async def test_a_replayed_signature_is_refused(world: World, logged: Logged) -> None:
    """403, counted as a failed signature."""
    world.inbox.failure = ReplayedSignature()
    status, _, _ = await world.post()
    assert status == 403
    assert len(named(logged, "signature.invalid")) == 1
    assert world.count("signature_failures_total", channel="sms") == 1


async def test_a_failed_signature_is_diagnosed_at_most_once_a_second(
    world: World, logged: Logged
) -> None:
    """Every failure is logged; the likely mistake is looked for once."""
    bad = {**GOOD, "X-Test-Signature": "bad"}
    for _ in range(5):
        status, body, _ = await world.post(headers=bad)
        assert status == 403
        assert "match" not in str(body)
    lines = named(logged, "signature.invalid")
    assert [line.get("diagnosis", "not tried") for line in lines] == [
        "try https",
        *["not tried"] * 4,
    ]
    assert world.sms.diagnoses == 1
    assert world.count("signature_failures_total", channel="sms") == 5


async def test_what_resembles_the_provider_counts_until_one_is_accepted(
    world: World, logged: Logged
) -> None:
    """Strangers, samples and what was used before are not the provider's."""
    bad = {**GOOD, "X-Test-Signature": "bad"}
    stranger = {"Content-Type": GOOD["Content-Type"]}
    await world.post(headers=stranger)
    mark = KEY.mark(Purpose.SAMPLE, now(), b"id=1")
    await world.post(b"id=1", headers={**bad, "Berinia-Probe": mark})
    assert world.count("provider_refused", channel="sms") == 0
    for _ in range(2):
        await world.post(headers=bad)
    assert world.count("provider_refused", channel="sms") == 2
    resembling = [line["resembles_provider"] for line in named(logged, "signature.invalid")]
    assert resembling == [False, True, True, True]

    assert (await world.post(b"id=1", headers={**GOOD, "Berinia-Probe": mark}))[0] == 200
    assert named(logged, "event.accepted")[0]["sample"] is True
    assert world.count("provider_refused", channel="sms") == 2
    assert (await world.post())[0] == 200
    assert world.count("provider_refused", channel="sms") == 0


async def test_a_rejected_delivery_is_proven(world: World) -> None:
    """What cannot be read was signed rightly all the same."""
    await world.post(headers={**GOOD, "X-Test-Signature": "bad"})
    assert (await world.post(b"malformed=1"))[0] == 400
    assert world.count("provider_refused", channel="sms") == 0


async def test_a_stranger_takes_no_diagnosis_away(world: World, logged: Logged) -> None:
    """The provider's request is looked at, whatever came in the same second."""
    await world.post(headers={"Content-Type": GOOD["Content-Type"]})
    await world.post(headers={**GOOD, "X-Test-Signature": "bad"})
    assert [line["diagnosis"] for line in named(logged, "signature.invalid")] == ["try https"] * 2


async def test_an_address_that_is_not_allowed_is_logged(world: World, logged: Logged) -> None:
    """403 and `address.refused`, which says why, as the console's page of what is refused does."""
    status, _, _ = await world.post(headers={**GOOD, "X-Test-Signature": "elsewhere"})
    assert status == 403
    (line,) = named(logged, "address.refused")
    assert (line["reason"], line["diagnosis"]) == ("This address is not allowed.", None)


async def test_a_broken_page_says_nothing(world: World, logged: Logged) -> None:
    """A bug of ours is logged with its traceback and answered without a word about it."""
    status, body, _ = await world.get("/broken")
    assert status == 500
    assert "secret" not in str(body)
    (line,) = named(logged, "request.failed")
    assert line["exc_info"]
