"""Distinct messages, signed as their providers sign them: SMS by twilio's own library, and messages
of like content for other channels. A file has one a line: signature, tab, body, in which the byte 1
stands for a line break.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from twilio.request_validator import RequestValidator

TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC_URL = "https://bench.example.com"
PATH = "/webhook/sms-response"
_SID = re.compile("SM([0-9a-f]{32})")
# What Twilio fills in of a place where it knows no more than the country.
_NOWHERE = dict.fromkeys(("FromCity", "FromState", "FromZip", "ToCity", "ToState", "ToZip"), "")
_NUMBERS = 10_000  # in the range reserved for fiction: +33 6 39 98 xx xx
_BOUNDARY = "bench-boundary"
# 30 KB with what stands around it, as it travels.
_ATTACHMENT = base64.encodebytes(random.Random(1).randbytes(21_000)).decode()


@dataclass(frozen=True)
class Endpoint:
    """Where messages go, and how they are signed."""

    path: str
    header: str  # of the signature
    media_type: str


SMS = Endpoint(PATH, "X-Twilio-Signature", "application/x-www-form-urlencoded")
DECLARED = Endpoint("/webhook/declared", "X-Hub-Signature-256", "application/json")
# The proof of a mail is in its body, that of the bot is its address.
MAIL = Endpoint(
    "/webhook/email-response", "X-Unsigned", f"multipart/form-data; boundary={_BOUNDARY}"
)
WHATSAPP = Endpoint("/webhook/whatsapp", "X-Unsigned", "application/json")


def write_messages(file: Path, count: int, *, first: int, whole: bool = False) -> Path:
    """SMS.

    Args:
        file: where to.
        count: how many.
        first: the number of the first one; the number makes a message distinct.
        whole: with all fields that Twilio sends.
    """
    validator = RequestValidator(TOKEN)

    def signed(number: int) -> tuple[str, str]:
        fields = _fields(number) | (_NOWHERE if whole else {})
        return validator.compute_signature(PUBLIC_URL + PATH, fields), urlencode(fields)

    return _write(file, count, signed, first=first)


def write_declared_messages(file: Path, count: int, *, first: int) -> Path:
    """The fields of whole SMS as JSON, each signed by an HMAC of the body."""

    def signed(number: int) -> tuple[str, str]:
        body = json.dumps(_fields(number) | _NOWHERE, separators=(",", ":"))
        return f"sha256={_hmac(body)}", body

    return _write(file, count, signed, first=first)


def write_mails(file: Path, count: int, *, first: int) -> Path:
    """As Mailgun posts them, with an attachment: 30 KB each."""

    def signed(number: int) -> tuple[str, str]:
        stamp, token = str(int(time.time())), f"{number:050x}"
        fields = {
            "recipient": "contact@example.com",
            "sender": f"lead{number % _NUMBERS}@example.com",
            "subject": "Votre proposition",
            "stripped-text": f"Bonjour, message {number}",
            "Message-Id": f"<{number:032x}@example.com>",
            "timestamp": stamp,
            "token": token,
            "signature": _hmac(stamp + token),
        }
        head = "Content-Disposition: form-data; name="
        parts = [f'{head}"{name}"\n\n{value}' for name, value in fields.items()]
        parts.append(f'{head}"attachment-1"; filename="a.bin"\n\n{_ATTACHMENT}')
        body = "".join(f"--{_BOUNDARY}\n{part}\n" for part in parts) + f"--{_BOUNDARY}--\n"
        return "no", body.replace("\n", "\1")

    return _write(file, count, signed, first=first)


def write_whatsapp_messages(file: Path, count: int, *, first: int) -> Path:
    """As the bot posts them: direct messages, which are answered."""

    def signed(number: int) -> tuple[str, str]:
        document = {
            "source": "whatsapp",
            "type": "direct",
            "group": "Direct Message",
            "author": f"{_phone(number)[1:]}@c.us",
            "content": f"Bonjour, message {number}",
            "timestamp": "2026-11-24T09:30:00.000Z",
            "messageId": f"{number:032X}",
        }
        return "no", json.dumps(document)

    return _write(file, count, signed, first=first)


def numbers_in(texts: Iterable[str]) -> list[int]:
    """The number of the SMS in each text, whoever kept it."""
    return [int(found[1], 16) for text in texts for found in [_SID.search(text)] if found]


def _write(file: Path, count: int, signed: Callable[[int], tuple[str, str]], *, first: int) -> Path:
    with file.open("w") as out:
        for number in range(first, first + count):
            signature, body = signed(number)
            out.write(f"{signature}\t{body}\n")
    return file


def _hmac(text: str) -> str:
    return hmac.digest(TOKEN.encode(), text.encode(), hashlib.sha256).hex()


def _phone(number: int) -> str:
    return f"+3363998{number % _NUMBERS:04d}"


def _fields(number: int) -> dict[str, str]:
    """Many recipients, too: people who come again within a minute would be held as a loop."""
    return {
        "AccountSid": "AC" + "0" * 32,
        "ApiVersion": "2010-04-01",
        "Body": f"Bonjour, message {number}",
        "From": _phone(number),
        "FromCountry": "FR",
        "MessageSid": f"SM{number:032x}",
        "NumMedia": "0",
        "NumSegments": "1",
        "SmsMessageSid": f"SM{number:032x}",
        "SmsSid": f"SM{number:032x}",
        "SmsStatus": "received",
        "To": _phone(number // _NUMBERS),
        "ToCountry": "FR",
    }
