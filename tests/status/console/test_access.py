"""Who gets in, and what changes nothing: forged forms, other sites, other names, old links."""

from __future__ import annotations

import asyncio
import html
import re
from typing import Any

import pytest
import structlog

from berinia_webhookd.journal import sessions
from berinia_webhookd.model import EntryState

from ...journal.world import on_sqlite
from .conftest import FORM, NAME, OPERATOR, VIEWER, Browser, Site

PAGES = ("/", "/messages", "/dead", "/refused", "/live", "/live/lines", "/actions")


async def a_dead_message(site: Site) -> str:
    await site.world.accept("late")
    (entry,) = await site.world.claim()
    await site.world.settle(entry, state=EntryState.DEAD)
    return str(entry.event_id)


async def is_dead(site: Site) -> bool:
    return await site.world.states() == {"dead": 1}


@on_sqlite
@pytest.mark.parametrize("page", PAGES)
async def test_without_a_login_nothing_is_seen(site: Site, page: str) -> None:
    answer = await site.browser().get(page)
    assert answer.status == 401
    assert "berinia-webhookd console login" in answer.text


async def test_a_link_logs_in_once(site: Site) -> None:
    link = await site.link()
    asked = await site.browser().get(f"/login?link={link}")
    assert (asked.status, asked.cookies) == (200, {})  # looking at it uses nothing up
    first = await site.browser().ask("POST", "/login", {"link": link})
    assert (first.status, first.location) == (303, "/")
    second = await site.browser().ask("POST", "/login", {"link": link})
    assert (second.status, second.cookies) == (403, {})


async def test_a_login_that_is_refused_is_logged_with_the_reason(site: Site) -> None:
    """Never with the link."""
    with structlog.testing.capture_logs() as logged:
        await site.browser().ask("POST", "/login", {"link": "guessed"})
    (said,) = [line for line in logged if line["event"] == "console.login_refused"]
    assert "older than five minutes" in said["reason"]
    assert "guessed" not in str(said)


async def test_a_link_is_good_for_five_minutes(site: Site) -> None:
    link = await site.link()
    site.world.clock.move(301)
    assert (await site.browser().ask("POST", "/login", {"link": link})).status == 403


async def test_a_login_lasts_for_twelve_hours(site: Site) -> None:
    browser = await site.logged_in()
    site.world.clock.move(12 * 3600 - 1)
    assert (await browser.get("/")).status == 200
    site.world.clock.move(2)
    assert (await browser.get("/")).status == 401


async def test_who_logs_out_is_out(site: Site) -> None:
    browser = await site.logged_in()
    assert (await browser.post("/logout")).status == 303
    assert (await browser.get("/")).status == 401


async def test_the_journal_holds_no_secret(site: Site) -> None:
    browser = await site.logged_in()
    (secret,) = browser.cookies.values()
    async with site.around.open_journal() as journal:
        assert await journal.read(sessions.person_of, secret) == OPERATOR
        assert await journal.read(sessions.person_of, secret[:-1]) is None


async def test_the_cookie_is_for_the_console_alone(site: Site) -> None:
    answer = await site.browser().ask("POST", "/login", {"link": await site.link()})
    said = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(said.split("; "))


FORGED: dict[str, dict[str, Any]] = {
    "no token": {"token": ""},
    "another login's token": {"token": "other"},
    "another site": {"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example.com"},
    "a neighbour": {"Sec_Fetch_Site": "same-site", "Origin": "http://other.example.com"},
    "another port": {"Sec_Fetch_Site": "same-site", "Origin": f"http://{NAME}:1"},
    "no origin": {"Sec_Fetch_Site": None, "Origin": None},
    "an opaque origin": {"Sec_Fetch_Site": None, "Origin": "null"},
    "typed by hand": {"Sec_Fetch_Site": "none", "Origin": None},
    "another host": {"Host": "127.0.0.1:8002"},
    "another name": {"Host": f"{NAME}.evil.example.com"},
    "no login": {"Cookie": "berinia_console=x"},
    "JSON": {"Content_Type": "application/json"},
    "a form of parts": {"Content_Type": "multipart/form-data; boundary=x"},
}


@on_sqlite
@pytest.mark.parametrize("how", FORGED)
async def test_a_forged_change_changes_nothing(site: Site, how: str) -> None:
    browser, id_ = await site.logged_in(), await a_dead_message(site)
    headers: dict[str, str | None] = {"Content_Type": FORM, **FORGED[how]}
    token = headers.pop("token", None)
    if token is None:
        token = (await browser.get("/")).form_token
    elif token == "other":
        token = (await (await site.logged_in()).get("/")).form_token
    answer = await browser.ask("POST", f"/messages/{id_}/replay", {"form_token": token}, **headers)
    assert answer.status in {400, 401, 403, 415, 421}, answer.text
    assert await is_dead(site)


async def test_an_honest_change_is_made(site: Site) -> None:
    browser, id_ = await site.logged_in(), await a_dead_message(site)
    assert (await browser.post(f"/messages/{id_}/replay")).status == 303
    assert await site.world.states() == {"ready": 1}


@on_sqlite
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_no_other_method_changes_anything(site: Site, method: str) -> None:
    browser, id_ = await site.logged_in(), await a_dead_message(site)
    token = (await browser.get("/")).form_token
    answer = await browser.ask(
        method, f"/messages/{id_}/replay?form_token={token}", Content_Type=FORM
    )
    assert answer.status == 405
    assert await is_dead(site)


async def test_a_viewer_changes_nothing(site: Site) -> None:
    browser, id_ = await site.logged_in(VIEWER), await a_dead_message(site)
    page = await browser.get(f"/messages/{id_}")
    assert page.status == 200
    assert f"/messages/{id_}/replay" not in page.text
    assert (await browser.post(f"/messages/{id_}/replay")).status == 403
    assert await is_dead(site)


async def test_who_guesses_links_waits(site: Site) -> None:
    browser: Browser = site.browser()
    for _ in range(10):
        assert (await browser.ask("POST", "/login", {"link": "guessed"})).status == 403
    assert (await browser.ask("POST", "/login", {"link": "guessed"})).status == 429
    right = await browser.ask("POST", "/login", {"link": await site.link()})
    assert right.status == 303  # nobody is kept out by somebody else's guesses


@on_sqlite
@pytest.mark.parametrize("page", [*PAGES[:5], PAGES[6], "/static/console.css", "/nothing"])
async def test_every_page_tells_the_browser_what_it_may_do(site: Site, page: str) -> None:
    answer = await (await site.logged_in()).get(page)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_language_leads_nowhere_else(site: Site) -> None:
    for back in (
        *("//evil.example.com", "https://evil.example.com", "/\\evil.example.com"),
        *("/%09/evil.example.com", "/%0d%0aX:1", "/%00", "/%2f/evil.example.com", "/a?b"),
    ):
        answer = await site.browser().get(f"/language?to=fr&back={back}")
        assert (answer.status, answer.location) == (303, "/")
        assert answer.headers["Server"] == "berinia-webhookd"


async def test_another_language_keeps_the_link_to_log_in(site: Site) -> None:
    browser, link = site.browser(), await site.link()
    text = (await browser.get(f"/login?link={link}")).text
    (target,) = re.findall(r'href="(/language[^"]*)"', text)
    answer = await browser.get(html.unescape(target))
    assert answer.location == f"/login?link={link}"
    odd = await browser.get("/language?to=fr&back=/login&link=a%0d%0ab%2f%26")
    assert odd.location == "/login?link=a%0D%0Ab%2F%26"


@on_sqlite
async def test_a_page_that_leads_on_is_protected_as_well(site: Site) -> None:
    browser, id_ = await site.logged_in(), await a_dead_message(site)
    answer = await browser.post(f"/messages/{id_}/replay")
    assert answer.status == 303
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


@on_sqlite
async def test_a_viewer_asks_for_nobody(site: Site) -> None:
    """Neither a number nor words are told by whether something is found."""
    await site.world.accept("PAPILLON-77", sender="+33639980071")
    browser = await site.logged_in(VIEWER)
    for typed in ("%2B33639980071", "PAPILLON-77", "PAPILLON-78", "39980071"):
        answer = await browser.get(f"/messages?q={typed}&period=all")
        assert answer.status == 403, typed


@on_sqlite
async def test_silent_connections_keep_nobody_out(site: Site) -> None:
    """A few are let in, and the daemon's descriptors are its own."""
    callers = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(200)]
    async with asyncio.timeout(60):
        for reader, _ in callers[64:]:
            assert b" 503 " in await reader.read()
    assert site.server.http.open_connections == 64
    for _, writer in callers:
        writer.close()
