"""`events list`: a row each that fits the terminal, whatever people write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
import wcwidth

from berinia_webhookd.journal.queries import Content, Listed
from berinia_webhookd.tools.event_list import list_lines, listed_json

from ..end_to_end.daemon import Daemon
from .journals import a_journal

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
THEN = NOW - timedelta(seconds=5)
PLAIN = Listed(
    id="01a215d9-ed58-75a0-b0ca-18eba0931f5c",
    state="done",
    channel="sms",
    agent="Agent",
    kind="message",
    entry="agent",
    received_at=THEN,
    attempts=1,
    content=Content(sender="+33639980001", text="Bonjour"),
)
HOSTILE = (
    "\x1b[2J\x1b]0;title\x07" * 20,
    "\u202e\u2066right to left",
    "one\r\ntwo\x85three\u2028four",
    "漢字かな交じり文" * 40,
    "👩‍👩‍👧‍👦" * 60,
    "e" + "\u0301" * 500,
    "x" * 1_000_000,
    "\ud83d lone, and \0 nul",
)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def lines_of(*found: Listed) -> list[str]:
    shown = list_lines(found, {one.id: one.id[:13] for one in found}, NOW)
    return [click.unstyle(line) for line in shown]


def assert_fit(lines: Sequence[str], columns: int = 80) -> None:
    for line in lines:
        assert 0 <= wcwidth.wcswidth(line) <= columns, line  # -1: something steers the terminal


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_mail_has_its_subject_and_its_first_words(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """However long the subject is."""
    monkeypatch.setenv("COLUMNS", str(columns))
    subject, text = "Re: votre offre de mardi pour la rentrée des classes", "Oui, ça m’intéresse"
    content = Content(sender="lead@example.com", subject=subject, text=text)
    _, row = lines_of(replace(PLAIN, channel="email", content=content))
    first, _, words = row.partition(" — ")
    assert "  Re" in first
    assert words.startswith("Oui")
    assert_fit([row], columns)


def test_a_row_says_when_who_and_what() -> None:
    """With an id that `show` takes."""
    heading, row = lines_of(PLAIN)
    assert heading.split() == ["ID", "TIME", "UTC", "STATE", "CHANNEL", "AGENT", "SENDER", "TEXT"]
    assert row.split() == [
        *("01a215d9-ed58", "11:59:55", "done", "sms", "Agent", "+33639980001", "Bonjour")
    ]


@pytest.mark.parametrize("words", HOSTILE)
@pytest.mark.parametrize("columns", [80, 132])
def test_a_row_fits_whatever_is_in_it(
    monkeypatch: pytest.MonkeyPatch, words: str, columns: int
) -> None:
    """In every place that a stranger can fill."""
    monkeypatch.setenv("COLUMNS", str(columns))
    full = Content(sender=words, text=words, subject=words, error=words)
    hostile = replace(PLAIN, content=full, agent=words[:200], reason=words, attempts=7)
    waiting = replace(PLAIN, channel="second-number-of-the-town-hall", state="discarded")
    lines = lines_of(hostile, PLAIN, replace(waiting, received_at=NOW - timedelta(days=40)))
    assert_fit(lines, columns)
    assert len(lines) == 5  # one more for the error
    assert "Bonjour" in lines[3]


def test_what_is_special_about_an_event_stands_below_it() -> None:
    """Why it is held, how often it was tried, and the last line of what went wrong."""
    error = Content(error="Traceback:\n  File x\nConnectionError: refused\n")
    _, _, tried, _, held, _, receipt, _, reply = lines_of(
        replace(PLAIN, state="dead", attempts=3, content=error, began=True),
        replace(PLAIN, state="ready", reason="paused", kind="receipt"),
        replace(PLAIN, state="skipped", reason="receipt", kind="receipt"),
        replace(PLAIN, entry="reply"),
    )
    assert tried == "    3 attempts; may have acted; ConnectionError: refused"
    assert held == "    receipt; paused"
    assert receipt == "    receipt"
    assert reply == "    late reply"


def test_a_program_gets_every_field() -> None:
    """The text whole; nothing of what is not known."""
    erased = listed_json(replace(PLAIN, content=Content()))
    assert (erased["text"], erased["sender"], erased["error"]) == (None, None, None)
    told = listed_json(replace(PLAIN, kind="receipt", reason="paused"))
    assert (told["kind"], told["reason"], told["text"]) == ("receipt", "paused", "Bonjour")
    wanted = "id state channel kind agent sender text error received_at attempts reason"
    assert {*wanted.split(), "may_have_acted"} <= told.keys()


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """An installation with a journal of hostile texts and a plain one."""
    daemon = Daemon(tmp_path)
    (tmp_path / "state").mkdir(exist_ok=True)
    a_journal(tmp_path / "state" / "journal.db", *HOSTILE[:6], "Où en est ma commande ?")
    return daemon


def test_a_list_is_read_in_a_pipe(daemon: Daemon) -> None:
    """Which is written for 80 columns; each short id leads to its event."""
    heading, *rows = daemon.run("events", "list", environment={"COLUMNS": ""}).stdout.splitlines()
    assert_fit([heading, *rows])
    assert len(rows) == 7
    assert "Où" in rows[0]  # more of it where the short ids are short
    ids = [row.split()[0] for row in rows]
    whole = [one["id"] for one in json.loads(daemon.run("events", "list", "--json").stdout)]
    assert all(id_.startswith(short) for id_, short in zip(whole, ids, strict=True))
    assert whole[0] in daemon.run("events", "show", ids[0]).stdout


def test_words_are_looked_for_in_a_period_that_is_said(daemon: Daemon, tmp_path: Path) -> None:
    """All of them, in any letter case; the last 30 days, unless something else is asked for."""
    found = daemon.run("events", "list", "--text", "COMMANDE où", "--json")
    assert [one["text"] for one in json.loads(found.stdout)] == ["Où en est ma commande ?"]
    assert "looked through: 30 days" in found.stderr
    with closing(sqlite3.connect(tmp_path / "state" / "journal.db")) as journal, journal:
        journal.execute("UPDATE deliveries SET received_at = received_at - 31 * 86400000000")
    assert json.loads(daemon.run("events", "list", "--text", "commande", "--json").stdout) == []
    more = daemon.run("events", "list", "--text", "commande", "--since", "999d", "--json")
    assert len(json.loads(more.stdout)) == 1
    assert "looked through" not in more.stderr


def test_what_matches_is_given_up_by_its_filters(daemon: Daemon) -> None:
    """A dry run says it; without ids or a state it is a mistake."""
    words = ("events", "discard", "--state", "ready", "--text", "commande")
    assert "1 of 1 would be discarded" in daemon.run(*words, "--dry-run").stderr
    assert "1 of 1 discarded" in daemon.run(*words).stderr
    assert "0 of 0 discarded" in daemon.run(*words).stderr
    assert daemon.run("events", "discard", check=False).returncode == 2
    assert daemon.run("events", "discard", "--text", "x", check=False).returncode == 2


def test_long_ids_stand_above_and_take_no_room_from_the_text() -> None:
    """Of a burst that came in one millisecond: whole, to be copied, each before its row."""
    text = "Bonjour, rappelez-moi"
    other = replace(PLAIN, id=f"{PLAIN.id[:-1]}d", channel="whatsapp", state="waiting")
    some = [
        replace(one, content=Content(sender="+33639980001", text=text)) for one in (PLAIN, other)
    ]
    shown = list_lines(some, {one.id: one.id for one in some}, NOW)
    lines = [click.unstyle(line) for line in shown]
    assert_fit(lines)
    assert [lines[1], lines[3]] == [PLAIN.id, other.id]
    for row in (lines[2], lines[4]):
        assert text in row
        assert row.index("+33639980001") == lines[0].index("SENDER")
