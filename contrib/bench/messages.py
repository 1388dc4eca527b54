"""Distinct SMS callbacks, each signed by twilio's own library as Twilio would sign it; and messages
of like size for a declared channel.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from urllib.parse import urlencode

from twilio.request_validator import RequestValidator

TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC_URL = "https://bench.example.com"
PATH = "/webhook/sms-response"
DECLARED_PATH = "/webhook/declared"
# What Twilio fills in of a place where it knows no more than the country.
_NOWHERE = dict.fromkeys(("FromCity", "FromState", "FromZip", "ToCity", "ToState", "ToZip"), "")
_NUMBERS = 10_000  # senders, of the range reserved for fiction: +33 6 39 98 xx xx


def write_messages(file: Path, count: int, *, first: int, whole: bool = False) -> Path:
    """One message a line: signature, tab, form.

    Args:
        file: where to.
        count: how many.
        first: the number of the first one; the number makes a message distinct.
        whole: with all fields that Twilio sends.
    """
    validator = RequestValidator(TOKEN)
    with file.open("w") as out:
        for number in range(first, first + count):
            fields = _fields(number) | (_NOWHERE if whole else {})
            signature = validator.compute_signature(PUBLIC_URL + PATH, fields)
            out.write(f"{signature}\t{urlencode(fields)}\n")
    return file


def write_declared_messages(file: Path, count: int, *, first: int) -> Path:
    """The fields of whole SMS as JSON, each signed by an HMAC of the body."""
    with file.open("w") as out:
        for number in range(first, first + count):
            body = json.dumps(_fields(number) | _NOWHERE, separators=(",", ":"))
            mac = hmac.digest(TOKEN.encode(), body.encode(), hashlib.sha256).hex()
            out.write(f"sha256={mac}\t{body}\n")
    return file


def _fields(number: int) -> dict[str, str]:
    return {
        "AccountSid": "AC" + "0" * 32,
        "ApiVersion": "2010-04-01",
        "Body": f"Bonjour, message {number}",
        "From": f"+3363998{number % _NUMBERS:04d}",
        "FromCountry": "FR",
        "MessageSid": f"SM{number:032x}",
        "NumMedia": "0",
        "NumSegments": "1",
        "SmsMessageSid": f"SM{number:032x}",
        "SmsSid": f"SM{number:032x}",
        "SmsStatus": "received",
        "To": "+33639980000",
        "ToCountry": "FR",
    }
