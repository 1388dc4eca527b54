"""Words by which people stop, resume or ask about messages."""

from __future__ import annotations

from itertools import product

import pytest

from berinia_webhookd.channels.opt_out import WORDS, OptOutWords, folded
from berinia_webhookd.model import OptOut

KNOWN = OptOutWords(WORDS, None)


@pytest.mark.parametrize(
    "message",
    [
        *WORDS[OptOut.STOP],
        *("stop", " Stop\r\n", "Stop.", "STOP !", "« stop »", "(STOP)", "S T O P", "s-t-o-p"),
        *(
            "opt out",
            "OPT-OUT",
            "Opt\u2011out",
            "STOP SMS",
            "stop-sms",
            "Stop all",
            "STOP\u00a0ALL",
        ),
        *("ARRÊT", "arret", "Arrêter", "Désinscrire", "De\u0301sinscription", "ＳＴＯＰ", "RÉVOKE"),
        *("Désabonner", "désabonnement.", "Remove", "stop\u200b"),
    ],
)
def test_a_message_that_is_such_a_word_asks_for_an_end(message: str) -> None:
    """However it is written."""
    assert KNOWN.meaning(message) is OptOut.STOP


@pytest.mark.parametrize(
    "message",
    [
        *("", " ", "...", "stop it", "Stop please", "STOPSTOP", "ne pas STOP", "arrêtez", "stop 1"),
        *("STO", "😀", "stop" + "!" * 200, "endless", "Information"),
    ],
)
def test_other_messages_ask_for_nothing(message: str) -> None:
    """A word within a sentence is a word."""
    assert KNOWN.meaning(message) is None


def test_words_that_resume_or_ask() -> None:
    assert {KNOWN.meaning(word) for word in ("Start", "YES", "yes.", "unstop")} == {OptOut.START}
    assert {KNOWN.meaning(word) for word in ("help", "Info ?")} == {OptOut.HELP}


def test_words_can_be_replaced_or_added_to() -> None:
    """`+` stands for the built-in ones; a meaning that is not named keeps those of its kind."""
    added = OptOutWords(WORDS, {OptOut.STOP: ("+", "Basta"), OptOut.START: ()})
    assert added.meaning("BASTA!") is added.meaning("stop") is OptOut.STOP
    assert added.meaning("yes") is None
    assert added.meaning("help") is OptOut.HELP
    replaced = OptOutWords({}, {OptOut.STOP: ("Basta",)})
    assert replaced.meaning("basta") is OptOut.STOP
    assert replaced.meaning("stop") is replaced.meaning("help") is None


def test_a_word_of_punctuation_alone_is_none() -> None:
    assert OptOutWords({}, {OptOut.STOP: ("!",)}).meaning("") is None


def test_ascii_is_folded_as_all_other_text() -> None:
    """Whatever stands in, before and behind a word; the blank of no width makes it other text."""
    for before, within, behind in product(map(chr, range(128)), ("", "-", "'", " "), "!$_ a"):
        text = f"{before}St{within}op{behind}"
        assert folded(text) == folded(text + "\u200b"), text


@pytest.mark.parametrize(
    "one", [chr(0xE9), "e\u0301", "\u2024e\u2024", "\ufb03", "\u00bd", "\u1e9e"]
)
def test_as_many_letters_as_the_longest_word_are_one_at_most(one: str) -> None:
    """However many characters each of them becomes, or comes with."""
    words = OptOutWords({}, {OptOut.STOP: (one * 9,)})
    assert words.meaning(f"« {one * 9} »") is OptOut.STOP
    assert words.meaning(one * 10) is None
    assert words.meaning(f"{one * 9} 😀") is None


@pytest.mark.parametrize("mark", ["\ufc5f", "\ufe76", "\ufe70"])
def test_marks_that_pass_for_letters_hide_no_word(mark: str) -> None:
    """Arabic accents by themselves are letters to Python, and nothing once they are normalized."""
    assert KNOWN.meaning("stop" + mark * 20) is OptOut.STOP
