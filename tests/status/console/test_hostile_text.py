"""What a stranger wrote is text on every page, and what would be invisible is a mark."""

from __future__ import annotations

import unicodedata
from html import escape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest

from berinia_webhookd.findings import wrong
from berinia_webhookd.model import EntryState, Outcome, OutcomeKind
from berinia_webhookd.status.console.text import LONGEST, marked, one_line

from ...journal.batches import a_batch, message
from ...journal.world import on_sqlite
from .conftest import VIEWER, Browser, Site
from .hostile import TEXTS

# Every element and attribute that our own templates have.
_ELEMENTS = """
html head meta title link body a header nav ul li div span form input button main h1 h2 h3 p section
b ol details summary footer pre code label select option bdi time noscript script
"""
_ATTRIBUTES = """
lang charset name content rel href class id tabindex aria-label aria-current role method action type
value selected datetime title dir download maxlength required autocomplete data-lost data-there
aria-live src defer
"""
ELEMENTS, ATTRIBUTES = set(_ELEMENTS.split()), set(_ATTRIBUTES.split())
OWN_SCRIPT = ("src", "/static/console.js")


class Reader(HTMLParser):
    """Reads a page as a browser would."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ELEMENTS or (tag == "script" and OWN_SCRIPT not in attrs):
            self.wrong.append(tag)
        for name, value in attrs:
            ours = name not in {"href", "action", "src"} or str(value).startswith(("/", "#"))
            if name not in ATTRIBUTES or not ours or str(value).startswith("//"):
                self.wrong.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def is_invisible(one: str) -> bool:
    return one not in "\n\t" and unicodedata.category(one) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


@pytest.mark.parametrize("what", TEXTS)
def test_text_is_text(what: str) -> None:
    for shown in (marked(TEXTS[what]), one_line(TEXTS[what])):
        found = read(str(shown))
        assert not found.wrong
        assert not [one for one in "".join(found.text) if is_invisible(one)]
        assert len(str(shown)) < 6 * LONGEST


def test_what_is_invisible_is_named() -> None:
    assert "U+202E" in str(marked("a\u202eb"))
    assert "U+0000" in str(marked("\x00"))
    assert "U+D800" in str(marked("\ud800"))
    assert "U+E0069" in str(marked("\U000e0069"))
    assert (
        str(marked("l\u2019\u00e9t\u00e9 \U0001f468\u200d\U0001f469 \u2764\ufe0f")).count("U+") == 0
    )


@pytest.mark.parametrize(
    "text", ["\U000e0041" * 65_536, "a\u200b" * 32_768, "\u202e\u2066" * 32_768]
)
def test_marks_make_no_text_much_longer(text: str) -> None:
    shown = str(marked(text))
    assert "U+" in shown
    assert len(shown) < 3 * LONGEST


def test_a_long_text_is_cut() -> None:
    assert len(str(marked("a" * 1_000_000))) < LONGEST + 100
    assert str(one_line("x\n" * 500)).count("\n") == 0


async def everywhere(site: Site, text: str) -> list[str]:
    """Put a text wherever a stranger can, and what an agent says; return all pages that show it."""
    sender = "".join(text.split())[:200] or "x"
    await site.world.accept(text, sender=sender, subject=text, message_id=text[:500])
    (entry,) = await site.world.claim()
    outcome = Outcome(OutcomeKind.EXCEPTION, error=text[:20_000], reply=text[:20_000])
    await site.world.settle(entry, state=EntryState.DEAD, outcome=outcome)
    await site.world.journal.reject(a_batch(message(sender, text)), {"detail": text[:2000]})
    site.findings.append(wrong(text[:200], text, text, why=text))
    id_ = entry.event_id
    return ["/", "/messages?period=all", f"/messages/{id_}", "/dead", "/refused", "/actions"]


@on_sqlite
@pytest.mark.parametrize("what", TEXTS)
async def test_no_page_takes_a_stranger_at_his_word(site: Site, what: str) -> None:
    pages = await everywhere(site, TEXTS[what])
    for browser in (await site.logged_in(), await site.logged_in(VIEWER)):
        await look(browser, pages)


async def look(browser: Browser, pages: list[str]) -> None:
    for page in pages:
        answer = await browser.get(page)
        assert answer.status == 200, answer.text
        found = read(answer.text)
        assert not found.wrong, page
        assert not [one for one in answer.text if is_invisible(one)], page
        assert len(answer.text) < 2_000_000, page
        for link in set(_links(answer.text)):
            if link.startswith(("/messages/", "/conversations/", "/dead/")):
                further = await browser.get(link)
                assert further.status in {200, 303, 404}, (link, further.text)
                assert not read(further.text).wrong, link


def _links(text: str) -> list[str]:
    class Links(HTMLParser):
        found: list[str] = []  # noqa: RUF012 - of this one reading

        def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
            self.found += [value for name, value in attrs if (tag, name) == ("a", "href")]

    reader = Links()
    reader.found = []
    reader.feed(text)
    return reader.found


@on_sqlite
async def test_a_viewer_sees_no_person(site: Site) -> None:
    await site.world.accept("my secret", sender="+33639980071", subject="my subject")
    (entry,) = await site.world.claim()
    outcome = Outcome(OutcomeKind.EXCEPTION, error="cannot reach +33639980071")
    await site.world.settle(entry, state=EntryState.DEAD, outcome=outcome)
    browser = await site.logged_in(VIEWER)
    for page in ("/messages", f"/messages/{entry.event_id}", "/conversations/1", "/dead", "/"):
        text = (await browser.get(page)).text
        for said in ("my secret", "my subject", "39980071"):
            assert said not in text, page


@on_sqlite
@pytest.mark.parametrize("what", TEXTS)
async def test_the_search_field_takes_anything(site: Site, what: str) -> None:
    browser = await site.logged_in()
    typed = TEXTS[what][:3000].encode("utf-8", "replace")
    answer = await browser.get(f"/messages?q={quote(typed)}")
    assert answer.status in {200, 303, 400}, answer.text
    assert not read(answer.text).wrong
    assert escape("<script>window") in answer.text or "<script>window" not in answer.text


@on_sqlite
async def test_what_a_field_would_not_show_is_a_mark_below_it(site: Site) -> None:
    """A link may bring words to search for that nobody typed."""
    browser = await site.logged_in()
    plain = await browser.get("/messages?q=l%E2%80%99%C3%A9t%C3%A9")
    assert "Searched for" not in plain.text
    hostile = await browser.get("/messages?q=a%E2%80%AEb%E2%80%8B")
    shown = "".join(read(hostile.text).text)
    assert "Searched for: aU+202EbU+200B" in shown
