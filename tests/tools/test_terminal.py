"""How commands show things: harmless, in columns."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import click
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.tools.terminal import (
    coloured_state,
    columns,
    fitted,
    json_text,
    one_line,
    printable,
    utc,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
# C0 but line end, DEL and C1; what separates lines; what turns the direction; half characters.
OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
ANY_TEXT = st.text(
    st.characters(exclude_categories=[]) | st.sampled_from("\x1b\x9b\r\n\t\u202e\u2028\ud800"),
    max_size=80,
)


@given(ANY_TEXT)
def test_nothing_a_stranger_wrote_steers_the_terminal(text: str) -> None:
    """In several lines, or in one of bounded length."""
    assert OBEYED.search(printable(text)) is None
    line = one_line(text, 40)
    assert OBEYED.search(line) is None
    assert "\n" not in line
    assert len(line) <= 40


def test_what_is_harmless_stays() -> None:
    """Line ends, accents, signs."""
    assert printable("Ça va ?\r\nOui 🙂\tbien") == "Ça va ?\nOui 🙂    bien"
    assert one_line(" Ça va ?\r\n  Oui 🙂\tbien ", 40) == "Ça va ? Oui 🙂 bien"


def test_a_long_text_is_cut_visibly() -> None:
    """At the last place there is."""
    assert one_line("x" * 10**6, 10) == "x" * 9 + "…"
    assert one_line("x" * 10, 10) == "x" * 10


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | ANY_TEXT,
        lambda inside: st.lists(inside, max_size=3) | st.dictionaries(ANY_TEXT, inside, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from([None, 2]),
)
def test_json_is_the_same_value_and_harmless(value: Any, indent: int | None) -> None:
    """Escaped, not replaced."""
    text = json_text(value, indent=indent)
    assert OBEYED.search(text) is None
    assert json.loads(text) == value


def test_json_knows_instants() -> None:
    """In ISO 8601; any other object is shown as its text."""
    assert json.loads(json_text({"at": NOW, "error": ValueError("x")})) == {
        "at": "2026-03-01T12:00:00+00:00",
        "error": "x",
    }


def test_columns_line_up_whatever_their_colour() -> None:
    """What is not seen has no width."""
    rows = [
        ["id", "state", "agent"],
        ["1", coloured_state("dead"), "A"],
        ["22", coloured_state("running"), ""],
    ]
    assert [click.unstyle(line) for line in columns(rows)] == [
        "id  state    agent",
        "1   dead     A",
        "22  running",
    ]


def test_no_rows_are_no_lines() -> None:
    """As the settings of a machine on which nothing is set yet."""
    assert columns([]) == []
    assert list(fitted([], 80)) == []


def test_a_state_is_shown_as_it_is_called() -> None:
    """Also one that has no colour."""
    assert click.unstyle(coloured_state("done")) == "done"
    assert click.unstyle(coloured_state("unheard of")) == "unheard of"


def test_an_instant_is_shown_in_utc() -> None:
    """To the millisecond."""
    instant = datetime.fromisoformat("2026-03-01T14:00:00.123999+02:00")
    assert utc(instant) == "2026-03-01 12:00:00.123 UTC"
