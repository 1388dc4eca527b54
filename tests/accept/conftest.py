"""Fixtures: a receiver, and what was logged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from pytest_aiohttp.plugin import AiohttpClient

from .world import World

Logged = list[dict[str, Any]]


@pytest.fixture
def logged() -> Iterator[Logged]:
    """Every log line, as a dictionary."""
    with structlog.testing.capture_logs() as lines:
        yield lines  # type: ignore[misc]


@pytest.fixture
async def quiet_world() -> AsyncIterator[World]:
    """A receiver that the test sets up further and starts itself; nothing may reach the event
    loop's exception handler.
    """
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    world = World()
    yield world
    await world.stop()
    assert not failures


@pytest.fixture
async def world(quiet_world: World, aiohttp_client: AiohttpClient) -> World:
    """The application behind a test client: what its middlewares and handlers do."""
    quiet_world.served_by(await aiohttp_client(quiet_world.receiver.application))
    return quiet_world


@pytest.fixture
async def served(quiet_world: World) -> World:
    """A receiver on a port of its own: what its connections do as well."""
    await quiet_world.start()
    return quiet_world
