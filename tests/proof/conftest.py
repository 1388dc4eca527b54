"""Counts what was tried and what became of it, and prints the counts behind the tests."""

from __future__ import annotations

import pytest

_COUNTS = "proof"


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
        self._properties.append((_COUNTS, f"{what}: {told}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The counts of this run."""
    lines = [
        str(line)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == _COUNTS
    ]
    if lines:
        terminalreporter.section("proof")
        for line in lines:
            terminalreporter.write_line(line)
