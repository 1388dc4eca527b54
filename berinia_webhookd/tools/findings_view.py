"""Shows findings of `doctor` and `check-config` as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import click

from berinia_webhookd.findings import Finding, Level
from berinia_webhookd.status.findings.installation import AS_DAEMON
from berinia_webhookd.tools.terminal import headed, printable, terminal_width

COLOURS: Final = {
    Level.OK: "green",
    Level.NOTE: "cyan",
    Level.WARNING: "yellow",
    Level.WRONG: "red",
}
_WIDTH: Final = max(map(len, Level))
_LONGEST_SUBJECT: Final = 12  # longer ones do not widen the column
_MARGIN: Final = " " * (_WIDTH + 2)


def lines(findings: Sequence[Finding], *, of: Sequence[Finding] | None = None) -> Iterator[str]:
    """Yield findings as lines, and one that sums up all of them, or those in `of`."""
    width = terminal_width()
    subjects = [len(finding.subject) for finding in findings]
    column = max((length for length in subjects if length <= _LONGEST_SUBJECT), default=0)
    for finding in findings:
        level = click.style(f"{finding.level.value:<{_WIDTH}}", fg=COLOURS[finding.level])
        subject = printable(finding.subject)
        head = f"{level}  {click.style(f'{subject:<{column}}', bold=True)}  "
        yield from headed(head, finding.what, width, len(_MARGIN))
        if finding.why is not None:
            yield from _detail(click.style("why:", dim=True), finding.why, width)
        for step in finding.fix:
            yield from _detail(click.style("fix:", fg="cyan"), step, width)
    yield ""
    yield _summary(findings if of is None else of)


def _detail(label: str, text: str, width: int) -> Iterator[str]:
    margin = len(_MARGIN) + len(click.unstyle(label)) + 1
    return headed(f"{_MARGIN}{label} ", text, width, margin)


def _summary(findings: Sequence[Finding]) -> str:
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    warnings = f", {_counted(counts[Level.WARNING], 'warning')}" if counts[Level.WARNING] else ""
    if not counts[Level.WRONG]:
        unseen = any(AS_DAEMON in finding.fix for finding in findings)
        rest = f", as far as this user may look; the rest: {AS_DAEMON}" if unseen else ""
        return click.style("nothing is wrong", fg="green") + warnings + rest
    return click.style(_counted(counts[Level.WRONG], "thing") + " wrong", fg="red") + warnings


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")
