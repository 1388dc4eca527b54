"""The simplest agent: a function. Notes each answer of a lead once, and who wants no more messages.

    agents.path = "/opt/agents"
    agents.ResponseListenerAgent.target = "python:handle_function:handle"
    agents.ResponseListenerAgent.gather_seconds = 8

Delivery is at least once: after a crash the same event comes again, with the same `id`. So what
must not happen twice is remembered by that id, in the same transaction as the work. With
`gather_seconds` five messages of one person come in one call, and each has its id.
"""

from __future__ import annotations

import sqlite3
from typing import Any

DATABASE = "answers.db"  # in agents.path, which is the working folder
SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, sender TEXT, body TEXT, at TEXT);
CREATE TABLE IF NOT EXISTS do_not_contact (sender TEXT PRIMARY KEY);
"""


def handle(event: dict[str, Any]) -> dict[str, Any] | None:
    """Takes a CloudEvent. Returning is success, raising is a failure that is tried again."""
    data = event["data"]
    if data["auto_submitted"]:
        return None  # an out-of-office reply or a bounce is nobody's answer
    database = sqlite3.connect(DATABASE)
    try:
        with database:
            database.executescript(SCHEMA)
            if data["opt_out"] == "STOP":
                database.execute(
                    "INSERT OR IGNORE INTO do_not_contact VALUES (?)", (data["sender"],)
                )
                return {"status": "success", "message": "no more messages"}
            database.executemany(
                "INSERT OR IGNORE INTO answers VALUES (:id, :sender, :body, :received_at)",
                data["messages"],
            )
    finally:
        database.close()
    return {"status": "success", "message": "noted"}
