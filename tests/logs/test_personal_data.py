"""What every line of the logs hides: people; and what it keeps: what an operator follows."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.logs.personal_data import HIDDEN, OWN_KEYS, PERSONAL_KEYS, hide, scrub, trace

PHONES = [
    "+33639980001",
    "33639980001",
    "0639980001",
    "06 39 98 00 01",
    "06.39.98.00.01",
    "06-39-98-00-01",
    "+33 6 39 98 00 01",
    "+33 (0)6 39 98 00 01",
    "+33\u00a06\u00a039\u00a098\u00a000\u00a001",
    "%2B33639980001",
    "whatsapp:+33639980001",
    "+33639980001,",
    "user+33639980001_photo",
]
ADDRESSES = [
    "alice.dupont+news@example.com",
    "33639980001@c.us",
    "33639980001-1625079600@g.us",
    "alice%40example.com",
    "Alice <alice@mail.example.co.uk>",
]
# What phones look like, in the ranges reserved for fiction.
PHONE = st.integers(0, 9999).map(lambda n: f"+3363998{n:04}")
EMAIL = st.from_regex(r"[a-z][a-z0-9]{2,12}(?:\.[a-z]{3,9})?@example\.(?:com|org)", fullmatch=True)
PEOPLE = PHONE | EMAIL


@pytest.mark.parametrize("text", PHONES)
def test_no_spelling_of_a_phone_number_survives(text: str) -> None:
    """Alone, in a sentence, in a query."""
    for around in ("{}", "from {} to you", "x={}&y=1", "{{'From': '{}'}}", "({})"):
        assert "63998" not in re.sub(r"\D", "", scrub(around.format(text)))


@pytest.mark.parametrize("text", ADDRESSES)
def test_no_spelling_of_an_address_survives(text: str) -> None:
    """The part before the sign and the part after it."""
    hidden = scrub(f"mail from {text}, twice")
    assert HIDDEN in hidden
    assert [word for word in ("alice", "dupont", "example", "3998", "1625") if word in hidden] == []


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01",
        "2026-03-01T12:00:00.123456Z",
        "2026-03-01T12:00:51.123456+00:00",
        "2026-11-30 05:34:51",
        "[2026-11-30 05:34:51,123] INFO",
        "2026-11-30 23:59",
        "203.0.113.200:8001",
        "192.168.100.200",
        "[2001:db8::1]:8001",
        "SM00000000000000000000000000000001",
        "took 12.3456 s of 60",
        "HTTP 503 after 3 attempts",
        "/var/log/berinia-webhookd/webhook.log",
    ],
)
def test_what_an_operator_follows_stays(text: str) -> None:
    """Instants, addresses of machines, identifiers, durations, paths."""
    assert scrub(text) == text


@pytest.mark.parametrize(
    "text",
    ["2026-11-30 06", "2639-98-00 01:23", "2026-11-30 99:00", "2026-13-30", "1998 00 01 23:45"],
)
def test_what_only_resembles_an_instant_is_hidden(text: str) -> None:
    """A number may be written like a date; one that cannot be a date is none."""
    assert HIDDEN in scrub(text)


@given(st.uuids())
def test_an_identifier_stays(identifier: uuid.UUID) -> None:
    """Whatever digits it has."""
    assert scrub(f"event {identifier} is dead") == f"event {identifier} is dead"


def nested(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.recursive(
        leaves,
        lambda inside: (
            st.lists(inside, max_size=3)
            | st.tuples(inside, inside)
            | st.dictionaries(st.text(max_size=8) | PEOPLE, inside, max_size=3)
        ),
        max_leaves=5,
    )


class Telling:
    """An object whose text tells of a person."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f"told by {self.text}."


def leaves_about(person: str) -> st.SearchStrategy[object]:
    return st.sampled_from(
        [
            person,
            f"<{person}>",
            f"from={quote(person)}",
            Telling(person),
            ValueError(f"no such number: {person}"),
            Path("/var") / person,
            {person},
            {person: 1},
            person.encode(),
        ]
    )


@given(person=PEOPLE, data=st.data())
def test_no_person_survives_in_any_field(person: str, data: st.DataObject) -> None:
    """In whatever kind of value, under whatever name that is not one of ours."""
    key = data.draw(st.text(max_size=8) | st.sampled_from(sorted(PERSONAL_KEYS)))
    value = data.draw(nested(leaves_about(person)))
    if key in OWN_KEYS:
        return
    shown = repr(hide(key, value))
    assert person.partition("@")[0].lstrip("+") not in shown


@pytest.mark.parametrize("key", sorted(PERSONAL_KEYS))
def test_a_field_about_a_person_is_hidden_whatever_it_holds(key: str) -> None:
    """A name is no number and no address; also inside other values. Nothing stays nothing."""
    assert hide(key, "Jeanne") == HIDDEN
    assert hide("detail", [{key: ["Jeanne"]}]) == [{key: HIDDEN}]
    assert (hide(key, None), hide(key, "")) == (None, "")


@pytest.mark.parametrize("key", sorted(OWN_KEYS))
def test_our_own_fields_stay(key: str) -> None:
    """Only where we wrote them: a stranger's mapping may use the same names."""
    assert hide(key, "0123456789") == "0123456789"
    assert hide("detail", {key: "+33639980001"}) == {key: HIDDEN}


@pytest.mark.parametrize(
    "value", [None, True, 3, 1234567890123, 0.5, datetime(2026, 3, 1, tzinfo=UTC)]
)
def test_figures_stay(value: Any) -> None:
    """What is counted and measured."""
    assert hide("figure", value) == value


def test_an_object_that_cannot_be_shown_is_named() -> None:
    """A log line is no reason to fail."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert hide("detail", Broken()) == "<Broken>"


def failing() -> BaseException:
    try:
        try:
            int("+33639980001x")
        except ValueError as error:
            raise LookupError("nobody called Jeanne") from error
    except LookupError as error:
        raised = error
    return raised


def test_a_traceback_says_where_and_what_kind_but_quotes_nobody() -> None:
    """Messages of exceptions quote input; the chain of causes is kept."""
    text = trace(failing(), with_messages=False)
    assert [word for word in ("Jeanne", "3998", "int(") if word in text] == []
    assert text.index("ValueError") < text.index("LookupError")
    assert f"{Path(__file__)}:" in text
    assert "in failing" in text


def test_a_traceback_in_full() -> None:
    """For who chose to see people."""
    text = trace(failing(), with_messages=True)
    assert "nobody called Jeanne" in text
    assert "+33639980001x" in text


def test_a_circle_of_causes_ends() -> None:
    """An exception may be its own cause's cause."""
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert trace(first, with_messages=False).count("ValueError") == 1


def test_what_an_ill_formed_field_held_is_hidden_by_its_name() -> None:
    """`delivery.rejected` says it, in whatever letter case a provider writes the name."""
    reason = {"invalid": ["From", "NumMedia"], "values": {"From": "Some Name", "NumMedia": "x"}}
    shown = hide("reason", reason)
    assert shown["values"] == {"From": HIDDEN, "NumMedia": "x"}
    assert shown["invalid"] == ["From", "NumMedia"]
