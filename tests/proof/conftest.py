"""Counts what was tried and what became of it, and prints the counts behind the tests."""

from __future__ import annotations

import pytest

# Printed behind the tests by `tests/conftest.py`.
COUNTS = "proof"


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    """Notes a line for the end of the run."""
    return Say(request.node.user_properties)


class Say:
    """Called with what was counted; a test's properties find their way out of any process."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def __call__(self, what: str, **counts: object) -> None:
        told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
        self._properties.append((COUNTS, f"{what}: {told}"))
