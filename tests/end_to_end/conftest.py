"""Fixtures: a running daemon, or what is needed to start one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ..postgresql import Postgresql
from .daemon import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A running daemon with a recording agent."""
    with closing(Daemon(tmp_path)) as daemon:
        yield daemon.start()


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that the test starts itself."""
    with closing(Daemon(tmp_path)) as daemon:
        yield daemon


@pytest.fixture(params=["sqlite", "postgresql"])
def journal(request: pytest.FixtureRequest) -> str:
    """The settings of an empty journal, by engine; what a killed daemon ran is free soon, and
    persons can be erased.
    """
    if request.param == "sqlite":
        return ""
    server: Postgresql = request.getfixturevalue("postgresql")
    url = server.url(asyncio.run(server.new_database()))
    return f'journal.url = "{url}"\njournal.lease_seconds = 2\nconsents.key = "{"k" * 32}"'
