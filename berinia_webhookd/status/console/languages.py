"""The console's words in English and French. The English words are their own keys; the French ones
stand in `french.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from markupsafe import Markup, escape

COOKIE: Final = "berinia_language"


@dataclass(frozen=True, slots=True)
class Language:
    """One language of the console."""

    code: str
    words: Mapping[str, str]  # by the English ones; of English itself, none

    def __call__(self, english: str, /, **values: object) -> Markup:
        """Return words in this language, with values, escaped, in the places that name them."""
        text = escape(self.words[english] if self.words else english)
        return text.format(**values) if values else text


ENGLISH: Final = Language("en", {})


@cache
def languages() -> Mapping[str, Language]:
    """Return all languages by their codes."""
    text = resources.files(__package__).joinpath("french.toml").read_text(encoding="utf-8")
    return {"en": ENGLISH, "fr": Language("fr", tomllib.loads(text))}


def chosen(cookie: str | None, accept_language: str) -> Language:
    """Return the language that somebody chose, else the first that the browser accepts."""
    known = languages()
    if cookie is not None and cookie in known:
        return known[cookie]
    for part in accept_language.split(","):
        code = part.partition(";")[0].strip().lower().partition("-")[0]
        if code in known:
            return known[code]
    return ENGLISH
