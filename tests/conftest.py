"""Fixtures that more than one part needs."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

with warnings.catch_warnings():
    # On a machine without XDG_RUNTIME_DIR the package warns when it is imported.
    warnings.simplefilter("ignore")
    from .postgresql import Postgresql

# How long an example takes says more about the machine than about us.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A running server, started when the first test asks for it."""
    server = Postgresql()
    yield server
    server.close()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Room for our ends of many connections, and for what is started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the proofs counted: what was tried, and what became of it."""
    lines = [
        str(line)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, line in report.user_properties
        if name == "proof"
    ]
    if lines:
        terminalreporter.section("proof")
        for line in lines:
            terminalreporter.write_line(line)
