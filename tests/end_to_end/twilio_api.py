"""Twilio's Messages API as its documentation shows it, on this machine: lists by recipient and day
in pages, the newest first, with the faults that a real one has.

https://www.twilio.com/docs/messaging/api/message-resource
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from .provider_api import Answered, ProviderApi

ACCOUNT = "AC" + "0" * 32


class TwilioApi(ProviderApi):
    """What it holds, and who may ask."""

    def __init__(self, token: str, *, page: int = 1000) -> None:
        super().__init__()
        self.token = token
        self.page = page
        self.messages: list[dict[str, Any]] = []
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.repeats = False  # the last page leads to itself
        self.endless = False  # and so on, each time under another address
        self.extra: list[
            Any
        ] = []  # records that are not as documented, on the first page of a day with others

    def holds(
        self,
        fields: dict[str, str],
        at: datetime,
        *,
        direction: str = "inbound",
        files: list[str] | None = None,
    ) -> None:
        """A message with the fields of its callback; `files` are types of media."""
        sid, account = fields["MessageSid"], fields["AccountSid"]
        path = f"/2010-04-01/Accounts/{account}/Messages/{sid}"
        self.messages.append(
            {
                "account_sid": account,
                "api_version": "2010-04-01",
                "body": fields["Body"],
                "date_created": format_datetime(at, usegmt=False),
                "date_sent": format_datetime(at, usegmt=False),
                "date_updated": format_datetime(at, usegmt=False),
                "direction": direction,
                "error_code": None,
                "error_message": None,
                "from": fields["From"],
                "messaging_service_sid": None,
                "num_media": str(len(files or ())),
                "num_segments": "1",
                "price": None,
                "price_unit": None,
                "sid": sid,
                "status": "received",
                "subresource_uris": {"media": f"{path}/Media.json"},
                "to": fields["To"],
                "uri": f"{path}.json",
                "_at": at,
            }
        )
        self.files[sid] = [
            {
                "sid": f"ME{number:032x}",
                "account_sid": account,
                "parent_sid": sid,
                "content_type": kind,
                "date_created": format_datetime(at, usegmt=False),
                "date_updated": format_datetime(at, usegmt=False),
                "uri": f"{path}/Media/ME{number:032x}.json",
            }
            for number, kind in enumerate(files or ())
        ]

    def answer(self, target: str, authorization: str, body: bytes) -> Answered:
        account = urlsplit(target).path.split("/")[3]
        known = base64.b64encode(f"{account}:{self.token}".encode()).decode()
        if authorization != f"Basic {known}":
            problem = {"code": 20003, "message": "Authenticate", "status": 401}
            return 401, {}, json.dumps(problem).encode()
        path = urlsplit(target).path
        if path.endswith("/Media.json"):
            found = {"media_list": self.files[path.split("/")[5]]}
            return 200, {}, json.dumps({**found, "next_page_uri": None, "page": 0}).encode()
        return 200, {}, json.dumps(self._list(target, account)).encode()

    def _list(self, target: str, account: str) -> dict[str, Any]:
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        recipient, day = query.get("To", [None])[0], query.get("DateSent", [None])[0]
        found = [
            {name: value for name, value in one.items() if name != "_at"}
            for one in sorted(self.messages, key=lambda one: one["_at"], reverse=True)
            if one["account_sid"] == account
            and recipient in {None, one["to"]}
            and day in {None, one["_at"].astimezone(UTC).date().isoformat()}
        ]
        size = min(int(query.get("PageSize", ["50"])[0]), self.page)
        number = int(query.get("Page", ["0"])[0])
        following = None
        if len(found) > (number + 1) * size or self.repeats or self.endless:
            asked = {name: values[0] for name, values in query.items()}
            after = {"Page": str(number if self.repeats else number + 1), "PageToken": "PASM1"}
            following = f"{path}?{urlencode({**asked, **after})}"
        return {
            "end": len(found),
            "first_page_uri": path,
            "messages": [
                *([] if number or size == 1 or not found else self.extra),
                *found[number * size : (number + 1) * size],
            ],
            "next_page_uri": following,
            "page": number,
            "page_size": size,
            "previous_page_uri": None,
            "start": number * size,
            "uri": target,
        }
