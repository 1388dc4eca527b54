"""Formats what commands print: text without control characters, wrapped lines, columns, JSON."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import click
import wcwidth

from berinia_webhookd.logs.control_characters import escape_controls, escape_controls_in_json

COLOURS: Final[Mapping[str, str]] = {
    "ready": "cyan",
    "running": "blue",
    "waiting": "yellow",
    "done": "green",
    "dead": "red",
    "skipped": "bright_black",
    "discarded": "bright_black",
    "erased": "bright_black",
    "rejected": "magenta",
}
_CODE: Final = re.compile(r"`[^`\n]+`")


def printable(text: str) -> str:
    """Escape control characters, but for line ends."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    return escape_controls(text, keep_line_ends=True)


def one_line(text: str, limit: int) -> str:
    """Do the same, on one line of at most `limit` columns of the terminal."""
    line = printable(" ".join(text[: 4 * limit].split()))
    if wcwidth.width(line) <= limit:
        return line
    return wcwidth.clip(line, 0, max(0, limit - 1)).rstrip() + "…"[:limit]


def terminal_width() -> int:
    """Return $COLUMNS, else the columns of the terminal, else 80."""
    return shutil.get_terminal_size().columns


def wrapped(
    text: str, width: int, first: int, margin: int, *, whole_words: bool = True
) -> list[str]:
    """Break at blanks, but not inside backquotes; the first line begins in column `first`, the
    others in column `margin`. Words that are too long stay whole, as they are to be copied, or do
    not.
    """
    whole = _CODE.sub(lambda code: code[0].replace(" ", "\N{NO-BREAK SPACE}"), printable(text))
    found: list[str] = []
    for paragraph in whole.splitlines() or [""]:
        begin = " " * (max(0, first - margin) if not found else 0)
        found += textwrap.wrap(
            paragraph,
            max(20, width - margin),
            initial_indent=begin,
            break_long_words=not whole_words,
            break_on_hyphens=False,
        ) or [""]
    found[0] = found[0].lstrip()
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in found]


def headed(head: str, text: str, width: int, margin: int) -> Iterator[str]:
    """Yield a text behind its head, which may be styled, or below where its first word does not
    fit; it goes on in column `margin`.
    """
    start = _width(head)
    if start + _width(text.partition(" ")[0]) > width:
        yield head.rstrip()
        yield from (" " * margin + line for line in wrapped(text, width, margin, margin))
        return
    first, *more = wrapped(text, width, start, margin)
    yield f"{head}{first}".rstrip()
    yield from (" " * margin + line for line in more)


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return JSON that is safe on a terminal."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_for_json)
    return escape_controls_in_json(text)


def coloured_state(state: str) -> str:
    """Return the state in its colour."""
    return click.style(state, fg=COLOURS.get(state))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align rows; cells may be styled."""
    if not rows:
        return []
    widths = [max(_width(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(map(_padded, row, widths)).rstrip() for row in rows]


def fitted(rows: Sequence[Sequence[str]], width: int, *, indent: int = 0) -> Iterator[str]:
    """Align rows within a width: the last cell goes on below itself, and what follows a first one
    that takes over half of the width stands below that.
    """
    if not rows:
        return
    most = (width - indent) // 2
    firsts = [size for row in rows if (size := _width(row[0])) <= most]
    widths = [max(firsts, default=0)]
    widths += [max(_width(row[index]) for row in rows) for index in range(1, len(rows[0]) - 1)]
    margin = indent + sum(widths) + 2 * len(widths)
    for first, *between, last in rows:
        begin = [first]
        if _width(first) > widths[0]:
            yield " " * indent + first
            begin = [""]
        cells = map(_padded, [*begin, *between], widths)
        plain = click.unstyle(last)
        style = partial(last.replace, plain)
        beside, at = " " * indent + "  ".join([*cells, ""]), margin
        if max(map(_width, plain.split()), default=0) > width - margin:
            yield beside.rstrip()  # a path is copied whole
            beside, at = " " * (indent + 4), indent + 4
        here, *more = wrapped(plain, width, at, at, whole_words=False)
        yield (beside + style(here)).rstrip()
        yield from (" " * at + style(line) for line in more)


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def _width(cell: str) -> int:
    return wcwidth.width(click.unstyle(cell))


def utc(instant: datetime) -> str:
    """Return an instant as `2026-03-01 12:00:00.123 UTC`."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{instant.microsecond // 1000:03d} UTC"


def _for_json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
