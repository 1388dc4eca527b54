"""The console's texts in English and French. The English texts are the keys; the French ones are in
`french.toml`, and those for sentences of the daemon in `french_sentences.toml`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from markupsafe import Markup, escape

COOKIE: Final = "berinia_language"
LONGEST_SENTENCE: Final = 1000  # a longer text is not translated
MOST_NESTED: Final = 4  # levels of nested sentences; untrusted text may nest deeper


@dataclass(frozen=True, slots=True)
class Language:
    """One language of the console."""

    code: str
    words: Mapping[str, Markup]  # by English text; empty for English itself
    # By the fixed parts between a sentence's values, the most specific first.
    sentences: Sequence[tuple[Sequence[str], str]] = ()

    def __call__(self, english: str, /, **values: object) -> Markup:
        """Return a text in this language, with escaped values in its placeholders."""
        text = self.words[english] if self.words else escape(english)
        return text.format(**values) if values else text

    def told(self, english: str, nested: int = MOST_NESTED) -> str | None:
        """Return a sentence of the daemon in this language; None if it has no translation."""
        if not self.sentences:
            return english
        if len(english) > LONGEST_SENTENCE or not nested:
            return None
        for parts, sentence in self.sentences:
            if (found := values_in(english, parts)) is not None:
                values = [self.told(value, nested - 1) or value for value in found]
                return PLACE.sub(lambda place: _in_place(place, values), sentence)  # noqa: B023
        return None


ENGLISH: Final = Language("en", {})
PLACE: Final = re.compile(r"\{([0-9])(:et)?\}")  # with `:et` of names as `joined` gives them
VALUE: Final = "{}"


def _in_place(place: re.Match[str], values: Sequence[str]) -> str:
    value = values[int(place[1])]
    return " et ".join(value.rsplit(" and ", 1)) if place[2] else value


@cache
def languages() -> Mapping[str, Language]:
    """Return all languages by their codes."""
    sentences = _table("french_sentences.toml")
    narrowest = sorted(sentences, key=lambda english: -len(english.replace(VALUE, "")))
    by_parts = [(english.split(VALUE), sentences[english]) for english in narrowest]
    words = {english: escape(french) for english, french in _table("french.toml").items()}
    return {"en": ENGLISH, "fr": Language("fr", words, by_parts)}


def _table(name: str) -> dict[str, str]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return {str(english): str(other) for english, other in tomllib.loads(text).items()}


def values_in(text: str, parts: Sequence[str]) -> list[str] | None:
    """Return the values between these parts of a text, each the shortest possible; None if the text
    does not consist of them. Linear in the length of the text.
    """
    first, *between = parts
    if not between:
        return [] if text == first else None
    *between, last = between
    at, values = len(first), list[str]()
    for part in between:
        found = text.find(part, at)
        values.append(text[at:found])
        at = found + len(part) if found >= 0 else len(text) + 1
    end = len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return None
    return [*values, text[at:end]]


def chosen(cookie: str | None, accept_language: str) -> Language:
    """Return the language that the user chose, else the first that the browser accepts."""
    known = languages()
    if cookie is not None and cookie in known:
        return known[cookie]
    for part in accept_language.split(","):
        code = part.partition(";")[0].strip().lower().partition("-")[0]
        if code in known:
            return known[code]
    return ENGLISH
