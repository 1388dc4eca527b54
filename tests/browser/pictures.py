"""Makes the pictures of the guides: `make pictures`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser

from ..journal.world import AGENT, on_sqlite
from ..status.console.conftest import Site
from .tabs import fill, tab

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"


@on_sqlite
async def test_pictures(site: Site, chromium: Browser) -> None:
    """Those of docs/console.md, docs/operating.md and docs/exploitation.md."""
    await fill(site)
    await site.world.journal.note_unavailable(AGENT, "No module named 'agents.listener'")
    site.world.clock.move(300)
    for name, path, width, language in (
        ("now", "/", 1000, "en"),
        ("now-fr", "/", 1000, "fr"),
        ("messages", "/messages?period=all", 1000, "en"),
        ("conversation", "/conversations/1", 390, "en"),
        ("conversation-fr", "/conversations/1", 390, "fr"),
        ("dead", "/dead", 390, "en"),
        ("dead-fr", "/dead", 390, "fr"),
    ):
        size: Any = {"width": width, "height": 700}
        context = await chromium.new_context(viewport=size, locale=language)
        one = await tab(site, context)
        await one.go(path)
        await one.page.screenshot(path=FOLDER / f"{name}.png", full_page=True)
        await context.close()
