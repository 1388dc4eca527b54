"""Hides the people of one event in what its agent prints, raises, or returns as an error.

It finds a value whole, truncated, in any letter case and in the escapes that programs use. If there
are too many values to search for, it hides the whole text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import quote, quote_plus

from berinia_webhookd.logs.personal_data import HIDDEN, LONGEST_TEXT, scrub
from berinia_webhookd.model import Entry, Event, Outcome

LONG_BYTES: Final = 8192  # of a stored event: masks of longer ones are made in a thread
SHORTEST_VALUE: Final = 3  # shorter values are too common to look for
ANCHOR: Final = 12  # this many leading characters of a value count as the value, truncated
LONGEST_IN_URL: Final = 4096  # longer values are not searched for in URL encoding
MOST_CHARACTERS: Final = 1 << 19  # total length of values; an event with more hides the whole text
MOST_ALIKE: Final = 8  # values with one beginning are compared; with more, the line is hidden
_QUOTED: Final = frozenset("\"'\\")

_Anchors = dict[str, list[str]]
_Span = tuple[int, int]


class EventMask:
    """The mask of one event, made at the first text, or by `prepare` for a long event; `wanted`
    tells whether personal data is masked at all.
    """

    def __init__(self, entry: Entry, wanted: Callable[[], bool]) -> None:
        self._entry = entry
        self._wanted = wanted
        self._hide: Callable[[str], str] | None = None

    def __call__(self, text: str) -> str:
        """Return the text without the event's values."""
        if not text or not self._wanted():
            return text
        if self._hide is None:
            self._hide = self._made()
        return self._hide(text)

    async def prepare(self) -> None:
        """Make the mask of a long event in a thread: there are thousands of lines to search for."""
        if self._entry.size_bytes > LONG_BYTES and self._wanted():
            self._hide = await asyncio.to_thread(self._made)

    async def outcome(self, outcome: Outcome) -> Outcome:
        """Return the outcome with its error masked, but not its reply to the sender."""
        if outcome.error is None:
            return outcome
        await self.prepare()
        return replace(outcome, error=self(outcome.error))

    def _made(self) -> Callable[[str], str]:
        return masker(value for one in self._entry.messages for value in _values(one.event))


def _values(event: Event) -> Iterator[object]:
    yield from (event.sender, event.recipient, event.body, event.subject, event.profile_name)
    yield from (event.group, event.raw, event.raw_multi)
    yield [attachment.file_name for attachment in event.attachments]


def masker(values: Iterable[object]) -> Callable[[str], str]:
    """Return a function that masks these values, and what `scrub` masks, anywhere in a text.

    Values may be nested in mappings and lists; only strings are searched for.
    """
    texts: set[str] = set()
    characters = 0
    for text in _texts(values):
        if text not in texts:
            texts.add(text)
            characters += len(text)
            if characters > MOST_CHARACTERS:  # stop early: a mail can have millions of lines
                return lambda text: HIDDEN if text else text
    anchors: _Anchors = {}
    for spelling in {_folded(spelling) for text in texts for spelling in _spellings(text)}:
        anchors.setdefault(spelling[:ANCHOR], []).append(spelling)
    return lambda text: scrub(_masked(anchors, text[:LONGEST_TEXT]))


def _texts(values: Iterable[object]) -> Iterator[str]:
    """Yield each value trimmed, and each of its lines."""
    for value in values:
        if isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, list | tuple):
            yield from _texts(value)
        elif isinstance(value, str):
            yield value.strip()
            yield from map(str.strip, value.splitlines())


def _spellings(text: str) -> Iterator[str]:
    """Yield a text as it is, and as `repr`, JSON, bytes and URLs escape it."""
    if len(text) < SHORTEST_VALUE:
        return
    yield text
    if len(text) <= LONGEST_IN_URL:
        yield quote_plus(text, errors="replace")
        yield quote(text, safe="", errors="replace")
    if text.isascii() and text.isprintable() and not _QUOTED & set(text):
        return
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield text.encode("unicode_escape").decode("ascii")
    yield repr(text.encode("utf-8", "replace"))[2:-1]


def _folded(text: str) -> str:
    """Fold letter case without changing the text's length."""
    if text.isascii():
        return text.lower()
    low = text.lower()
    if len(low) == len(text) and "Σ" not in text:  # whose lower case depends on the next character
        return low
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def _masked(anchors: _Anchors, text: str) -> str:
    folded = _folded(text)
    spans: list[_Span] = []
    for anchor, spellings in anchors.items():
        if anchor in folded:
            for spelling in spellings:
                spans += _whole(folded, spelling)
            spans += _begun(folded, anchor, spellings)
    parts: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start > done or not parts:
            parts += (text[done:start], HIDDEN)
        done = max(done, end)
    return "".join(parts) + text[done:]


def _whole(folded: str, spelling: str) -> Iterator[_Span]:
    start = folded.find(spelling)
    while start >= 0:
        yield start, start + len(spelling)
        start = folded.find(spelling, start + len(spelling))


def _begun(folded: str, anchor: str, spellings: list[str]) -> Iterator[_Span]:
    """Find truncated values, up to their last matching character."""
    start = folded.find(anchor)
    while start >= 0:
        if len(spellings) > MOST_ALIKE:
            end = folded.find("\n", start)
            end = end if end >= 0 else len(folded)
        else:
            end = max(_end_of_common(folded, start, spelling) for spelling in spellings)
        yield start, end
        start = folded.find(anchor, end)


def _end_of_common(folded: str, start: int, spelling: str) -> int:
    end = start
    for character in spelling:
        if end == len(folded) or folded[end] != character:
            break
        end += 1
    return end
