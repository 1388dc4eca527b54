"""Honest traffic of all channels: every message has a token of its own, which its agent writes
down, so that what was accepted can be compared with what arrived.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

import aiohttp
from messages import PATH as SMS_PATH
from messages import PUBLIC_URL, TOKEN
from twilio.request_validator import RequestValidator

MAILGUN_KEY = "key-00000000000000000000000000000001"
EMAIL_PATH = "/webhook/email-response"
WHATSAPP_PATH = "/webhook/whatsapp"
FORM = "application/x-www-form-urlencoded"
ANSWER_SECONDS = 60

Request = tuple[str, bytes, dict[str, str]]  # path, body, headers
_numbers = itertools.count(1)


def forwarded(network: str = "203.0.113", callers: int = 250) -> dict[str, str]:
    """What nginx says of one of so many callers in a network."""
    return {
        "X-Forwarded-For": f"{network}.{random.randrange(1, callers + 1)}",
        "X-Forwarded-Proto": "https",
    }


def sms_fields(text: str) -> dict[str, str]:
    """An incoming SMS of one of 10,000 senders."""
    return {
        "AccountSid": "AC" + "0" * 32,
        "ApiVersion": "2010-04-01",
        "Body": text,
        "From": f"+3363998{random.randrange(10_000):04d}",
        "FromCountry": "FR",
        "MessageSid": f"SM{secrets.token_hex(16)}",
        "NumMedia": "0",
        "To": "+33639980000",
    }


def signed_sms(fields: Mapping[str, str], *, token: str = TOKEN) -> Request:
    """As Twilio posts it."""
    signature = RequestValidator(token).compute_signature(PUBLIC_URL + SMS_PATH, fields)
    headers = {"Content-Type": FORM, "X-Twilio-Signature": str(signature), **forwarded()}
    return SMS_PATH, urlencode(fields).encode(), headers


def proof(*, key: str = MAILGUN_KEY) -> dict[str, str]:
    """Mailgun's three fields."""
    stamp, token = str(int(time.time())), secrets.token_hex(25)
    signature = hmac.new(key.encode(), f"{stamp}{token}".encode(), hashlib.sha256).hexdigest()
    return {"timestamp": stamp, "token": token, "signature": signature}


def mail_fields(text: str) -> dict[str, str]:
    """An incoming mail of one of 1,000 senders, signed."""
    return {
        "recipient": "contact@example.com",
        "sender": f"lead{random.randrange(1000)}@example.com",
        "subject": "Votre proposition",
        "stripped-text": text,
        "Message-Id": f"<{secrets.token_hex(16)}@example.com>",
        **proof(),
    }


def posted_mail(fields: Mapping[str, str], attachment: bytes = b"") -> Request:
    """As Mailgun posts it, multipart where there is an attachment."""
    if not attachment:
        return EMAIL_PATH, urlencode(fields).encode(), {"Content-Type": FORM, **forwarded()}
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--xyz\r\nContent-Disposition: form-data; name="attachment-1"; filename="a.bin"\r\n\r\n'
    body = b"".join([*parts, head, base64.b64encode(attachment), b"\r\n--xyz--\r\n"])
    return EMAIL_PATH, body, {"Content-Type": "multipart/form-data; boundary=xyz", **forwarded()}


def whatsapp(text: str) -> Request:
    """As the bot posts it; one in five is a direct message."""
    direct = random.random() < 0.2
    document = {
        "source": "whatsapp",
        "type": "direct" if direct else "group",
        "group": "Direct Message" if direct else random.choice(("Discussion libre", "Les leads")),
        "author": f"3363998{random.randrange(1000):04d}@c.us",
        "content": text,
        "timestamp": "2026-11-24T09:30:00.000Z",
        "messageId": secrets.token_hex(16).upper(),
    }
    return WHATSAPP_PATH, json.dumps(document).encode(), {"Content-Type": "application/json"}


def honest_sms(text: str) -> Request:
    """A signed SMS."""
    return signed_sms(sms_fields(text))


def honest_mail(text: str) -> Request:
    """A signed mail, one in ten with an attachment of up to 2 MB."""
    size = random.randrange(1000, 1_500_000) if random.random() < 0.1 else 0
    return posted_mail(mail_fields(text), random.randbytes(size))


@dataclass
class Accounts:
    """What became of the honest messages, by their tokens."""

    accepted: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)  # "sms 200": how many

    def note(self, channel: str, token: str, status: int | None) -> None:
        """One answer; None: the connection broke."""
        self.answers[f"{channel} {status}"] += 1
        if status in (200, 202):
            self.accepted.add(token)
        elif status is None:
            self.unanswered.add(token)


async def send_on(
    session: aiohttp.ClientSession,
    make: Callable[[str], Request],
    accounts: Accounts,
    *,
    channel: str,
    per_second: float,
    until: float,
) -> None:
    """A steady stream of one channel; one message in twenty comes twice."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        due = loop.time()
        while due < until:
            token = f"honest-{channel}-{next(_numbers)}"
            request = make(token)
            for _ in range(2 if random.random() < 0.05 else 1):
                group.create_task(_send(session, request, accounts, channel, token))
            due += random.expovariate(per_second)
            await asyncio.sleep(max(0.0, due - loop.time()))


async def _send(
    session: aiohttp.ClientSession, request: Request, accounts: Accounts, channel: str, token: str
) -> None:
    accounts.note(channel, token, await post(session, request))


async def post(session: aiohttp.ClientSession, request: Request) -> int | None:
    """The status of the answer; None where none came."""
    path, body, headers = request
    try:
        async with session.post(path, data=body, headers=headers) as answer:
            await answer.read()
            return answer.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
