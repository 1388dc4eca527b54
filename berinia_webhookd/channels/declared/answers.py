"""What every delivery of a declared channel is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FixedAnswer:
    """The answer to every delivery."""

    status: int = 200
    content_type: str = "text/plain"
    body: str = ""

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.status}, {self.body!r}" if self.body else f"{self.status}, empty"


def fixed_answer(raw: Any) -> FixedAnswer:
    """Read it: a status, or a table.

    Raises:
        ValueError: with what would be right.
    """
    hint = 'give { status = 200, content_type = "text/plain", body = "" }, or parts of it'
    if isinstance(raw, int) and not isinstance(raw, bool):
        raw = {"status": raw}
    if not isinstance(raw, Mapping) or not {"status", "content_type", "body"} >= raw.keys():
        raise ValueError(hint)
    status, kind, body = (
        raw.get("status", 200),
        raw.get("content_type", "text/plain"),
        raw.get("body", ""),
    )
    if not isinstance(status, int) or not 200 <= status <= 299 or not isinstance(body, str):  # noqa: PLR2004
        raise ValueError(hint)
    if not isinstance(kind, str) or not kind.isprintable():
        raise ValueError(hint)
    return FixedAnswer(status, kind, body)
