"""What `events list` and `events show` make of what the journal found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from berinia_webhookd.journal.queries import Listed
from berinia_webhookd.journal.show import Shown
from berinia_webhookd.tools.event_view import list_lines, listed_json, show_lines, shown_json

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
THEN = NOW - timedelta(seconds=5)


def test_a_receipt_is_told_from_a_message() -> None:
    """By a word in the table, and by its kind for programs."""
    message, receipt = (
        Listed(kind, "done", "sms", "Agent", kind, "agent", THEN, 1)
        for kind in ("message", "receipt")
    )
    _, first, second = list_lines([message, receipt], NOW)
    assert "Agent  " in first
    assert "Agent (receipt)" in second
    assert listed_json(receipt)["kind"] == "receipt"


def test_a_delivery_that_was_rejected_in_part_says_what_became_of_the_rest() -> None:
    """Which items, why, and the events of the others."""
    shown = Shown(
        id="01a2",
        state="rejected",
        channel="chat",
        agent=None,
        kind=None,
        received_at=THEN,
        node="web1",
        content_type="application/json",
        body_bytes=90,
        data=None,
        skipped=None,
        rejection={"items": [{"path": "entry.0", "reason": "no text"}]},
        events=("01a3", "01a4"),
    )
    text = "\n".join(show_lines(shown, NOW))
    assert "    rejected: entry.0: no text\n    the rest of it became 01a3, 01a4" in text
    assert shown_json(shown)["events"] == ("01a3", "01a4")
