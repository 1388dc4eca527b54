"""Fixtures: an open journal on each engine, or on the one a behaviour belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .world import PostgresqlWorld, SqliteWorld, World


@pytest.fixture(params=["sqlite", "postgresql"])
async def closed_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """No journal yet; nothing may reach the event loop's exception handler."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    world: World = SqliteWorld(tmp_path)
    if request.param == "postgresql":
        world = await PostgresqlWorld.borrow(request.getfixturevalue("postgresql"))
    yield world
    for journal in world.journals:
        await journal.close()
    if isinstance(world, PostgresqlWorld):
        await world.give_back()
    assert not failures


@pytest.fixture
async def world(closed_world: World) -> World:
    """An open journal."""
    await closed_world.open()
    return closed_world
