"""Hostile traffic of all channels: forgeries, floods, slow and broken HTTP. Each kind runs until
the end of the run, counts what it was answered, and marks its messages, so that none may ever be
seen by an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import aiohttp
from honest import (
    EMAIL_PATH,
    FORM,
    WHATSAPP_PATH,
    Request,
    forwarded,
    mail_fields,
    post,
    posted_mail,
    proof,
    signed_sms,
    sms_fields,
    whatsapp,
)
from messages import PATH as SMS_PATH

MARK = "hostile"
MIB = 1024 * 1024
ATTACKERS = ("198.51.100", 20)  # few enough for their buckets to become empty now and then
Answers = Counter[str]
Attack = Callable[["Target"], Coroutine[Any, Any, None]]


class Target:
    """The daemon under attack, and what it answered by kind of attack."""

    def __init__(self, session: aiohttp.ClientSession, port: int, until: float) -> None:
        self.session = session
        self.port = port
        self.until = until
        self.answers: Answers = Counter()

    def note(self, kind: str, status: int | None) -> None:
        self.answers[f"{kind} {status}"] += 1

    async def post(self, kind: str, request: Request) -> None:
        """One request, counted."""
        path, body, headers = request
        named = {**headers, **forwarded(*ATTACKERS)}
        self.note(kind, await post(self.session, (path, body, named)))

    async def raw(self, kind: str, *pieces: bytes, pause_seconds: float = 0.0) -> None:
        """Bytes on a connection of their own, piece by piece, and the status that comes back."""
        status = None
        with contextlib.suppress(OSError, TimeoutError, IndexError, ValueError):
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(pause_seconds)
                    status = int((await reader.readline()).split()[1])
                finally:
                    writer.close()
        self.note(kind, status)

    def rounds(self) -> Iterator[int]:
        """Counts until the end of the run."""
        number = 0
        while asyncio.get_running_loop().time() < self.until:
            yield number
            number += 1


async def forged_sms(target: Target) -> None:
    """Another token's signatures, none at all, and honest ones on changed messages."""
    for number in target.rounds():
        fields = sms_fields(MARK)
        path, body, headers = signed_sms(fields, token="f" * 32)
        if number % 3 == 1:
            del headers["X-Twilio-Signature"]
        elif number % 3 == 2:
            _, _, headers = signed_sms({**fields, "Body": "innocent"})
        await target.post("forged SMS", (path, body, headers))
        await asyncio.sleep(0.05)


async def forged_mail(target: Target) -> None:
    """Wrong keys, and one honest signature used for ever new messages."""
    stolen = proof()
    first = {**mail_fields(f"honest-stolen-{secrets.token_hex(8)}"), **stolen}
    await post(target.session, posted_mail(first))
    for number in target.rounds():
        signed = stolen if number % 2 else proof(key="wrong")
        await target.post("forged mail", posted_mail({**mail_fields(MARK), **signed}))
        await asyncio.sleep(0.1)


async def forged_whatsapp(target: Target) -> None:
    """From elsewhere, under other names, and with every header that might help."""
    tries: tuple[Mapping[str, str], ...] = (
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"Host": "app.example.com"},
    )
    for number in target.rounds():
        path, body, headers = whatsapp(MARK)
        status = await post(target.session, (path, body, {**headers, **tries[number % 4]}))
        target.note("forged WhatsApp", status)
        await asyncio.sleep(0.1)


async def flood_of_mails(target: Target) -> None:
    """Unsigned mails of 26 MiB."""
    body = b"body-plain=" + MARK.encode() * (26 * MIB // len(MARK))
    for _ in target.rounds():
        await target.post("flood", (EMAIL_PATH, body, {"Content-Type": FORM}))
        await asyncio.sleep(0.5)


async def signed_nonsense(target: Target) -> None:
    """Verified but incomplete: refused and kept."""
    for _ in target.rounds():
        fields = sms_fields(MARK)
        del fields["From"]
        await target.post("signed nonsense", signed_sms(fields))
        mail = mail_fields(MARK)
        del mail["recipient"]
        await target.post("signed nonsense", posted_mail(mail))
        headers = {"Content-Type": "application/json"}
        nonsense = b'{"content":"%s %d"}' % (MARK.encode(), random.getrandbits(64))
        status = await post(target.session, (WHATSAPP_PATH, nonsense, headers))
        target.note("signed nonsense", status)
        await asyncio.sleep(0.5)


async def costly_bodies(target: Target) -> None:
    """Many parts, deep nesting, bombs, what is no text."""
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    multipart = "multipart/form-data; boundary=x"
    bodies: tuple[Request, ...] = (
        (EMAIL_PATH, part * 100_000 + b"--x--\r\n", {"Content-Type": multipart}),
        (EMAIL_PATH, b"&".join([b"a=b"] * 500_000), {"Content-Type": FORM}),
        (EMAIL_PATH, b"%" * 5 * MIB, {"Content-Type": FORM}),
        (SMS_PATH, gzip.compress(bytes(20 * MIB)), {"Content-Encoding": "gzip"}),
        (SMS_PATH, bytes(range(256)) * 1000, {"Content-Type": FORM}),
        (WHATSAPP_PATH, b"[" * 500_000, {"Content-Type": "application/json"}),
        (WHATSAPP_PATH, b'{"a":1' + b"0" * 500_000 + b"}", {"Content-Type": "application/json"}),
    )
    for number in target.rounds():
        path, body, headers = bodies[number % len(bodies)]
        if path == WHATSAPP_PATH:  # from where it is allowed, so that it is read
            target.note("costly bodies", await post(target.session, (path, body, headers)))
        else:
            await target.post("costly bodies", (path, body, {"Content-Type": FORM, **headers}))
        await asyncio.sleep(0.5)


BROKEN = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /webhook/sms-response HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /webhook/whatsapp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)


async def broken_http(target: Target) -> None:
    """What no parser takes, and requests that end in the middle."""
    for number in target.rounds():
        await target.raw("broken HTTP", BROKEN[number % len(BROKEN)])
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        del reader
        path, body, headers = signed_sms(sms_fields(MARK))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:-1])  # the last byte never comes
        await asyncio.sleep(0.05)
        writer.transport.abort()


async def slow(target: Target) -> None:
    """Heads and bodies that trickle."""
    head = f"POST {EMAIL_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\n".encode()
    for number in target.rounds():
        trickle = [b"X-A: b\r\n" if number % 2 else b"a"] * 20
        begin = head if number % 2 else head + b"Content-Length: 100000\r\n\r\n"
        await target.raw("slow", begin, *trickle, pause_seconds=1.0)


async def guesses(target: Target) -> None:
    """Passwords, paths and methods."""
    wishes = (
        ("GET", "/webhook/logs"),
        ("GET", "/webhook/logs?type=../../etc/passwd"),
        ("GET", "/metrics"),
        ("GET", "/../../etc/passwd"),
        ("DELETE", "/health"),
        ("PUT", SMS_PATH),
        ("GET", "/" + "a" * 4000),
    )
    for number in target.rounds():
        method, path = wishes[number % len(wishes)]
        headers = {"Authorization": "Basic YmVyaW5pYTpndWVzcw==", **forwarded(*ATTACKERS)}
        status = None
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with target.session.request(method, path, headers=headers) as answer:
                status = answer.status
        target.note("guesses", status)
        await asyncio.sleep(0.1)


# Each with how many of it run side by side.
ATTACKS: tuple[tuple[Attack, int], ...] = (
    (forged_sms, 2),
    (forged_mail, 1),
    (forged_whatsapp, 1),
    (flood_of_mails, 4),
    (signed_nonsense, 1),
    (costly_bodies, 1),
    (broken_http, 1),
    (slow, 40),
    (guesses, 1),
)
