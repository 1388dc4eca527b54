"""A provider's list of what it holds, on this machine: what a declared channel asks, in each of the
ways in which one page leads to the next, the newest first.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from berinia_webhookd.model import ChannelName

from .daemon import Answer, Daemon
from .provider_api import Answered, ProviderApi

PAGES = [
    (Path(__file__).parents[2] / "docs" / f"{name}.md").read_text()
    for name in ("declaring-a-channel", "declarer-un-canal")
]
EXAMPLES = [
    re.findall(r"```toml\n(\[channels\.gateway\].*?)```", page, re.DOTALL) for page in PAGES
]
((EXAMPLE,), _) = EXAMPLES
SECRET, KEY = "the secret that signs", "the key of its API"
GATEWAY = ChannelName("gateway")
WAYS = {
    "link": '{ link = "links.next" }',
    "cursor": '{ cursor = "meta.next", parameter = "cursor" }',
    "last": '{ last = "id", parameter = "after" }',
    "number": '{ number = "page" }',
    "offset": '{ offset = "offset" }',
}
PATH = "/v1/messages"


class ListApi(ProviderApi):
    """What it holds, who may ask, and how it pages."""

    def __init__(self, secret: str, *, way: str = "cursor", page: int = 100) -> None:
        super().__init__()
        self.secret = secret
        self.way = way
        self.page = page
        self.messages: list[Any] = []
        self.repeats = False  # the last page leads to itself
        self.elsewhere = ""  # where it says that the next page is

    def holds(self, id_: str, at: datetime, text: str, **changes: Any) -> dict[str, Any]:
        """A message."""
        message = {
            "id": id_,
            "direction": "inbound",
            "from": "+33639980001",
            "to": "+33639980002",
            "text": text,
            "received_at": at.isoformat().replace("+00:00", "Z"),
            **changes,
        }
        self.messages.append(message)
        return message

    def answer(self, target: str, authorization: str, body: bytes) -> Answered:
        assert not body
        if authorization != f"Bearer {self.secret}":
            return 401, {}, b'{"error": "unauthorized"}'
        path, asked = urlsplit(target).path, dict(parse_qsl(urlsplit(target).query))
        if path != PATH:
            return 404, {}, b"{}"
        since, until = (datetime.fromisoformat(asked[name]) for name in ("since", "until"))
        found = [one for one in self.messages[::-1] if is_between(one, since, until)]
        begin = self._begin(asked, found)
        end = begin + self.page
        links = {}
        if end < len(found) or (self.repeats and found):
            again = begin if self.repeats else end
            links["next"] = self.elsewhere or f"{PATH}?{urlencode({**asked, 'at': str(again)})}"
        meta = {"next": str(begin if self.repeats else end)} if links else {}
        shown = {"messages": found[begin:end], "meta": meta, "links": links}
        return 200, {}, json.dumps(shown).encode()

    def _begin(self, asked: Mapping[str, str], found: list[Any]) -> int:
        match self.way:
            case "link":
                return int(asked.get("at", 0))
            case "cursor":
                return int(asked.get("cursor", 0))
            case "last":
                ids = [one.get("id") for one in found]
                known = "after" in asked and not self.repeats
                return ids.index(asked["after"]) + 1 if known else 0
            case "number":
                return 0 if self.repeats else (int(asked["page"]) - 1) * self.page
            case _:
                return 0 if self.repeats else int(asked["offset"])


def is_between(message: Any, since: datetime, until: datetime) -> bool:
    """Whether it is of a time; what is garbage is of any."""
    try:
        return since <= datetime.fromisoformat(message["received_at"]) <= until
    except (TypeError, KeyError, ValueError):
        return True


def settings(api: ListApi, more: str = "") -> str:
    """The page's example, with another address."""
    example = EXAMPLE.replace("https://api.example.com", api.url)
    paging = next(line for line in example.splitlines() if line.startswith("paging"))
    return f"{more}\n{example.replace(paging, f'paging = {WAYS[api.way]}')}"


def post(daemon: Daemon, message: dict[str, Any]) -> Answer:
    """Its callback."""
    content = {"event": "message.received", "attempt": 1, "data": message}
    body = json.dumps(content, indent=2).encode()
    signed = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-Signature": signed}
    return daemon.request("POST", "/webhook/gateway", body, headers)
