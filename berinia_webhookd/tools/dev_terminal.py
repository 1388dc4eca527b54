"""What `serve --dev` shows while it runs: one line a message, and what keeps messages from their
agents. The log says when there is something to show, the journal what was in the message; nothing
is changed. With `--debug` the log itself is on the screen instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click
import wcwidth

from berinia_webhookd.app import Parts
from berinia_webhookd.clock import now
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.model import EntryKind, EventId
from berinia_webhookd.status.durations import duration
from berinia_webhookd.supervision import in_thread_of_its_own
from berinia_webhookd.tools.terminal import one_line

MOST_WAITING: Final = 1000  # lines of the log
HEADINGS: Final = ("UTC", "channel", "sender", "message", "agent", "outcome", "took")
INDENT: Final = " " * 9
LONG_MS: Final = 10_000
# What events of the log say became of a message, besides those of attempts.
OUTCOMES: Final = {
    "event.skipped": "skipped",
    "event.duplicate": "repeated",
    "signature.invalid": "refused",
    "address.refused": "refused",
    "delivery.rejected": "unreadable",
    "item.rejected": "unreadable",
}
COLOURS: Final = {"done": "green", "waits": "yellow", "skipped": None, "repeated": None}
# By the line of the attempt, by that of the agent, or by `check-config`.
SAID_ALREADY: Final = frozenset(
    {"entry.dead", "agent.failing", "agent_host.killed", "config.warning"}
)
PROBLEMS: Final = frozenset({"warning", "error", "critical"})
REASONS: Final = ("diagnosis", "error", "problems", "reason", "detail")

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message, in a word, and what there is to say below it."""

    word: str
    said: str = ""


class DevTerminal:
    """Shows one line a message while `run` runs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lines: asyncio.Queue[Line] = asyncio.Queue(MOST_WAITING)
        self._missed = 0
        self._said: set[str] = set()  # why agents do not load, since the last reload

    async def run(self) -> None:
        """Show what happens, for ever; a terminal that is stopped stops nothing else."""
        loop = asyncio.get_running_loop()

        def hear(line: Line) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._take, line)

        self._parts.logs.listener = hear
        try:
            await _write(_row(HEADINGS))
            while True:
                line = await self._lines.get()
                for text in await self._shown(line):
                    await _write(text)
                if self._missed and self._lines.empty():
                    missed, self._missed = self._missed, 0
                    await _write(f"{INDENT}… and {missed} more lines in the log")
        finally:
            self._parts.logs.listener = None

    def _take(self, line: Line) -> None:
        if self._lines.full():
            self._missed += 1
        else:
            self._lines.put_nowait(line)

    async def _shown(self, line: Line) -> list[str]:
        outcome = self._outcome(line)
        if outcome is not None:
            return list(_below(await self._message(line, outcome), outcome.said))
        if line["event"] == "config.reloaded":
            self._said.clear()
        return list(self._about_agents(line))

    def _outcome(self, line: Line) -> Outcome | None:
        """What a line says of a message; None: nothing, or not enough."""
        event = line["event"]
        if event == "attempt.succeeded" and line.get("kind") != EntryKind.REPLY:
            return Outcome("done")
        if event == "attempt.failed":
            return Outcome(str(line["outcome"]), _failure(line))
        if event == "event.accepted":
            missing = line.get("agent") in self._parts.outbound.availability.reasons
            return Outcome("waits", "its agent cannot be loaded") if missing else None
        return Outcome(OUTCOMES[event], _reason(line)) if event in OUTCOMES else None

    async def _message(self, line: Line, outcome: Outcome) -> str:
        event = await self._event(line.get("event_id"))
        words = event.get("body") or event.get("subject") or ""
        gathered = f"({line['gathered']}) " if "gathered" in line else ""
        took = line.get("duration_ms")
        cells = (
            _time(line),
            str(line.get("channel", "")),
            str(event.get("sender") or line.get("client") or ""),
            gathered + words,
            str(line.get("agent") or ""),
            outcome.word,
            "" if took is None else _took(took),
        )
        return _row(cells, colour=COLOURS.get(outcome.word, "red"))

    async def _event(self, event_id: object) -> Mapping[str, Any]:
        """What is in the message, as far as the journal can say."""
        if not isinstance(event_id, str):
            return {}
        try:
            shown = await self._parts.journal.show(EventId(event_id))
        except JournalUnavailable:
            return {}
        return (shown.data if shown is not None else None) or {}

    def _about_agents(self, line: Line) -> Iterator[str]:
        """What a line says that is of no one message; why agents do not load, once a reload."""
        event, said = line["event"], _reason(line)
        if event == "agents.reloaded" and not line.get("outdated") and not line.get("unavailable"):
            yield f"{_time(line)} the agents are loaded anew"
        if line["level"] not in PROBLEMS or event in SAID_ALREADY:
            return
        if event.startswith("agent."):
            if said in self._said:
                return
            self._said.add(said)
        text = one_line(f"{event}: {said}" if said else event, _width() - len(INDENT))
        yield f"{_time(line)} {click.style(text, fg='red')}"


def _below(first: str, said: str) -> Iterator[str]:
    yield first
    if said:
        yield INDENT + one_line(said, _width() - len(INDENT))


def _failure(line: Line) -> str:
    due = line.get("due_at")
    if due is None:
        return f"{_reason(line)}; not tried again".lstrip("; ")
    try:
        seconds = max(0.0, (datetime.fromisoformat(str(due)) - now()).total_seconds())
    except ValueError:
        return f"{_reason(line)}; again at {due}".lstrip("; ")
    return f"{_reason(line)}; again in {duration(seconds)}".lstrip("; ")


def _reason(line: Line) -> str:
    """The last line of a traceback says what happened."""
    for name in REASONS:
        said = line.get(name)
        if isinstance(said, Mapping):
            said = said.get("detail")
        if isinstance(said, list):
            said = "; ".join(map(str, said))
        if said:
            return str(said).strip().rpartition("\n")[2]
    return ""


def _time(line: Line) -> str:
    return str(line["timestamp"])[11:19]


def _took(milliseconds: float) -> str:
    if milliseconds >= LONG_MS:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms"


def _row(cells: tuple[str, ...], *, colour: str | None = None) -> str:
    """One line of the terminal's width."""
    width = _width()
    widths = [8, 8, 13, 0, min(21, width // 6), 11, 7]
    widths[3] = max(8, width - sum(widths) - len(widths) + 1)
    *shown, took = (one_line(cell, room) for cell, room in zip(cells, widths, strict=True))
    gaps = [
        " " * (room + 1 - wcwidth.width(text)) for text, room in zip(shown, widths, strict=False)
    ]
    shown[-1] = click.style(shown[-1], fg=colour)
    line = "".join(text + gap for text, gap in zip(shown, gaps, strict=True))
    return (line + f"{took:>{widths[-1]}}").rstrip()


def _width() -> int:
    return shutil.get_terminal_size().columns  # $COLUMNS, else the terminal's, else 80


async def _write(text: str) -> None:
    await in_thread_of_its_own(lambda: click.echo(text, err=True))
