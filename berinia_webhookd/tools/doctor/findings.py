"""What a check has to say: what is so, why it matters, and what mends it. How findings are printed
is here as well; what is found is the checks' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import click

from berinia_webhookd.tools.terminal import printable


class Level(StrEnum):
    """How bad it is; only `wrong` makes `doctor` fail."""

    OK = "ok"
    NOTE = "note"  # could not be looked at, or only good to know
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a check saw."""

    check: str
    level: Level
    what: str
    why: str | None = None
    mend: tuple[str, ...] = ()  # commands and lines, in the order of use

    def document(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "check": self.check,
            "level": self.level.value,
            "what": self.what,
            "why": self.why,
            "mend": list(self.mend),
        }


@dataclass(frozen=True, slots=True)
class Reporter:
    """Makes one check's findings."""

    check: str

    def ok(self, what: str) -> Finding:
        """All is well."""
        return Finding(self.check, Level.OK, what)

    def note(self, what: str, *mend: str, why: str | None = None) -> Finding:
        """Nothing is wrong; good to know, or not looked at."""
        return Finding(self.check, Level.NOTE, what, why, mend)

    def warning(self, what: str, *mend: str, why: str) -> Finding:
        """It works and will hurt."""
        return Finding(self.check, Level.WARNING, what, why, mend)

    def wrong(self, what: str, *mend: str, why: str) -> Finding:
        """It does not work."""
        return Finding(self.check, Level.WRONG, what, why, mend)


COLOURS: Final = {
    Level.OK: "green",
    Level.NOTE: "cyan",
    Level.WARNING: "yellow",
    Level.WRONG: "red",
}
_WIDTH: Final = max(map(len, Level))


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings for people, in the order of the checks, and one line that sums them up."""
    column = max((len(finding.check) for finding in findings), default=0)
    margin = " " * (_WIDTH + column + 4)
    for finding in findings:
        level = click.style(f"{finding.level.value:<{_WIDTH}}", fg=COLOURS[finding.level])
        check = click.style(f"{finding.check:<{column}}", bold=True)
        yield f"{level}  {check}  {_indented(finding.what, margin)}"
        if finding.why is not None:
            yield f"{margin}{click.style('why:', dim=True)}  {_indented(finding.why, margin)}"
        for step in finding.mend:
            yield f"{margin}{click.style('mend:', fg='cyan')} {_indented(step, margin)}"
    yield ""
    yield _summary(findings)


def _indented(text: str, margin: str) -> str:
    return printable(text).replace("\n", f"\n{margin}      ")


def _summary(findings: Sequence[Finding]) -> str:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    warnings = f", {_counted(counts[Level.WARNING], 'warning')}" if counts[Level.WARNING] else ""
    if not counts[Level.WRONG]:
        return click.style("nothing is wrong", fg="green") + warnings
    return click.style(_counted(counts[Level.WRONG], "thing") + " wrong", fg="red") + warnings


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")
