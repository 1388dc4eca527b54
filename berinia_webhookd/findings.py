"""A finding: the result of a check of settings, machine or daemon, as `check-config` and `doctor`
print it. It imports nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is; only `wrong` makes a command fail."""

    OK = "ok"
    NOTE = "note"  # good to know, or could not be checked
    WARNING = "warning"  # works, and will hurt
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, why it matters, and how to fix it."""

    level: Level
    subject: str  # the setting, or the check
    what: str
    why: str | None = None
    fix: tuple[str, ...] = ()  # in the order of use; what is to be typed stands in backquotes,
    # or alone where it is short
    follows: tuple[str, ...] = ()  # from what these checks may find, and is nothing by itself then

    @property
    def fields(self) -> dict[str, object]:
        """What programs are told of it."""
        shown = ("subject", "level", "what", "why", "fix")
        return {name: getattr(self, name) for name in shown}

    def __str__(self) -> str:
        fixes = f" ({'; '.join(self.fix)})" if self.fix else ""
        return f"{self.subject}: {self.what}{fixes}"


def joined(names: Iterable[str]) -> str:
    """Return names as one writes them: `a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def ok(subject: str, what: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, subject, what)


def note(subject: str, what: str, *fix: str, why: str | None = None) -> Finding:
    """Return a finding that is good to know, or that something could not be checked."""
    return Finding(Level.NOTE, subject, what, why, fix)


def warning(subject: str, what: str, *fix: str, why: str | None = None) -> Finding:
    """Return a finding about something that works, but will cause trouble."""
    return Finding(Level.WARNING, subject, what, why, fix)


def wrong(subject: str, what: str, *fix: str, why: str | None = None) -> Finding:
    """Return a finding about something that does not work."""
    return Finding(Level.WRONG, subject, what, why, fix)
