"""An agent in BerinIA's own form: a class with `run(input_data)`, as it stands in infra-ia/agents.

    agents.path = "/root/berinia/infra-ia"
    agents.python = "/root/berinia/infra-ia/.venv/bin/python"
    agents.ResponseListenerAgent.target = "python:berinia_run:ResponseListenerAgent"

`input_data` is what the old webhook handed over, with `event_id` and `attempt` besides.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("BerinIA-ResponseListener")

INTERESTED = ("oui", "intéress", "rappel", "rendez-vous")


class ResponseListenerAgent:
    def __init__(self, config_path: str | None = None) -> None:
        self.config_path = config_path
        self.history: dict[str, list[str]] = {}

    def run(self, input_data: dict[str, Any]) -> dict[str, Any]:
        match input_data.get("action"):
            case "process_sms_response" | "process_email_response":
                return self.classify(input_data["data"])
            case action:
                return {"status": "error", "message": f"unknown action {action}"}

    def classify(self, data: dict[str, Any]) -> dict[str, Any]:
        # A conversation prefers the host that served it last, but a host may be replaced at any
        # time: what must not be lost belongs into a database.
        self.history.setdefault(data["sender"], []).append(data["body"])
        text = data["body"].lower()
        interest = "positive" if any(word in text for word in INTERESTED) else "neutral"
        print(f"{interest}: {len(self.history[data['sender']])} messages so far")  # → agents.log
        return {"status": "success", "message": interest}
