"""Fixtures: a running daemon, or what is needed to start one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

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
