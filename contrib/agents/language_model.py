"""An agent that asks a language model: it says what an answer cost, comes again when the model is
busy, and hands over to a person where somebody asks for one.

    agents.path = "/opt/agents"
    agents.MetaAgent.target = "python:language_model:handle"
    agents.MetaAgent.daily_cost = 5.0
    agents.environment = ["MODEL_URL"]

`cost` is in whatever unit `daily_cost` counts, here euros; when it is spent, messages wait for the
next day. After "handoff" nothing of the conversation comes here until somebody has answered and
says `berinia-webhookd conversations resume --sender …`, or the time is over; STOP comes anyway.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from typing import Any

from fence import fence

EUROS_PER_TOKEN = 0.000_02
BUSY = 429
A_PERSON = re.compile(r"\b(conseiller|humain|quelqu'un|vraie personne)\b", re.IGNORECASE)


def handle(event: dict[str, Any]) -> dict[str, Any] | None:
    data = event["data"]
    if data["opt_out"] or data["auto_submitted"]:
        return None  # nobody waits for an answer
    if A_PERSON.search(data["body"]):
        return {
            "status": "handoff",
            "for_seconds": 12 * 3600,
            "reason": "asks for a person",
            "response": "Je vous passe un conseiller, il vous répond dès que possible.",
        }
    try:
        fenced = fence(data["body"], data["signs"])
        answer = ask(f"Réponds en deux phrases à ce message.\n{fenced}")
    except urllib.error.HTTPError as error:
        if error.code != BUSY:
            raise  # tried again on the agent's schedule, unless it runs at most once
        pause = float(error.headers.get("Retry-After", 30))
        return {"status": "retry", "after_seconds": pause, "error": "the model is busy"}
    return {"response": answer["text"], "cost": answer["tokens"] * EUROS_PER_TOKEN}


def ask(prompt: str) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - the operator's own address
        os.environ["MODEL_URL"],
        json.dumps({"prompt": prompt}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
    return answer
