"""Distinct SMS callbacks, each signed by twilio's own library as Twilio would sign it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from twilio.request_validator import RequestValidator

TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC_URL = "https://bench.example.com"
PATH = "/webhook/sms-response"
_NUMBERS = 10_000  # senders, of the range reserved for fiction: +33 6 39 98 xx xx


def write_messages(file: Path, count: int, *, first: int) -> Path:
    """One message a line: signature, tab, form.

    Args:
        file: where to.
        count: how many.
        first: the number of the first one; the number makes a message distinct.
    """
    validator = RequestValidator(TOKEN)
    with file.open("w") as out:
        for number in range(first, first + count):
            fields = {
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
            signature = validator.compute_signature(PUBLIC_URL + PATH, fields)
            out.write(f"{signature}\t{urlencode(fields)}\n")
    return file
