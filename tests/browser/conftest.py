"""Fixtures: Debian's chromium, and the console that it looks at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest
from playwright.async_api import Browser, async_playwright

from ..journal.conftest import closed_world, world
from ..status.console.conftest import site

__all__ = ["closed_world", "site", "world"]

PROGRAM: Final = "/usr/bin/chromium"


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """A browser that has seen nothing yet."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM)
        yield browser
        await browser.close()
