"""Somebody who looks at the console, and a day like many to look at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from playwright.async_api import BrowserContext, Page

from berinia_webhookd.findings import warning
from berinia_webhookd.journal.pause import Whose
from berinia_webhookd.model import EntryState, OptOut, Outcome, OutcomeKind, Pause

from ..journal.batches import a_batch, message
from ..status.console.conftest import Site

ANNA, LUC = "+33639980071", "+33639980072"


@dataclass
class Tab:
    """Somebody's browser, which remembers what it was made to do."""

    page: Page
    site: Site
    elsewhere: list[str] = field(default_factory=list)  # requests to others
    wrong: list[str] = field(default_factory=list)  # what its console said

    @property
    def url(self) -> str:
        return self.site.console.url

    async def go(self, path: str) -> int:
        answer = await self.page.goto(self.url + path)
        assert answer is not None
        return int(answer.status)

    async def is_harmed(self) -> bool:
        return bool(await self.page.evaluate("'harmed' in window"))

    async def overflows(self) -> list[str]:
        """What sticks out of the page to the side."""
        found: list[str] = await self.page.evaluate(
            """() => {
                const most = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= most) return [];
                return [...document.querySelectorAll('body *')]
                    .filter((one) => one.getBoundingClientRect().right > most + 1)
                    .map((one) => one.outerHTML.slice(0, 200));
            }"""
        )
        return found


async def tab(site: Site, context: BrowserContext, **login: Any) -> Tab:
    """Log somebody in by the page with the button."""
    page = await context.new_page()
    opened = Tab(page, site)
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith(site.console.url) else opened.elsewhere.append(asked.url)
        ),
    )
    page.on("pageerror", lambda error: opened.wrong.append(str(error)))
    page.on(
        "console",
        lambda said: opened.wrong.append(said.text) if said.type == "error" else None,
    )
    await opened.go(f"/login?link={await site.link(**login)}")
    await page.locator("main button").click()
    await page.wait_for_url(f"{site.console.url}/")
    return opened


async def paths(one: Tab, starts: tuple[str, ...], most: int = 60) -> list[str]:
    """The pages themselves, and those of messages, conversations and groups that they lead to."""
    found = dict.fromkeys(starts)
    for start in starts:
        await one.go(start)
        links: list[str] = await one.page.eval_on_selector_all(
            "main a[href]", "all => all.map((a) => a.getAttribute('href'))"
        )
        wanted = re.compile(r"/(messages|conversations)/[^/]+|/dead/all\?.*")
        found |= dict.fromkeys(link for link in links if wanted.fullmatch(link))
    for path in list(found)[:most]:
        if path.startswith("/messages/"):
            await one.go(path)
            link = (
                await one.page.locator("a[href^='/conversations/']").first.get_attribute(
                    "href", timeout=2000
                )
                if await one.page.locator("a[href^='/conversations/']").count()
                else None
            )
            found |= {link: None} if link else {}
    return list(found)[:most]


STARTS: Final = ("/", "/messages?period=all", "/dead", "/refused", "/actions")


async def fill(site: Site) -> None:
    """A day like many: some of everything that pages show."""
    await site.world.accept("Bonjour, rappelez-moi demain", sender=ANNA)
    await site.world.accept("Combien ça coûte ?", sender=LUC)
    (first, second) = await site.world.claim()
    await site.world.settle(first, outcome=Outcome(OutcomeKind.SUCCESS, reply="Avec plaisir."))
    failed = Outcome(OutcomeKind.EXCEPTION, error="ConnectionError: the CRM refused")
    await site.world.settle(second, state=EntryState.DEAD, outcome=failed)
    await site.world.accept("Et aussi…", sender=ANNA)
    await site.world.accept("STOP", sender=LUC, opt_out=OptOut.STOP)
    async with site.around.open_journal() as journal:
        await journal.pause(Whose(ANNA), Pause("Anne", "je la rappelle", 3600))
    await site.world.journal.reject(a_batch(message(ANNA, "x")), {"detail": "From is missing"})
    site.around.log.write_text('{"event":"event.accepted","level":"info","channel":"sms"}\n')
    site.findings.append(
        warning(
            "disk",
            "/var/lib: 900 MiB free",
            "see what is large: `du -xh /var/lib | sort -h | tail`",
            why="the disk will be full before long",
        )
    )
