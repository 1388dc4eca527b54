"""Fixtures: real agent hosts."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .agent_world import MARK, HostWorld


@pytest.fixture
async def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostWorld]:
    """Agent hosts that this test starts; afterwards none of their processes is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    world = HostWorld(tmp_path, mark)
    yield world
    await world.close()
