"""Shows events and what happened to them, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import click

from berinia_webhookd.journal.contract import Statistics
from berinia_webhookd.journal.rejected_items import why_rejected
from berinia_webhookd.journal.show import (
    Shown,
    ShownAction,
    ShownAttempt,
    ShownEntry,
    ShownReply,
)
from berinia_webhookd.model import EntryKind, EntryState, EventKind
from berinia_webhookd.status.durations import age, duration
from berinia_webhookd.tools.terminal import (
    coloured_state,
    columns,
    json_text,
    one_line,
    printable,
    utc,
)

LINE_CHARACTERS: Final = 200
INDENT: Final = "    "
# Shown at the top, or of no interest to people.
_NOT_LISTED: Final = frozenset({"channel", "agent", "digest", "received_at", "body"})
_ENDED: Final = frozenset(
    {
        EntryState.DONE,
        EntryState.DEAD,
        EntryState.SKIPPED,
        EntryState.DISCARDED,
        EntryState.ERASED,
    }
)


PLAIN: Final = {EventKind.MESSAGE, None}  # kinds that are not shown


def shown_json(shown: Shown) -> dict[str, Any]:
    """Return `events show --json`, and a line of `events export`."""
    entry = _entry(shown, EntryKind.AGENT)
    late = _entry(shown, EntryKind.REPLY)
    return {
        "id": shown.id,
        "state": shown.state,
        "channel": shown.channel,
        "agent": shown.agent,
        "kind": shown.kind,
        "skipped": shown.skipped,
        "received_at": shown.received_at,
        "node": shown.node,
        "content_type": shown.content_type,
        "body_bytes": shown.body_bytes,
        "attempts": [],
        **(_entry_json(entry) if entry else {}),
        "data": shown.data,
        "rejection": shown.rejection,
        "events": shown.events,
        "actions": [asdict(one) for one in shown.actions],
        "reply": asdict(shown.reply) if shown.reply else None,
        "late_reply": {"state": late.state, **_entry_json(late)} if late else None,
    }


def _entry_json(entry: ShownEntry) -> dict[str, Any]:
    plain = asdict(entry)
    for known in ("kind", "agent", "state", "node"):
        del plain[known]
    return {**plain, "attempts": [_attempt_json(attempt) for attempt in entry.attempts]}


def _attempt_json(attempt: ShownAttempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "duration_ms": round(_seconds(attempt) * 1000, 3),
        "node": attempt.node,
        "error": attempt.error,
        "reply": attempt.reply,
    }


def show_lines(shown: Shown, now: datetime) -> Iterator[str]:
    """Yield the event, its timeline, and its data."""
    agent = f" → {printable(shown.agent)}" if shown.agent else ""
    kind = "" if shown.kind in PLAIN else f" {shown.kind}"
    yield f"{click.style(shown.id, bold=True)}  {coloured_state(shown.state)}"
    yield f"{shown.channel}{kind}{agent}"
    if shown.skipped is not None:
        yield f"skipped: {printable(shown.skipped)} (channels.{shown.channel}.skip or .block)"
    yield ""
    yield from _timeline(shown, now)
    yield ""
    yield from _data_lines(shown)


def _attachment_lines(attachments: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "attachments:"
    heading = tuple(click.style(name, bold=True) for name in ("NAME", "TYPE", "BYTES", "SHA-256"))
    rows = [
        (
            one_line(str(one.get("file_name") or "-"), 60),
            one_line(str(one.get("content_type")), 60),
            str(one.get("size_bytes")),
            str(one.get("sha256"))[:16] + "…",
        )
        for one in attachments
    ]
    yield from (INDENT + line for line in columns([heading, *rows]))


def _timeline(shown: Shown, now: datetime) -> Iterator[str]:
    yield from _arrival(shown, now)
    happened = [one for entry in shown.entries for one in _ended(entry)]
    happened += [(one.done_at, _action_lines(one)) for one in shown.actions]
    if shown.reply is not None:
        happened.append((shown.reply.decided_at, _reply_lines(shown.reply)))
    for _, lines in sorted(happened, key=lambda one: one[0]):
        yield from lines
    for entry in shown.entries:
        yield from _now(entry, now)


Happened = tuple[datetime, Sequence[str]]  # when, and the lines that say so


def _arrival(shown: Shown, now: datetime) -> Iterator[str]:
    size = "" if shown.body_bytes is None else f", {shown.body_bytes} bytes"
    when = f"{utc(shown.received_at)} ({age(shown.received_at, now)})"
    yield f"{when}  received by {printable(shown.node)}{size}"
    if shown.rejection is not None:
        yield f"{INDENT}rejected: {one_line(why_rejected(shown.rejection), 1000)}"
        for name, value in shown.rejection.get("values", {}).items():
            yield f"{INDENT}{printable(name)} was: {one_line(str(value), LINE_CHARACTERS)}"
    if shown.events:
        yield f"{INDENT}the rest of it became {', '.join(shown.events)}"
    for entry in shown.entries:
        if entry.gathered:
            yield f"{INDENT}with {len(entry.gathered)} before it: {', '.join(entry.gathered)}"
        if entry.gathered_into is not None:
            yield f"{INDENT}gathered: its attempts and its reply are those of {entry.gathered_into}"


def _reply_lines(reply: ShownReply) -> Sequence[str]:
    kind, text = "error" if reply.failed else "reply", one_line(reply.text, LINE_CHARACTERS)
    return [f"{utc(reply.decided_at)}  {kind} {ROUTES.get(reply.route, '')}: {text}"]


def _action_lines(action: ShownAction) -> Sequence[str]:
    where = " in the console" if action.way == "console" else ""
    return [f"{utc(action.done_at)}  {action.what}, by {printable(action.who)}{where}"]


ROUTES: Final = {
    "none": "for nobody",
    "inline": "given to the waiting caller",
    "late": "to be posted late",
    "undeliverable": "that can be delivered to nobody",
}


def _ended(entry: ShownEntry) -> Iterator[Happened]:
    """Its attempts, and its end where it has one that is known."""
    for attempt in entry.attempts:
        yield attempt.started_at, list(_attempt_lines(attempt, _what(entry)))
    if entry.state in _ENDED and entry.finished_at is not None:
        yield entry.finished_at, [f"{utc(entry.finished_at)}  {_standing(entry)}"]


def _attempt_lines(attempt: ShownAttempt, what: str) -> Iterator[str]:
    good = attempt.outcome == "success"
    outcome = click.style(attempt.outcome, fg="green" if good else "red")
    yield (
        f"{utc(attempt.started_at)}  {what}attempt {attempt.number}: {outcome}"
        f" after {duration(_seconds(attempt))} on {printable(attempt.node)}"
    )
    for name, text in (
        ("", attempt.error),
        ("reply (not sent: nobody was waiting): ", attempt.reply),
    ):
        if text:
            yield from (INDENT + name + line for line in printable(text).splitlines())


def _now(entry: ShownEntry, now: datetime) -> Iterator[str]:
    """What it waits for."""
    if entry.state not in _ENDED:
        yield f"now  {_standing(entry)}: {waiting_reason(entry, now)}"
    elif entry.finished_at is None:
        yield f"at an unknown time  {_standing(entry)}"


def _standing(entry: ShownEntry) -> str:
    doubt = ": its agent may have acted" if entry.may_have_acted else ""
    return f"{_what(entry)}{coloured_state(entry.state)}{doubt}"


def _what(entry: ShownEntry) -> str:
    return "late reply: " if entry.kind == EntryKind.REPLY else ""


def waiting_reason(entry: ShownEntry, now: datetime) -> str:
    """Return what an entry that has not ended waits for."""
    if entry.unavailable is not None:
        # `check-config` shows the whole traceback.
        last = (entry.unavailable.strip().splitlines() or [""])[-1]
        return f"the agent cannot be loaded: {one_line(last, LINE_CHARACTERS)}"
    if entry.held is not None:
        return f"held: {printable(entry.held)}"
    if entry.state == EntryState.WAITING and entry.due_at is not None:
        return f"tried again at {utc(entry.due_at)} ({_ahead(entry.due_at, now)})"
    if (burst := _burst_reason(entry, now)) is not None:
        return burst
    if entry.state == EntryState.RUNNING and entry.started_at is not None:
        node = printable(entry.node or "an unknown node")
        return f"attempt {len(entry.attempts) + 1} on {node} since {utc(entry.started_at)}"
    return "starts when the agent is free and earlier messages of its conversation let it"


def _burst_reason(entry: ShownEntry, now: datetime) -> str | None:
    if entry.gathered_into is not None:
        return "goes with the event that it is gathered into"
    if entry.gathers_until is not None and entry.gathers_until > now:
        return f"gathers until {utc(entry.gathers_until)}, longer if more is written"
    return None


def _ahead(instant: datetime, now: datetime) -> str:
    seconds = (instant - now).total_seconds()
    return f"in {duration(seconds)}" if seconds > 0 else "due"


def _data_lines(shown: Shown) -> Iterator[str]:
    if shown.data is None:
        if shown.rejection is None:
            yield "Its data is erased."
        return
    values = {k: v for k, v in shown.data.items() if k not in _NOT_LISTED and v not in _NOTHING}
    raw, attachments = values.pop("raw", None), values.pop("attachments", ())
    rows = [(f"{printable(name)}:", one_line(_as_text(v), 1000)) for name, v in values.items()]
    yield from columns(rows or [("",)])
    yield "body:"
    yield from (INDENT + line for line in printable(str(shown.data.get("body", ""))).splitlines())
    if attachments:
        yield from _attachment_lines(attachments)
    if raw:
        yield "raw:"
        fields = [(one_line(str(k), 60), one_line(_as_text(v), 1000)) for k, v in raw.items()]
        yield from (INDENT + line for line in columns(fields))


_NOTHING: Final[tuple[Any, ...]] = (None, "", [], {}, False)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value, indent=None)


def _seconds(attempt: ShownAttempt) -> float:
    return max(0.0, (attempt.ended_at - attempt.started_at).total_seconds())


def _entry(shown: Shown, kind: EntryKind) -> ShownEntry | None:
    return next((entry for entry in shown.entries if entry.kind == kind), None)


def statistics_lines(figures: Statistics, now: datetime) -> Iterator[str]:
    """Yield counts by channel, agent and state, then ages and rates."""
    heading = [click.style(name, bold=True) for name in ("CHANNEL", "AGENT", "STATE", "COUNT")]
    rows = [
        [
            count.channel,
            printable(count.agent) + (" (late reply)" if count.kind == EntryKind.REPLY else ""),
            coloured_state(count.state),
            str(count.count),
        ]
        for count in figures.counts
    ]
    yield from columns([heading, *rows])
    yield ""
    if figures.rejected:
        yield f"rejected deliveries: {figures.rejected}"
    for agent, failures in figures.failing_agents.items():
        yield f"{printable(agent)} failed on its last {failures} attempts"
    for reason, held in figures.held.items():
        yield f"conversations held, {printable(reason)}: {held.conversations}"
    for agent, since in figures.oldest_open_at.items():
        yield f"oldest waiting for {printable(agent)}: {age(since, now)}"
    yield (
        f"received: {figures.received_last_hour} in the last hour,"
        f" {figures.received_last_day} in the last day;"
        f" finished: {figures.finished_last_hour} in the last hour"
    )
