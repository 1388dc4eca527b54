"""A Python agent that does nothing, so that only the dispatching is measured."""

from typing import Any


def handle(event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - an agent's shape
    return {"status": "success"}


def answer(event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 - an agent's shape
    """One that replies."""
    return {"status": "success", "response": "Bien reçu"}
