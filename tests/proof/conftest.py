"""Counts what was tried and what became of it, and prints the counts behind the tests."""

from __future__ import annotations

import pytest

_COUNTS = pytest.StashKey[list[str]]()


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Say:
    """Notes a line for the end of the run."""
    return Say(request.config.stash.setdefault(_COUNTS, []))


class Say:
    """Called with what was counted."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def __call__(self, what: str, **counts: object) -> None:
        told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
        self._lines.append(f"{what}: {told}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The counts of this run."""
    lines = config.stash.get(_COUNTS, [])
    if lines:
        terminalreporter.section("proof")
        for line in lines:
            terminalreporter.write_line(line)
