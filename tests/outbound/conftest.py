"""Fixtures: real agent hosts."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ..ports import refusing_port
from .agent_world import MARK, HostWorld


@pytest.fixture
async def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostWorld]:
    """Agent hosts that this test starts; afterwards none of their processes is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    world = HostWorld(tmp_path, mark)
    yield world
    await world.close()


@pytest.fixture
def nobodys_port() -> Iterator[int]:
    """A port that refuses connections as long as the test runs."""
    with refusing_port() as port:
        yield port
