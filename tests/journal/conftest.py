"""Fixtures: an open journal in a folder of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .world import World


@pytest.fixture
async def closed_world(tmp_path: Path) -> AsyncIterator[World]:
    """No journal yet; nothing may reach the event loop's exception handler."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    world = World(tmp_path)
    yield world
    for journal in world.journals:
        await journal.close()
    assert not failures


@pytest.fixture
async def world(closed_world: World) -> World:
    """An open journal."""
    await closed_world.open()
    return closed_world
