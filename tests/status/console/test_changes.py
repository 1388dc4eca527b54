"""What is done on the console is what the commands do, and no more than the page before said."""

from __future__ import annotations

import re

import pytest

from berinia_webhookd.journal import console
from berinia_webhookd.journal.actions import Actor
from berinia_webhookd.journal.console import recent_actions
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.model import EntryState, OptOut, Outcome, OutcomeKind

from ...journal.batches import a_batch, message
from .conftest import Browser, Site

ANNA = "+33639980071"


async def die(site: Site, error: str, text: str = "", *, began: bool = False) -> str:
    """Accept a message that fails for good."""
    await site.world.accept(text)
    (entry,) = await site.world.claim()
    if began:
        assert await site.world.journal.begin(entry)
    outcome = Outcome(OutcomeKind.EXCEPTION, error=error)
    await site.world.settle(entry, state=EntryState.DEAD, outcome=outcome, may_have_acted=began)
    return str(entry.event_id)


async def actions(site: Site) -> list[tuple[str, str, str]]:
    async with site.around.open_journal() as journal:
        return [(one.who, one.way, one.what) for one in await journal.read(recent_actions)]


def hidden(text: str) -> dict[str, str]:
    """The hidden fields of the one form of a page, but for its token and the way out."""
    form = text[text.index('action="/dead/all"') :]
    form = form[: form.index("</form>")]
    found = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
    return {name: value for name, value in found.items() if name != "form_token"}


async def the_page_before(browser: Browser, *, first: bool = False) -> str:
    dead = (await browser.get("/dead")).text
    (link, *others) = re.findall(r'href="(/dead/all\?[^"]+)"', dead)
    assert first or not others
    return (await browser.get(link.replace("&amp;", "&"))).text


async def test_all_of_a_kind_are_replayed_and_what_dies_meanwhile_is_not(site: Site) -> None:
    browser = await site.logged_in()
    for _ in range(3):
        await die(site, "ConnectionError: refused")
    earlier = await site.world.accept("runs since before", sender=ANNA)
    (running,) = await site.world.claim()
    page = await the_page_before(browser)
    assert "To be run again: 3." in page
    site.world.clock.move(1)
    await die(site, "ConnectionError: refused")  # meanwhile
    refused = Outcome(OutcomeKind.EXCEPTION, error="ConnectionError: refused")
    await site.world.settle(running, state=EntryState.DEAD, outcome=refused)
    answer = await browser.post("/dead/all", **hidden(page))
    assert "3 of 3 done." in answer.text
    assert await site.world.states() == {"ready": 3, "dead": 2}
    assert running.event_id == earlier.event_id
    assert await actions(site) == [("Anne", "console", "events replay")]


async def test_what_may_have_acted_is_passed_over_and_said_before(site: Site) -> None:
    browser = await site.logged_in()
    await die(site, "ConnectionError: refused")
    acted = await die(site, "ConnectionError: refused", began=True)
    await die(site, "ConnectionError: refused")
    dead = (await browser.get("/dead")).text
    assert "1 may have acted" in dead
    page = await the_page_before(browser)
    assert "To be run again: 2." in page
    assert "1 are passed over" in page
    assert "2 of 3 done." in (await browser.post("/dead/all", **hidden(page))).text
    async with site.around.open_journal() as journal:
        assert [one.id for one in await journal.list_events(Filters(state=EntryState.DEAD))] == [
            acted
        ]


async def test_one_is_tried_before_all(site: Site) -> None:
    browser = await site.logged_in()
    await die(site, "ConnectionError: refused")
    newest = await die(site, "ConnectionError: refused")
    page = (await browser.get("/dead")).text
    await browser.post("/dead/all", **hidden(page))
    async with site.around.open_journal() as journal:
        ready = await journal.list_events(Filters(state=EntryState.READY))
    assert [one.id for one in ready] == [newest]


async def test_errors_are_told_apart(site: Site) -> None:
    await die(site, "KeyError: 'a'")
    await die(site, "KeyError: 'b'")
    page = (await (await site.logged_in()).get("/dead")).text
    assert page.count("Try all…") == 2


async def test_a_group_is_of_whatever_says_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many died, and however different the rest of their errors is."""
    monkeypatch.setattr(console, "DEAD_AT_ONCE", 2)
    for line in range(3):
        await die(site, f"Traceback (most recent call last):\n  line {line}\nKeyError: 'a'")
    await die(site, "KeyError: 'b'")
    browser = await site.logged_in()
    page = (await browser.get("/dead")).text
    assert "messages: 3" in page
    assert page.count("Try all…") == 2
    assert "To be run again: 3." in await the_page_before(browser, first=True)
    monkeypatch.setattr(console, "MOST_ERRORS", 1)
    assert "others are left out" in (await browser.get("/dead")).text


async def test_once_again_is_a_button_of_its_own(site: Site) -> None:
    browser = await site.logged_in()
    id_ = await die(site, "TimeoutError", began=True)
    page = (await browser.get(f"/messages/{id_}")).text
    assert "Its agent may have acted already." in page
    assert f"events replay {id_} --once-again" in page
    refused = await browser.post(f"/messages/{id_}/replay")
    assert "0 of 1 done." in refused.text
    assert await site.world.states() == {"dead": 1}
    assert (await browser.post(f"/messages/{id_}/replay", once_again="yes")).status == 303
    assert await site.world.states() == {"ready": 1}


async def test_a_message_is_discarded(site: Site) -> None:
    browser = await site.logged_in()
    receipt = await site.world.accept("not wanted")
    assert (await browser.post(f"/messages/{receipt.event_id}/discard")).status == 303
    assert await site.world.states() == {"discarded": 1}


async def conversation_of(site: Site, browser: Browser, event_id: str) -> str:
    page = (await browser.get(f"/messages/{event_id}")).text
    found = re.search(r'href="(/conversations/\d+)"', page)
    assert found is not None
    return found[1]


async def test_a_conversation_is_taken_over_and_given_back(site: Site) -> None:
    browser = await site.logged_in()
    receipt = await site.world.accept("one", sender=ANNA)
    page = await conversation_of(site, browser, receipt.event_id)
    assert (await browser.post(f"{page}/pause", hours="12", reason="I call her")).location == page
    assert await site.world.claim() == []
    shown = (await browser.get(page)).text
    assert "Paused by Anne" in shown
    assert "I call her" in shown
    await site.world.accept("STOP", sender=ANNA, opt_out=OptOut.STOP)
    assert await site.world.claim_bodies() == ["STOP"]  # passes every pause
    assert (await browser.post(f"{page}/pause", hours="13", reason="")).status == 400
    assert (await browser.post(f"{page}/resume")).location == page
    assert await actions(site) == [
        ("Anne", "console", "conversations resume"),
        ("Anne", "console", "conversations pause"),
    ]


async def test_a_person_is_erased_once_the_address_is_typed(site: Site) -> None:
    browser = await site.logged_in()
    receipt = await site.world.accept("my secret", sender=ANNA)
    page = await conversation_of(site, browser, receipt.event_id)
    refused = await browser.post(f"{page}/erase", sender="+33639980072")
    assert refused.status == 400
    assert "my secret" in (await browser.get(page)).text
    done = await browser.post(f"{page}/erase", sender="06 39 98 00 71".replace("06", "+33 6", 1))
    assert done.status == 200, done.text
    assert "my secret" not in (await browser.get(page)).text
    assert (await browser.post(f"{page}/erase", sender=ANNA)).status == 409


async def test_a_rejected_delivery_is_read_again(site: Site) -> None:
    browser = await site.logged_in()
    batch = a_batch(message(ANNA, "one"))
    await site.world.journal.reject(batch, {"detail": "fields are missing"})
    page = (await browser.get("/refused")).text
    (target,) = re.findall(r'action="(/refused/[^"]+)"', page)
    answer = await browser.post(target)
    assert answer.status == 200
    assert "0 of 1 done." in answer.text  # its channel is not configured here
    assert "is not enabled" in answer.text


async def test_what_a_command_did_stands_beside_it(site: Site) -> None:
    id_ = await die(site, "KeyError")
    async with site.around.open_journal() as journal:
        await journal.by(Actor("root")).discard([id_])
    for target in ("/actions", f"/messages/{id_}"):
        page = (await (await site.logged_in()).get(target)).text
        assert "root" in page
        assert "by command" in page
        assert "events discard" in page
