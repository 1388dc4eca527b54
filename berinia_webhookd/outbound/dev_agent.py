"""The agent of `serve --dev`: prints what it gets and answers. Stand-alone, and yours to edit:
`berinia-webhookd reload` makes the daemon load it again.
"""

from __future__ import annotations

from typing import Any


class DevAgent:
    """An agent is a class with `handle`; it is made once per agent host and kept."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def handle(self, event: dict[str, Any]) -> dict[str, str]:
        """Take one event, a CloudEvents envelope; `response` goes back into a WhatsApp chat."""
        data = event["data"]
        conversation = data["conversation"]
        self.seen[conversation] = self.seen.get(conversation, 0) + 1
        print(f"{data['channel']} from {data['sender']}: {data['body']!r}")  # noqa: T201
        if data["opt_out"] == "STOP":
            return {"status": "success", "response": "You will hear no more from us."}
        count = self.seen[conversation]
        return {
            "status": "success",
            "response": f"I read {data['body']!r} (your message no. {count})",
        }
