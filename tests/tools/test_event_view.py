"""What `events list` and `events show` make of what the journal found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from berinia_webhookd.journal.show import Shown
from berinia_webhookd.tools.event_view import show_lines, shown_json

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
THEN = NOW - timedelta(seconds=5)


def a_delivery(**changes: Any) -> Shown:
    """A delivery that was rejected, with changes."""
    found: dict[str, Any] = {
        "id": "01a2",
        "state": "rejected",
        "channel": "chat",
        "agent": None,
        "kind": None,
        "received_at": THEN,
        "node": "web1",
        "content_type": "application/json",
        "body_bytes": 90,
        "data": None,
        "skipped": None,
        "rejection": {},
    }
    return Shown(**{**found, **changes})


def test_a_delivery_that_was_rejected_in_part_says_what_became_of_the_rest() -> None:
    """Which items, why, and the events of the others."""
    items = [{"path": "entry.0", "reason": "no text"}]
    shown = a_delivery(rejection={"items": items}, events=("01a3", "01a4"))
    text = "\n".join(show_lines(shown, NOW))
    assert "    rejected: entry.0: no text\n    the rest of it became 01a3, 01a4" in text
    assert shown_json(shown)["events"] == ("01a3", "01a4")


def test_a_field_that_was_ill_formed_is_shown_with_what_it_held() -> None:
    """So that the operator sees what the provider sent."""
    rejection = {"detail": "Fields are missing or ill-formed.", "invalid": ["From"]}
    text = "\n".join(
        show_lines(a_delivery(rejection={**rejection, "values": {"From": "a\x00b"}}), NOW)
    )
    assert "rejected: Fields are missing or ill-formed. (invalid: From)" in text
    assert "From was: a\\x00b" in text


def test_attachments_are_a_table_and_lines_are_lines() -> None:
    """Names are nobody's to steer a terminal with."""
    files = [
        {"file_name": "plan\x1b.pdf", "content_type": "a/b", "size_bytes": 12, "sha256": "0a" * 32}
    ]
    data = {"body": "one\r\ntwo", "attachments": files}
    lines = list(show_lines(a_delivery(state="done", data=data, rejection=None), NOW))
    at = lines.index("body:")
    assert lines[at + 1 : at + 3] == ["    one", "    two"]
    assert (
        lines[lines.index("attachments:") + 2]
        == "    plan\\x1b.pdf  a/b   12     0a0a0a0a0a0a0a0a…"
    )
