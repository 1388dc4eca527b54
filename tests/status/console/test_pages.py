"""What each page shows, and how a message is found."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import tracemalloc
from contextlib import closing
from dataclasses import replace
from html import unescape
from urllib.parse import quote

import pytest
from aiohttp import ClientResponse

from berinia_webhookd.channels.addresses_of_people import event_digest
from berinia_webhookd.findings import warning, wrong
from berinia_webhookd.journal import search
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.sessions import Person
from berinia_webhookd.model import ChannelName, EntryState, Outcome, OutcomeKind
from berinia_webhookd.status.console import live, pages
from berinia_webhookd.status.console.search_field import meaning

from ...journal.world import AGENT, PostgresqlWorld, SqliteWorld, on_postgresql, on_sqlite
from .conftest import OPERATOR, VIEWER, Browser, Site

ANNA = "+33639980071"
SID = "SM" + "a" * 32


async def test_all_is_well_until_it_is_not(site: Site) -> None:
    browser = await site.logged_in()
    assert "All is well." in (await browser.get("/")).text
    site.findings.append(warning("disk", "fills up", "make room"))
    assert "Something will hurt later." in (await browser.get("/")).text
    site.findings.append(wrong("journal", "is damaged", "restore it", why="nothing is kept"))
    shown = (await browser.get("/")).text
    assert "Something needs you: 1" in shown
    assert shown.index("is damaged") < shown.index("fills up")  # the worst first
    assert "restore it" in shown


async def test_now_shows_channels_and_agents(site: Site) -> None:
    for _ in range(3):
        await site.world.accept()
    (entry, *_) = await site.world.claim(1)
    await site.world.settle(
        entry,
        state=EntryState.DEAD,
        outcome=Outcome(
            OutcomeKind.EXCEPTION, error="Traceback (most recent call last):\n  x\nKeyError: 'a'"
        ),
    )
    await site.world.journal.note_unavailable(AGENT, "No module named 'agents'")
    shown = (await (await site.logged_in()).get("/")).text
    assert "messages in the last 24 hours: 3" in shown
    assert shown.count('class="bar ') >= 24
    assert "Not loaded" in shown
    assert "No module named &#39;agents&#39;" in shown
    assert "KeyError: &#39;a&#39;" in shown


async def test_french_is_spoken(site: Site) -> None:
    browser = await site.logged_in(Accept_Language="fr-FR")
    shown = (await browser.get("/")).text
    assert '<html lang="fr">' in shown
    assert "Tout va bien." in shown
    site.findings.append(wrong("journal", "/j.db is damaged: Page 2", "KeyError: 'x'"))
    found = (await browser.get("/")).text
    assert '<p class="text">/j.db est abîmé : Page 2</p>' in found
    assert '<span lang="en">KeyError: &#39;x&#39;</span>' in found  # which nobody translates
    receipt = await site.world.accept("Bonjour")
    (entry,) = await site.world.claim()
    late = Outcome(OutcomeKind.TIMEOUT, error="no answer within 60 s")
    await site.world.settle(entry, state=EntryState.DEAD, outcome=late)
    message = (await browser.get(f"/messages/{receipt.event_id}")).text
    assert "délai dépassé" in message
    assert "pas de réponse en 60 s" in message
    site.findings.clear()
    browser.cookies |= (await browser.get("/language?to=en&back=/dead")).cookies
    assert "All is well." in (await browser.get("/")).text


def ids_on(text: str) -> list[str]:
    return re.findall(r'class="id" href="/messages/([0-9a-f-]{36})"', text)


async def test_older_messages_follow_without_gap_or_double(site: Site) -> None:
    browser = await site.logged_in()
    accepted = [(await site.world.accept()).event_id for _ in range(120)]
    found: list[str] = []
    target: str | None = "/messages"
    while target is not None:
        shown = (await browser.get(target)).text
        found += ids_on(shown)
        older = re.search(r'rel="next" href="([^"]+)"', shown)
        target = older[1].replace("&amp;", "&") if older else None
    assert found == accepted[::-1]


SEARCHES = {
    "+33 6 39 98 00 71": ANNA,
    "33639980071@c.us": ANNA,
    "whatsapp:+33639980071": ANNA,
    "Anna@Example.com": "anna@example.com",
    "Anna <anna@example.com>": "anna@example.com",
}


@pytest.mark.parametrize("typed", SEARCHES)
async def test_a_person_is_found_in_any_spelling(site: Site, typed: str) -> None:
    await site.world.accept("from somebody else")
    receipt = await site.world.accept("from her", sender=SEARCHES[typed])
    answer = await site_search(await site.logged_in(), typed)
    assert ids_on(answer) == [receipt.event_id]


@on_sqlite
@pytest.mark.parametrize("typed", ["06 39 98 00 71", "0639980071", "6 39 98 00 71"])
async def test_a_number_without_a_country_is_one_of_the_channel_s(site: Site, typed: str) -> None:
    receipt = await site.world.accept("from her", sender=ANNA)
    assert receipt.event_id not in await site_search(await site.logged_in(), typed)
    settings = site.settings.channels[ChannelName("sms")]
    french = {ChannelName("sms"): replace(settings, country="FR")}
    site.around.channels.reconfigure(replace(site.settings, channels=french))
    assert ids_on(await site_search(await site.logged_in(), typed)) == [receipt.event_id]


@on_sqlite
async def test_digits_that_are_nobody_s_number_are_words(site: Site) -> None:
    receipt = await site.world.accept("my order is 100234567")
    assert ids_on(await site_search(await site.logged_in(), "100234567")) == [receipt.event_id]


async def site_search(browser: Browser, typed: str) -> str:
    return (await browser.get(f"/messages?q={quote(typed)}&period=all")).text


async def test_a_provider_s_id_is_found_at_once(site: Site) -> None:
    receipt = await site.world.accept(
        "by its id", message_id=SID, digest=event_digest(ChannelName("sms"), SID)
    )
    answer = await (await site.logged_in()).get(f"/messages?q={SID}")
    assert (answer.status, answer.location) == (303, f"/messages/{receipt.event_id}")


async def test_an_event_is_found_by_the_beginning_of_its_id(site: Site) -> None:
    receipt = await site.world.accept()
    answer = await (await site.logged_in()).get(f"/messages?q={receipt.event_id[:18]}")
    assert answer.location == f"/messages/{receipt.event_id}"


async def test_words_are_found_within_the_period(site: Site) -> None:
    receipt = await site.world.accept("Bonjour, rappelez-moi demain")
    await site.world.accept("nothing of that kind")
    browser = await site.logged_in()
    assert ids_on(await site_search(browser, "demain rappelez-moi")) == [receipt.event_id]
    assert "No such messages." in await site_search(browser, "hier")


async def test_a_long_search_says_how_far_it_came_and_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(search, "PAGE", 2)
    receipt = await site.world.accept("rare")
    for _ in range(3):
        await site.world.accept("common")
    browser, target, found = await site.logged_in(), "/messages?q=rare&period=all", list[str]()
    shown = (await browser.get(target)).text
    assert "Searched as far back as" in shown
    assert "No such messages." not in shown
    while target and not found:
        shown = (await browser.get(target)).text
        found = ids_on(shown)
        older = re.search(r'rel="next" href="([^"]+)"', shown)
        target = older[1].replace("&amp;", "&") if older else ""
    assert found == [receipt.event_id]


@on_sqlite
@pytest.mark.parametrize("before", ["", "0", "-1", "9" * 18, "9" * 400, "%00", "1%20OR%201"])
async def test_whatever_is_written_into_a_link_makes_a_page(site: Site, before: str) -> None:
    """A state that is none, and numbers that no page has named."""
    await site.world.accept("rare")
    browser = await site.logged_in()
    for more in ("", "&state=rejected", "&state=%00", "&channel=%00", "&agent='", "&q=rare"):
        assert (await browser.get(f"/messages?before={before}{more}")).status == 200


@on_sqlite
async def test_an_hour_that_is_over_is_counted_once(site: Site) -> None:
    browser = await site.logged_in()
    await site.world.accept()
    assert "messages in the last 24 hours: 1" in (await browser.get("/")).text
    site.world.clock.move(2 * 3600)
    assert "messages in the last 24 hours: 1" in (await browser.get("/")).text
    await site.world.accept(received_at=site.world.clock.now)
    assert "messages in the last 24 hours: 2" in (await browser.get("/")).text
    site.world.clock.move(23 * 3600)
    browser = await site.logged_in()  # which lasts for half a day
    assert "messages in the last 24 hours: 1" in (await browser.get("/")).text


@on_sqlite
async def test_an_address_that_is_no_sender_s_is_looked_for_as_words(site: Site) -> None:
    receipt = await site.world.accept("write to boss@example.com")
    async with site.around.open_journal() as journal:
        meant = await meaning("boss@example.com", Filters(), journal, ())
        assert meant.filters.sender is None
    found = await site_search(await site.logged_in(), "boss@example.com")
    assert ids_on(found) == [receipt.event_id]


@on_sqlite
async def test_a_message_shows_its_way(site: Site) -> None:
    receipt = await site.world.accept("Bonjour")
    (entry,) = await site.world.claim()
    outcome = Outcome(OutcomeKind.TIMEOUT, error="no answer within 60 s")
    await site.world.settle(entry, state=EntryState.DEAD, outcome=outcome)
    shown = (await (await site.logged_in()).get(f"/messages/{receipt.event_id}")).text
    for part in ("received by here", "timeout", "no answer within 60 s", "dead", "events replay"):
        assert part in shown


async def test_a_message_shows_what_its_agent_got(site: Site) -> None:
    receipt = await site.world.accept("Bonjour")
    browser = await site.logged_in()
    will = (await browser.get(f"/messages/{receipt.event_id}")).text
    assert "What the agent will get" in will
    (entry,) = await site.world.claim()
    await site.world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS))
    shown = (await browser.get(f"/messages/{receipt.event_id}")).text
    how, given = site.around.given(entry)
    assert f"What the agent got (as {how})" in shown
    text = shown.partition(f"(as {how})")[2].partition('<pre class="text">')[2].partition("<")[0]
    assert json.loads(unescape(text)) == given


CONNECTIONS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'berinia-webhookd'"


@on_postgresql
async def test_pages_share_connections_and_get_over_lost_ones(site: Site) -> None:
    assert isinstance(site.world, PostgresqlWorld)
    world = site.world

    async def connections() -> set[int]:
        return {pid for (pid,) in await world.execute(CONNECTIONS)}

    before = await connections()
    browser = await site.logged_in()
    ours = await connections() - before
    assert ours
    for target in ("/", "/messages", "/dead"):
        assert (await browser.get(target)).status == 200
    assert await connections() - before == ours
    for pid in ours:
        await world.execute("SELECT pg_terminate_backend($1)", pid)
    async with asyncio.timeout(60):
        while (await browser.get("/messages")).status != 200:
            pass
    await site.server.stop()
    async with asyncio.timeout(60):
        while await connections() - before:
            pass


@on_sqlite
async def test_no_page_takes_the_writer_s_turn(site: Site) -> None:
    """Whatever is looked at while somebody writes, also what all there is to replay would do."""
    receipt = await site.world.accept("late")
    (entry,) = await site.world.claim()
    await site.world.settle(entry, state=EntryState.DEAD)
    browser = await site.logged_in()
    dead = (await browser.get("/dead")).text
    group = unescape(re.findall(r'href="(/dead/all[^"]+)"', dead)[0])
    message = f"/messages/{receipt.event_id}"
    conversation = re.findall(r'href="(/conversations/\d+)"', (await browser.get(message)).text)[0]
    assert isinstance(site.world, SqliteWorld)
    with closing(sqlite3.connect(site.world.file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        for target in (
            *("/", "/messages", "/messages?q=late", "/dead", "/refused", "/live", "/actions"),
            *(message, conversation, group, "/login"),
        ):
            assert (await browser.get(target)).status == 200, target
        assert (await browser.post(f"{message}/replay")).status == 503  # which has to write
        writer.execute("ROLLBACK")


@on_sqlite
async def test_what_is_not_there_is_said(site: Site) -> None:
    browser = await site.logged_in()
    for target in ("/messages/ffffffff-0000-7000-8000-000000000000", "/conversations/77", "/x"):
        assert (await browser.get(target)).status == 404
    assert (await browser.get("/messages/not-an-id")).status == 404


@on_sqlite
async def test_the_log_is_followed_over_rotation(site: Site) -> None:
    log = site.around.log
    log.write_text('{"event":"before"}\n')
    browser = await site.logged_in()
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    url = f"http://127.0.0.1:{site.port}/live/lines"
    headers = {"Host": browser.host, "Cookie": cookie}
    async with asyncio.timeout(90), site.http.get(url, headers=headers) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert b"before" in await answer.content.readline()
        log.rename(log.with_suffix(".log.1"))
        log.write_text('{"event":"after \\u2028 <script>"}\n')
        told = b""
        while b"after" not in told:
            told = await answer.content.readline()
        assert told.isascii()


@on_sqlite
@pytest.mark.parametrize(
    "line",
    [
        '{"at":' * 5000 + "1" + "}" * 5000,
        "[" * 20_000,
        '{"cost":NaN}',
        '{"cost":1e999}',
        "\x00\x1b[2J",
        '["a line"]',
    ],
    ids=lambda line: line[:12],
)
async def test_lines_of_others_end_nothing(site: Site, line: str) -> None:
    """What another program writes into the log is a text, and the next line follows it."""
    site.around.log.write_text(f'{line}\n{{"event":"after"}}\n')
    for browser in (await site.logged_in(), await site.logged_in(VIEWER)):
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        headers = {"Host": browser.host, "Cookie": cookie}
        url = f"http://127.0.0.1:{site.port}/live/lines"
        async with asyncio.timeout(90), site.http.get(url, headers=headers) as answer:
            first = await answer.content.readline()
            shown = json.loads(first.removeprefix(b"data: "), parse_constant=pytest.fail)
            assert list(shown) == ["line"]
            assert await answer.content.readline() == b"\n"
            assert b"after" in await answer.content.readline()


@on_sqlite
async def test_no_more_than_sixteen_watch_and_eight_of_one_name(site: Site) -> None:
    site.around.log.write_text('{"event":"line"}\n')
    url = f"http://127.0.0.1:{site.port}/live/lines"
    watchers: list[ClientResponse] = []
    for person in (OPERATOR, VIEWER):
        browser = await site.logged_in(person)
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        headers = {"Host": browser.host, "Cookie": cookie}
        watchers += [await site.http.get(url, headers=headers) for _ in range(8)]
        assert (await browser.get("/live/lines")).status == 503
    assert {one.status for one in watchers} == {200}
    other = await site.logged_in(Person("Zoé", viewer=False))
    assert (await other.get("/live/lines")).status == 503
    watchers.pop().close()
    async with asyncio.timeout(90):
        while (again := await site.http.get(url, headers=headers)).status != 200:
            again.close()
    again.close()
    for one in watchers:
        one.close()


@on_sqlite
async def test_who_is_logged_out_watches_no_longer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.05)
    site.around.log.write_text('{"event":"line"}\n')
    browser = await site.logged_in()
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"Host": browser.host, "Cookie": cookie}
    url = f"http://127.0.0.1:{site.port}/live/lines"
    async with asyncio.timeout(90), site.http.get(url, headers=headers) as answer:
        assert b"line" in await answer.content.readline()
        await browser.post("/logout")
        await answer.content.read()  # to its end, which comes


@on_sqlite
async def test_a_watcher_who_does_not_read_is_waited_for(site: Site) -> None:
    """Lines stay in the file, and not in memory, until they are read."""
    log = site.around.log
    line = '{"event":"line","text":"' + "x" * 10_000 + '"}\n'
    log.write_text("")
    browser = await site.logged_in()
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=4096)
    head = f"GET /live/lines HTTP/1.1\r\nHost: {browser.host}\r\nCookie: {cookie}\r\n\r\n"
    writer.write(head.encode())
    await reader.readuntil(b"\r\n\r\n")
    tracemalloc.start()
    with log.open("a") as lines:
        for _ in range(5000):  # 50 MB
            lines.write(line)
    assert (await browser.get("/live")).status == 200  # others are answered meanwhile
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    writer.close()
    assert most < 20_000_000


@on_sqlite
async def test_a_watcher_who_never_reads_loses_the_place(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(live, "EACH", 1)
    browser = await site.logged_in()
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    site.around.log.write_text("")
    sock = socket.create_connection(("127.0.0.1", site.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    head = f"GET /live/lines HTTP/1.1\r\nHost: {browser.host}\r\nCookie: {cookie}\r\n\r\n"
    sock.sendall(head.encode())
    line = '{"event":"line","text":"' + "x" * 10_000 + '"}\n'
    url = f"http://127.0.0.1:{site.port}/live/lines"
    headers = {"Host": browser.host, "Cookie": cookie}
    async with asyncio.timeout(60):
        while (again := await site.http.get(url, headers=headers)).status != 200:
            again.close()
            with site.around.log.open("a") as lines:
                lines.write(line * 300)
    again.close()
    sock.close()


@on_sqlite
async def test_a_viewer_follows_without_words(site: Site) -> None:
    """What an agent printed, or an error quoted, is nobody's to see."""
    site.around.log.write_text(
        '{"event":"agent.output","output":"from +33639980071: my secret","level":"info"}\n'
    )
    browser = await site.logged_in(VIEWER)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"Host": browser.host, "Cookie": cookie}
    url = f"http://127.0.0.1:{site.port}/live/lines"
    async with asyncio.timeout(90), site.http.get(url, headers=headers) as answer:
        told = await answer.content.readline()
    assert b"agent.output" in told
    assert b"secret" not in told
