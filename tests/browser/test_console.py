"""The console in a real browser: nothing of a stranger's runs or asks, nothing leaves its place,
and everybody can read and use it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Browser

from berinia_webhookd.findings import wrong
from berinia_webhookd.model import EntryState, Outcome, OutcomeKind

from ..journal.batches import a_batch, message
from ..journal.world import on_sqlite
from ..status.console.conftest import VIEWER, Site
from ..status.console.hostile import TEXTS
from .tabs import ANNA, STARTS, fill, paths, tab

pytestmark = [on_sqlite, pytest.mark.timeout(900)]

WIDTHS: Final = (360, 1280)
AXE: Final = Path(AXE_FILE_PATH).read_text()


async def test_nothing_of_a_stranger_runs_asks_or_sticks_out(site: Site, chromium: Browser) -> None:
    for n, text in enumerate(TEXTS.values()):
        sender = "".join(text.split())[:200] or "x"
        await site.world.accept(text, sender=f"{n}{sender}", subject=text, message_id=text[:500])
        for entry in await site.world.claim():
            outcome = Outcome(OutcomeKind.EXCEPTION, error=text[:20_000], reply=text[:20_000])
            await site.world.settle(entry, state=EntryState.DEAD, outcome=outcome)
        rejected = a_batch(message(sender, f"{n}{text[:1000]}"))
        await site.world.journal.reject(rejected, {"detail": text[:2000]})
        site.findings.append(wrong(text[:200], text[:5000], text[:5000], why=text[:5000]))
    for person in (None, VIEWER):
        context = await chromium.new_context(viewport={"width": 360, "height": 740})
        one = await tab(site, context, **({} if person is None else {"person": person}))
        for path in await paths(one, STARTS, 60 if person is None else 10):
            assert await one.go(path) == 200, path
            for details in await one.page.locator("summary").all():
                await details.click()
            assert not await one.is_harmed(), path
            assert not await one.overflows(), path
        assert not one.elsewhere
        assert not one.wrong
        await context.close()


@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_and_use_it(
    site: Site, chromium: Browser, language: str, scheme: Any
) -> None:
    await fill(site)
    for width in WIDTHS:
        context = await chromium.new_context(
            viewport={"width": width, "height": 900},
            locale=language,
            color_scheme=scheme,
            bypass_csp=True,  # for axe alone, which is put into the page
        )
        one = await tab(site, context)
        for path in [*await paths(one, (*STARTS, "/live")), "/login", "/nothing"]:
            await one.go(path)
            assert not await one.overflows(), (path, width)
            await one.page.evaluate(AXE)
            found = await one.page.evaluate("axe.run()")
            told = [
                (each["id"], [n["html"] for n in each["nodes"]]) for each in found["violations"]
            ]
            assert not told, (path, width, language, scheme, told)
        await context.close()


async def test_it_works_without_a_script(site: Site, chromium: Browser) -> None:
    await fill(site)
    context = await chromium.new_context(java_script_enabled=False)
    one = await tab(site, context)
    await one.go("/dead")
    await one.page.get_by_role("link", name="Try all…").click()
    await one.page.get_by_role("button", name="Replay these: 1").click()
    assert "1 of 1 done." in await one.page.inner_text("main")
    await one.go("/live")
    assert "needs JavaScript" in await one.page.inner_text("main")
    await one.page.get_by_role("link", name="Français").click()
    assert "En direct" in await one.page.inner_text("main")
    await one.page.get_by_role("button", name="Se déconnecter").click()
    assert await one.go("/") == 401


async def test_a_conversation_is_taken_over_by_keyboard(site: Site, chromium: Browser) -> None:
    receipt = await site.world.accept("Bonjour", sender=ANNA)
    one = await tab(site, await chromium.new_context())
    await one.go(f"/messages/{receipt.event_id}")
    await one.page.keyboard.press("Tab")
    assert await one.page.evaluate("document.activeElement.className") == "skip"
    await one.page.keyboard.press("Enter")
    await one.page.keyboard.press("Tab")
    await one.page.keyboard.press("Enter")  # the first link of the content: the conversation
    await one.page.wait_for_url("**/conversations/*")
    await one.page.locator("input[name=reason]").focus()
    await one.page.keyboard.type("je la rappelle")
    await one.page.keyboard.press("Enter")
    await one.page.get_by_text("Paused by Anne").wait_for()
    assert await site.world.claim() == []


async def test_live_shows_lines_as_text(site: Site, chromium: Browser) -> None:
    log = site.around.log
    log.write_text("")
    one = await tab(site, await chromium.new_context())
    await one.go("/live")
    await one.page.get_by_text("Following the log.").wait_for()
    with log.open("a") as lines:
        for text in TEXTS.values():
            lines.write(f'{{"event":"sms","text":{json.dumps(text[:30_000])}}}\n')
        lines.write('{"event":"the last one"}\n')
    await one.page.get_by_text("the last one").wait_for()
    assert not await one.is_harmed()
    assert await one.page.locator("#live *:not(li)").count() == 0
    assert not await one.overflows()
    assert not one.elsewhere
    assert not one.wrong
