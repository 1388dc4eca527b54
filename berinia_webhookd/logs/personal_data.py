"""Masks personal data in the logs: phone numbers, e-mail addresses and message text.

Text can come from anywhere, so in doubt it is masked. Identifiers, IP addresses and times are kept,
because an operator needs them to follow a message.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from types import TracebackType
from typing import Any, Final

HIDDEN: Final = "•••"
LONGEST_TEXT: Final = 65_536
LONGEST_NAME: Final = 1024
SHORT_TEXT: Final = 64  # such as the paths that are asked for again and again

# Log keys that hold personal data, whatever their value.
PERSONAL_KEYS: Final = frozenset(
    {
        *("sender", "recipient", "author", "profile_name", "group", "subject", "from", "to"),
        *("body", "text", "content", "reply", "response", "payload"),
    }
)
# Log keys whose values are ours: numbers and short texts, with nothing of a stranger's making.
OWN_KEYS: Final = frozenset(
    {
        *("timestamp", "level", "event", "request_id", "event_id", "channel", "agent", "client"),
        *("address", "version", "kind", "outcome", "setting", "pid", "node", "due_at"),
        *("status", "attempt", "duration_ms"),
    }
)
PLAIN: Final = (bool, int, float, date)
DIGIT: Final = re.compile(r"\d")
EMAIL: Final = re.compile(r"[\w.+%'-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
# After a plus sign, also as URLs write it, a number is a phone number whatever is around it.
PHONE: Final = re.compile(
    r"(?:\+|%2[Bb])\d(?:[ ().\u00a0-]{0,2}\d){7,14}"
    r"|(?<![\w.-])\d(?:[ ().\u00a0-]{0,2}\d){7,14}(?![\w-])"
)
# What only looks like a phone number: times and IP addresses.
DATE: Final = r"(?:19|20)\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
MACHINE: Final = re.compile(rf"{DATE}|\d{{1,3}}(?:\.\d{{1,3}}){{3}}")
DATE_AND_HOUR: Final = re.compile(rf"{DATE} (?:[01]\d|2[0-3])")
SECONDS: Final = re.compile(r"[0-5]\d\.\d{6,9}")  # of `05:34:51.123456+00:00`
AFTER_MINUTES: Final = re.compile(r"[0-5]\d:")
MINUTES: Final = re.compile(r":[0-5]\d(?!\d)")


def scrub(text: str) -> str:
    """Mask e-mail addresses and phone numbers in any spelling."""
    if "@" in text or "%40" in text:
        text = EMAIL.sub(HIDDEN, text)
    return PHONE.sub(_unless_of_a_machine, text) if DIGIT.search(text) else text


_scrubbed: Final = lru_cache(1024)(scrub)


def _unless_of_a_machine(match: re.Match[str]) -> str:
    """Mask a match, unless it is an IP address or part of a time such as `2026-11-30 05:34:51`."""
    if MACHINE.fullmatch(match[0]):
        return match[0]
    before = match.string[max(0, match.start() - 3) : match.start()]
    if SECONDS.fullmatch(match[0]) and AFTER_MINUTES.fullmatch(before):
        return match[0]
    begins_time = DATE_AND_HOUR.fullmatch(match[0]) and MINUTES.match(match.string, match.end())
    return match[0] if begins_time else HIDDEN


def hide(key: str, value: Any) -> Any:
    """Mask one value of a log line."""
    return value if key in OWN_KEYS else _hidden(key, value)


def _hidden(key: str, value: Any) -> Any:
    if key in PERSONAL_KEYS:
        return HIDDEN if value not in (None, "") else value
    if isinstance(value, str):
        return _scrubbed(value) if len(value) <= SHORT_TEXT else scrub(value[:LONGEST_TEXT])
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        return {
            scrub(text_of(name)[:LONGEST_NAME]): _hidden(text_of(name).lower(), item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_hidden("", item) for item in value]
    return scrub(text_of(value)[:LONGEST_TEXT])


def text_of(value: object) -> str:
    """Return any object as text, or the name of its type if `str` fails."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a log line must not fail, whatever __str__ does
        return f"<{type(value).__name__}>"


def trace(error: BaseException, *, with_messages: bool) -> str:
    """Format a traceback; without messages, which may quote input: files, lines and types."""
    if with_messages:
        return "".join(traceback.format_exception(error)).rstrip()
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        parts.append(_frames(current.__traceback__) + type(current).__qualname__)
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return "\n\ncaused, or was raised while handling:\n".join(reversed(parts))


def _frames(tb: TracebackType | None) -> str:
    return "".join(
        f"{frame.filename}:{frame.lineno} in {frame.name}\n" for frame in traceback.extract_tb(tb)
    )
