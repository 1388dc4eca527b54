"""What hides people in the logs: phone numbers, e-mail addresses and message text.

It works on text of whatever origin, so it prefers to hide too much. It keeps identifiers, addresses
of machines and instants, which an operator needs to follow one message.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final

HIDDEN: Final = "•••"
SHORTEST_VALUE: Final = 3  # shorter values of an event are too common to look for in text
LONGEST_TEXT: Final = 65_536

# Log keys that hold people, whatever their value.
PERSONAL_KEYS: Final = frozenset(
    {
        *("sender", "recipient", "author", "profile_name", "group", "subject"),
        *("body", "text", "content", "reply", "response", "payload"),
    }
)
# Log keys whose values are ours, and hold nothing of a stranger's making.
OWN_KEYS: Final = frozenset(
    {
        *("timestamp", "level", "event", "request_id", "event_id", "channel", "agent", "client"),
        *("address", "version", "due_at", "kind", "outcome", "setting", "pid", "node"),
    }
)
EMAIL: Final = re.compile(r"[\w.+%'-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
PHONE: Final = re.compile(r"(?<![\w.-])\+?\d(?:[ ().\u00a0-]{0,2}\d){7,14}(?![\w-])")
# What looks like a phone number and is not: instants and addresses of machines.
MACHINE: Final = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,3}(?:\.\d{1,3}){3}")


def scrub(text: str) -> str:
    """The text without e-mail addresses and phone numbers in any of their spellings."""
    if "@" in text:
        text = EMAIL.sub(HIDDEN, text)
    return PHONE.sub(_unless_of_a_machine, text)


def _unless_of_a_machine(match: re.Match[str]) -> str:
    return match[0] if MACHINE.fullmatch(match[0]) else HIDDEN


def masker(values: Iterable[object]) -> Callable[[str], str]:
    """A function that hides these values of an event, and what `scrub` hides, wherever they stand
    in a text: for what agents print and raise.
    """
    texts = sorted(_texts(values), key=len, reverse=True)
    if not texts:
        return scrub
    pattern = re.compile("|".join(map(re.escape, texts)), re.IGNORECASE)
    return lambda text: scrub(pattern.sub(HIDDEN, text[:LONGEST_TEXT]))


def _texts(values: Iterable[object]) -> set[str]:
    """The values as they stand, trimmed, line by line, and as `repr` and JSON spell them."""
    found: set[str] = set()
    for value in values:
        if isinstance(value, Mapping):
            found |= _texts(value.values())
        elif isinstance(value, list | tuple):
            found |= _texts(value)
        elif isinstance(value, str):
            text = value[:LONGEST_TEXT].strip()
            spelled = (text, repr(text)[1:-1], text.encode("unicode_escape").decode("ascii"))
            for spelling in (*spelled, *text.splitlines()):
                if len(spelling.strip()) >= SHORTEST_VALUE:
                    found.add(spelling.strip())
    return found


def hide(key: str, value: Any) -> Any:
    """One value of a log line as it may be written."""
    if key in OWN_KEYS:
        return value
    if key in PERSONAL_KEYS:
        return HIDDEN if value not in (None, "") else value
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {name: hide(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [hide("", item) for item in value]
    return value


def trace(error: BaseException, *, with_messages: bool) -> str:
    """The traceback; without messages it keeps files, lines and types, for messages quote input."""
    if with_messages:
        return "".join(traceback.format_exception(error))
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
