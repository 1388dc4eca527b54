"""Lists events, fitted to the width of the terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
import wcwidth

from berinia_webhookd.journal.queries import Content, Listed
from berinia_webhookd.model import EntryKind
from berinia_webhookd.tools.event_view import PLAIN
from berinia_webhookd.tools.terminal import coloured_state, columns, one_line, terminal_width

NARROWEST: Final = 60  # columns
HEADINGS: Final = ("ID", "TIME UTC", "STATE", "CHANNEL", "AGENT", "SENDER", "TEXT")
LONGEST_ID: Final = 18
GAP: Final = 2
DASH: Final = " — "  # between the subject of a mail and its text
PHONE: Final = 12  # most numbers are no longer
INDENT: Final = "    "
LONGEST: Final = {"CHANNEL": 10, "AGENT": 24, "SENDER": 24}


def listed_json(listed: Listed) -> dict[str, Any]:
    """Return one element of `events list --json`."""
    content = listed.content or Content()
    return {
        "id": listed.id,
        "state": listed.state,
        "channel": listed.channel,
        "kind": listed.kind,
        "agent": listed.agent,
        "sender": content.sender,
        "recipient": content.recipient,
        "group": content.group,
        "message_id": content.message_id,
        "subject": content.subject,
        "text": content.text,
        "error": content.error,
        "received_at": listed.received_at,
        "attempts": listed.attempts,
        "entry": listed.entry,
        "reason": listed.reason,
        "may_have_acted": listed.may_have_acted,
        "gathered_into": listed.gathered_into,
    }


def list_lines(found: Sequence[Listed], short: Mapping[str, str], now: datetime) -> list[str]:
    """Return aligned columns under a heading; below an event its state in words, and its error. Ids
    that can be told apart only by much of them stand above, and leave their room to the text.
    """
    width = max(NARROWEST, terminal_width())
    today = all(one.received_at.astimezone(UTC).date() == now.date() for one in found)
    rows = [[one_line(cell, width) for cell in _cells(one, short, today=today)] for one in found]
    above: list[list[str]] = [[] for _ in rows]
    if any(len(row[0]) > LONGEST_ID for row in rows):
        above = [[row[0]] for row in rows]
        rows = [["", *row[1:]] for row in rows]
    room = _room(rows, width)
    heading = [one_line(name, most) for name, most in zip(HEADINGS, room, strict=True)]
    table = [[one_line(cell, most) for cell, most in zip(row, room, strict=True)] for row in rows]
    for one, cells in zip(found, table, strict=True):
        cells[2] = coloured_state(cells[2])
        cells[-1] = _text(one, room[-1])
    first, *lines = columns([[click.style(name, bold=True) for name in heading], *table])
    below = [_below(one, short, width) for one in found]
    told = zip(above, lines, below, strict=True)
    return [first, *(text for id_, line, more in told for text in (*id_, line, *more))]


def _cells(one: Listed, short: Mapping[str, str], *, today: bool) -> list[str]:
    content = one.content or Content()
    at = one.received_at.astimezone(UTC)
    return [
        short.get(one.id, one.id),
        f"{at:%H:%M:%S}" if today else f"{at:%m-%d %H:%M}",
        one.state,
        one.channel,
        one.agent or "-",
        content.sender or "-",
        DASH.join(part for part in (content.subject, content.text) if part),
    ]


def _text(one: Listed, room: int) -> str:
    """Of a mail the beginning of its subject and that of its words, whatever room there is."""
    content = one.content or Content()
    subject, text = one_line(content.subject or "", room), one_line(content.text or "", room)
    if subject and text:
        left = room - len(DASH)
        subject = one_line(subject, max(left // 2, left - wcwidth.width(text))) + DASH
    return one_line(subject + text, room)


def _room(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the columns that each cell may take: the text gets what the others leave."""
    natural = [max(map(wcwidth.width, column)) for column in zip(HEADINGS, *rows, strict=True)]
    room = [
        min(most, LONGEST.get(name, most)) for name, most in zip(HEADINGS, natural, strict=True)
    ]
    *fixed, agent, sender, _ = room
    left = width - sum(fixed) - GAP * (len(HEADINGS) - 1)
    agent = min(agent, left // 4)
    sender = min(sender, max(left // 3, min(PHONE, left // 2)))
    return [*fixed, agent, sender, left - agent - sender]


def _below(one: Listed, short: Mapping[str, str], width: int) -> Iterator[str]:
    """The line below a row, where there is anything to say."""
    into = one.gathered_into and f"goes with {short.get(one.gathered_into, one.gathered_into)}"
    error = (one.content or Content()).error
    parts = [
        "late reply" if one.entry == EntryKind.REPLY else None,
        None if one.kind in PLAIN else one.kind,
        f"{one.attempts} attempts" if one.attempts > 1 else None,
        "may have acted" if one.may_have_acted else None,
        "; ".join(part for part in (one.reason and last_line(one.reason), into) if part),
        error and last_line(error),
    ]
    told = "; ".join(dict.fromkeys(part for part in parts if part))  # a receipt is skipped as one
    if told:
        line = one_line(told, width - len(INDENT))
        yield INDENT + click.style(line, fg="red" if error else "yellow")


def last_line(text: str) -> str:
    """Return the last line of a traceback, which says what happened."""
    return (text.strip().splitlines() or [""])[-1]
