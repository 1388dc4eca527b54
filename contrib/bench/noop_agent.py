"""A Python agent that does nothing, so that only the dispatching is measured."""

from typing import Any


def handle(event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - an agent's shape
    return {"status": "success"}
