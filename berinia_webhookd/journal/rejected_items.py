"""The items of an accepted delivery that could not be decoded. They are in its body; when the body
is blanked for an erased person, each item's own JSON is stored instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from berinia_webhookd import json_text
from berinia_webhookd.journal.event_text import to_text
from berinia_webhookd.model import RejectedItem

Item = Mapping[str, Any]  # path, reason, and optionally item: its own JSON
ITEM: Final = "item"


def items_of(rejection: str, body: bytes | None) -> list[Item]:
    """Return the rejected items as stored, each with its own JSON if known."""
    items: list[Item] = json_text.decode(rejection).get("items", [])
    return with_json(items, body) if items and body is not None else items


def with_json(items: Iterable[Item], body: bytes) -> list[Item]:
    """Return the items, each with the JSON at its path, if any."""
    try:
        whole = json_text.decode(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return [*items]
    found = ((item, _at(whole, item["path"])) for item in items)
    return [item if value is None else {**item, ITEM: value[0]} for item, value in found]


def rejection_text(items: Sequence[Item]) -> str | None:
    """Return rejected items as stored text; None for no items."""
    return to_text({"items": [*items]}) if items else None


def as_items(rejected: Iterable[RejectedItem]) -> list[Item]:
    """Return the rejected items of decoding in stored form."""
    return [{"path": item.path, "reason": item.reason} for item in rejected]


def body_of(items: Iterable[Item]) -> bytes:
    """Return a body with only these items, each at its path; list indexes are closed up."""
    tree: dict[str, Any] = {}
    for item in items:
        *above, last = _steps(item["path"]) or [""]
        node = tree
        for step in above:
            node = node.setdefault(step, {})
        node[last] = (item[ITEM],)
    return to_text(_closed(tree.get("", tree))).encode()


def why_rejected(rejection: Mapping[str, Any]) -> str:
    """Return the reason why a delivery, or some of its items, could not be decoded."""
    if items := rejection.get("items"):
        return "; ".join(f"{item['path']}: {item['reason']}" for item in items)
    detail = rejection.get("detail", rejection.get("kind", ""))
    named = [
        f"{kind}: {', '.join(map(str, names))}"
        for kind in ("missing", "invalid")
        if (names := rejection.get(kind))
    ]
    return f"{detail} ({'; '.join(named)})" if named else str(detail)


def _closed(node: Any) -> Any:
    if isinstance(node, tuple):
        return node[0]
    if all(map(str.isdigit, node)):
        return [_closed(node[step]) for step in sorted(node, key=int)]
    return {step: _closed(value) for step, value in node.items()}


def _steps(path: str) -> list[str]:
    return [step for step in path.split(".") if step]


def _at(value: Any, path: str) -> tuple[Any] | None:
    try:
        for step in _steps(path):
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (LookupError, ValueError, TypeError):
        return None
    return (value,)
