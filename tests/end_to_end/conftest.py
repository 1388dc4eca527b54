"""Fixtures: a running daemon, or what is needed to start one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A running daemon with a recording agent."""
    daemon = Daemon(tmp_path)
    daemon.start()
    yield daemon
    daemon.close()


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that the test starts itself."""
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.close()
