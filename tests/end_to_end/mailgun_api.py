"""Mailgun's API as its documentation shows it, on this machine: logs in pages, the oldest first,
and stored messages with their attachments at hosts of their own, with the faults that a real one
has.

https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/logs/post-v1-analytics-logs
https://github.com/mailgun/mailgun-go/blob/master/mtypes/stored_messages.go
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from .provider_api import Answered, ProviderApi
from .providers import File

DOMAIN = "example.com"
STORAGE = "https://storage-europe-west1.api.mailgun.net"
NOT_HEADERS = {"recipient", "sender", "from", "subject", "body-plain", "body-html"} | {
    *("stripped-text", "stripped-html", "timestamp", "token", "signature")
}


class MailgunApi(ProviderApi):
    """What it accepted, who may ask, and for which domain."""

    def __init__(self, key: str, *, page: int = 100) -> None:
        super().__init__()
        self.key = key
        self.page = page
        self.items: list[dict[str, Any]] = []
        self.stored: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.garbage: dict[str, bytes] = {}  # in place of what is stored
        self.repeats = False  # the last page leads to itself

    def holds(
        self,
        fields: Mapping[str, str],
        at: datetime,
        *,
        files: Sequence[File] = (),
        targets: Sequence[str] = ("https://app.example.com/webhook/email-response",),
        recipients: Sequence[str] = (),
        **changes: Any,
    ) -> str:
        """A mail with the fields of its callback, stored once; returns the key of what is stored.

        A route that forwards it to several targets makes an event for each, and each of several
        recipients is routed by itself. `changes` are of its events.
        """
        key = f"BAABAg{len(self.stored):06d}=="
        path = f"/v3/domains/{DOMAIN}/messages/{key}"
        recipients = recipients or [fields["recipient"]]
        self.stored[path] = {
            **{name: value for name, value in fields.items() if name not in NOT_HEADERS},
            "recipients": ", ".join(recipients),
            **{name: fields[name] for name in fields if name in NOT_HEADERS - {"recipient"}},
            "message-headers": [
                [name, fields[name]] for name in ("Message-Id", "Date") if name in fields
            ],
            "content-id-map": {},
            "attachments": [
                {
                    "url": f"{STORAGE}{path}/attachments/{number}",
                    "content-type": file.content_type,
                    "name": file.name,
                    "size": len(file.content),
                }
                for number, file in enumerate(files)
            ],
        }
        for name in ("timestamp", "token", "signature"):
            self.stored[path].pop(name, None)
        for number, file in enumerate(files):
            self.files[f"{path}/attachments/{number}"] = file.content
        for recipient in recipients:
            for target in targets:
                event = self._event(fields, at, recipient, target, path)
                self.items.append({**event, **changes})
        return path

    def _event(
        self, fields: Mapping[str, str], at: datetime, recipient: str, target: str, path: str
    ) -> dict[str, Any]:
        """As `Accepted (routed)` in the documentation."""
        headers = {"to": recipient, "from": fields.get("from", ""), "subject": "Re: "}
        if "Message-Id" in fields:
            headers["message-id"] = fields["Message-Id"].strip("<>")
        return {
            "id": f"cWgTfzV6QQiX{len(self.items):010d}",
            "event": "accepted",
            "@timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "account": {"id": "12345"},
            "domain": {"name": DOMAIN},
            "recipient": target,
            "envelope": {"sender": fields["sender"], "transport": "smtp", "targets": target},
            "storage": {
                "region": "europe-west1",
                "env": "production",
                "key": path.rpartition("/")[2],
                "url": [STORAGE + path],
            },
            "log-level": "info",
            "message": {"headers": headers, "recipients": [recipient], "size": 586},
            "flags": {
                "is-authenticated": False,
                "is-system-test": False,
                "is-routed": True,
                "is-test-mode": False,
                "is-delayed-bounce": False,
                "is-callback": False,
            },
            "routes": {
                "expression": f'match_recipient("{recipient}")',
                "id": "5b295a4aa4764a000108508c",
                "match": {"recipient": recipient},
            },
        }

    def answer(self, target: str, authorization: str, body: bytes) -> Answered:
        known = base64.b64encode(f"api:{self.key}".encode()).decode()
        if authorization != f"Basic {known}":
            return 401, {}, b"Forbidden"
        path = urlsplit(target).path
        if path == "/v1/analytics/logs":
            return 200, {}, json.dumps(self._logs(json.loads(body))).encode()
        if path == f"/v4/domains/{DOMAIN}":
            return 200, {}, json.dumps({"domain": {"name": DOMAIN, "state": "active"}}).encode()
        if path in self.stored:
            return 200, {}, self.garbage.get(path) or json.dumps(self.stored[path]).encode()
        if path in self.files:
            return 200, {"Content-Type": "application/octet-stream"}, self.files[path]
        return 404, {}, json.dumps({"message": "Message not found"}).encode()

    def _logs(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        begin, end = (parsedate_to_datetime(asked[name]) for name in ("start", "end"))
        ((filtered,),) = ([one["values"] for one in asked["filter"]["AND"]],)
        domains = {one["value"] for one in filtered}
        found = sorted(
            (
                one
                for one in self.items
                if one["domain"]["name"] in domains
                and begin <= datetime.fromisoformat(one["@timestamp"]) <= end
            ),
            key=lambda one: str(one["@timestamp"]),
        )
        assert asked["pagination"]["sort"] == "timestamp:asc"
        size = min(asked["pagination"]["limit"], self.page, 100)
        number = int(asked["pagination"].get("token", "0"))
        following = number if self.repeats else number + 1
        return {
            "start": asked["start"],
            "end": asked["end"],
            "items": found[number * size : (number + 1) * size],
            "pagination": {"first": "0", "next": str(following), "total": len(found)},
            "aggregates": {},
        }
