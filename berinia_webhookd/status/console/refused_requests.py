"""Requests whose proof failed, read from the log: the journal does not store them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from berinia_webhookd.logs.reading import tail

LINES: Final = 20_000
EVENTS: Final = frozenset({"signature.invalid", "address.refused"})


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """One refused request."""

    at: str
    channel: str
    client: str
    why: str  # the likely cause, or the text of the refusal


def refused_requests(log: Path, most: int) -> list[RefusedRequest]:
    """Return refused requests from the end of the log, the newest first."""
    found = [
        RefusedRequest(
            str(line.get("timestamp", ""))[:19].replace("T", " "),
            str(line.get("channel", "")),
            str(line.get("client", "")),
            str(line.get("diagnosis") or line.get("reason") or ""),
        )
        for line in _lines(log)
        if line.get("event") in EVENTS
    ]
    return found[: -most - 1 : -1]


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    for text in tail(log, LINES):
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue  # a line of another program
        if isinstance(line, dict):
            yield line
