"""What agents print and raise, without the values of the event they are handling."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.logs.personal_data import HIDDEN
from berinia_webhookd.outbound.event_mask import MOST_CHARACTERS, masker

# Without what the mask itself consists of, and without lone surrogates, which are no text.
CHARACTERS = st.characters(exclude_characters=HIDDEN, exclude_categories=["Cs"])
VALUES = st.text(CHARACTERS, min_size=3, max_size=40).filter(lambda text: len(text.strip()) >= 3)
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it stands": str,
    "repr": lambda text: repr(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "a part of a URL": lambda text: quote(text, safe=""),
    "a form field": quote_plus,
    "Python escapes": lambda text: text.encode("unicode_escape").decode(),
}


@given(VALUES, st.sampled_from(sorted(SPELLINGS)), st.text(CHARACTERS), st.text(CHARACTERS))
def test_no_value_survives_in_any_spelling(
    value: str, spelling: str, before: str, after: str
) -> None:
    """Whatever stands around it."""
    printed = SPELLINGS[spelling](value.strip())
    assert printed not in masker([value])(before + printed + after)


@given(st.lists(VALUES, min_size=1, max_size=6), st.data())
def test_many_values_hide_each_other_only(values: list[str], data: st.DataObject) -> None:
    """Values that overlap, contain or repeat each other all disappear."""
    words = st.sampled_from([value.strip() for value in values])
    said = "".join(data.draw(st.lists(words, min_size=1, max_size=12)))
    hidden = masker(values)(said)
    assert [value for value in values if value.strip() in hidden] == []


@given(VALUES)
def test_letter_case_does_not_matter(value: str) -> None:
    """Agents shout and whisper."""
    value = value.strip()
    for spelled in (value.upper(), value.lower(), value.swapcase()):
        if spelled.lower() == value.lower() and len(spelled.lower()) == len(spelled):
            assert spelled not in masker([value])(f"<{spelled}>")


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("Bonjour, je suis intéressé par votre offre", "got: Bonjour, je suis intéressé par vo..."),
        ("first line of it\nsecond line of it", "second line of it"),
        ("  Je veux arrêter  ", "Je veux arrêter"),
        ("Ça va « bien » ?", r'{"content": "\u00c7a va \u00ab bien \u00bb ?"}'),
        ('d\'accord "oui"', """{'body': 'd\\'accord "oui"'}"""),
    ],
)
def test_what_agents_do_with_values(value: str, printed: str) -> None:
    """Cut short, one line of several, trimmed, as JSON, as `repr`."""
    hidden = masker([value])(printed)
    assert HIDDEN in hidden
    assert not set(value.split()) & set(hidden.split())


def test_values_are_found_wherever_they_nest() -> None:
    """In lists and mappings; numbers, None and short words are left alone."""
    hide = masker([{"Body": "bonjour", "n": 12}, [["alice"], None], ("ok",)])
    assert hide("ok, BONJOUR from Alice 12 times") == f"ok, {HIDDEN} from {HIDDEN} 12 times"


def test_an_event_without_values_still_hides_people() -> None:
    """Numbers and addresses go in any case."""
    assert masker([None, ""])("call +33639980001") == f"call {HIDDEN}"


def test_too_much_to_look_for_hides_everything() -> None:
    """Rather than let a part through."""
    hide = masker([str(n) * 100 for n in range(MOST_CHARACTERS // 100)])
    assert (hide("anything"), hide("")) == (HIDDEN, "")


def test_many_values_with_one_beginning_hide_the_rest_of_the_line() -> None:
    """Comparing with each of them would take too long."""
    hide = masker([f"> On that day she wrote {n}" for n in range(1000)])
    assert hide("it says > On that day someone else\nnext") == f"it says {HIDDEN}\nnext"


def test_a_text_made_to_be_slow_is_not() -> None:
    """A value and an output of one repeated letter are hidden like any other."""
    assert masker(["a" * 60_000])("a" * 50_000) == HIDDEN


def test_values_without_end_are_not_all_looked_at() -> None:
    """A mail can have millions of lines: beyond the bound everything is hidden at once."""
    hide = masker(f"value {number}" for number in count())
    assert hide("whatever it says") == HIDDEN
    assert hide("") == ""
