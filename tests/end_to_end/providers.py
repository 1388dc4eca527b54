"""Requests as Mailgun and the WhatsApp bot send them, each with ids of its own."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

MAILGUN_KEY = "key-00000000000000000000000000000001"
EMAIL_PATH = "/webhook/email-response"
WHATSAPP_PATH = "/webhook/whatsapp"
FORM = "application/x-www-form-urlencoded"

# To be given to `Daemon`: every channel has its secret, every agent is the recorder.
ALL_CHANNELS = f"""
channels.email.signing_keys = ["{MAILGUN_KEY}"]
agents.MetaAgent.target = "python:recorder:Recorder"
agents.AdminInterpreterAgent.target = "python:recorder:Recorder"
"""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class File:
    """An attachment."""

    content: bytes
    name: str = "devis.pdf"
    content_type: str = "application/pdf"
    field: str = "attachment-1"


def proof(
    *, timestamp: str | None = None, token: str | None = None, key: str = MAILGUN_KEY
) -> dict[str, str]:
    """The three fields by Mailgun's published recipe; a fresh token unless given."""
    timestamp = str(int(time.time())) if timestamp is None else timestamp
    token = f"{next(_numbers):050d}" if token is None else token
    signed = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256)
    return {"timestamp": timestamp, "token": token, "signature": signed.hexdigest()}


def sample_mail(**changes: str | None) -> dict[str, str]:
    """A mail's fields, signed; a change to None leaves the field out (`_` stands for `-`)."""
    fields: dict[str, str | None] = {
        "recipient": "contact@example.com",
        "sender": "lead@example.com",
        "from": "Camille <lead@example.com>",
        "subject": "Re: votre proposition",
        "body-plain": "Oui.\r\n> Bonjour",
        "stripped-text": "Oui.",
        "Message-Id": f"<{next(_numbers)}@example.com>",
        "Date": "Tue, 24 Nov 2026 10:29:58 +0100",
        **proof(),
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return {name: value for name, value in fields.items() if value is not None}


def posted_mail(
    fields: Mapping[str, str] | None = None, files: Sequence[File] = ()
) -> tuple[bytes, dict[str, str]]:
    """Body and headers: urlencoded, or multipart as soon as there are attachments."""
    fields = sample_mail() if fields is None else fields
    if not files:
        return urlencode(fields).encode(), {"Content-Type": FORM}
    parts = [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for file in files:
        head = (
            f'--xyz\r\nContent-Disposition: form-data; name="{file.field}"; '
            f'filename="{file.name}"\r\nContent-Type: {file.content_type}\r\n\r\n'
        )
        parts.append(head.encode() + file.content + b"\r\n")
    return b"".join([*parts, b"--xyz--\r\n"]), {"Content-Type": "multipart/form-data; boundary=xyz"}


def sample_whatsapp(**changes: object) -> dict[str, object]:
    """A message in a group; a change to None leaves the field out."""
    document = {
        "source": "whatsapp",
        "type": "group",
        "group": "🤖 Support IA / Chatbot",
        "author": "33639980001@c.us",
        "content": "Bonjour",
        "timestamp": "2026-11-24T09:30:00.000Z",
        "messageId": f"3EB0{next(_numbers):016X}",
        **changes,
    }
    return {name: value for name, value in document.items() if value is not None}


def posted_whatsapp(document: Mapping[str, object] | None = None) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the bot's request."""
    document = sample_whatsapp() if document is None else document
    return json.dumps(document).encode(), {"Content-Type": "application/json"}
