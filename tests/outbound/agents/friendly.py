"""Agents that do as they should."""

from __future__ import annotations

import os
import pathlib
from typing import Any


def handle(event: dict[str, Any]) -> dict[str, str]:
    return {"response": event["data"]["body"]}


def where(event: dict[str, Any]) -> dict[str, str]:
    return {"response": str(pathlib.Path.cwd())}


def write(event: dict[str, Any]) -> dict[str, str]:
    pathlib.Path(event["data"]["body"]).write_text("written")
    return {"response": str(os.getpid())}


def pid(event: dict[str, Any]) -> dict[str, str]:
    return {"response": str(os.getpid())}


class Counting:
    """Keeps a memory in its instance, and names its process."""

    def __init__(self) -> None:
        self.calls = 0

    def handle(self, event: dict[str, Any]) -> dict[str, str]:
        self.calls += 1
        return {"response": f"{os.getpid()} {self.calls}"}
