"""Shows conversations on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import click

from berinia_webhookd.journal.conversations import (
    ConversationState,
    NextEntry,
    ShownConversation,
)
from berinia_webhookd.journal.pause import EVERYBODY, Paused
from berinia_webhookd.journal.show import Shown, ShownAttempt
from berinia_webhookd.model import EntryKind, EntryState
from berinia_webhookd.status.durations import age, duration
from berinia_webhookd.tools.event_view import ROUTES
from berinia_webhookd.tools.event_view import shown_json as event_json
from berinia_webhookd.tools.terminal import (
    coloured_state,
    columns,
    one_line,
    printable,
    terminal_width,
    utc,
)

WHO_CHARACTERS: Final = 32  # what the other columns leave of 80
INDENT: Final = " " * 18  # under the text after a time
_HEADINGS: Final = ("ID", "CHANNEL", "WHO", "HELD", "OPEN", "LAST")


def list_lines(found: Sequence[ConversationState], now: datetime) -> list[str]:
    """Return aligned columns under a heading."""
    heading = [click.style(name, bold=True) for name in _HEADINGS]
    rows = [
        [
            str(one.id),
            one.channel,
            _who(one, WHO_CHARACTERS),
            _held(one),
            str(one.ready + one.waiting + one.running),
            "-" if one.last_received_at is None else age(one.last_received_at, now),
        ]
        for one in found
    ]
    return columns([heading, *rows])


def _who(state: ConversationState, limit: int) -> str:
    sender = "everybody" if state.sender == EVERYBODY else (state.sender or "(erased)")
    party = state.party or ""
    if len(sender) + len(party) + 3 > limit:  # the sender matters more
        party = one_line(party, max(8, limit - len(sender) - 3))
    return one_line(f"{sender} > {party}" if party else sender, limit)


def _held(state: ConversationState) -> str:
    guards = [reason.partition(":")[0] for reason in state.held]  # `conversations show` has it all
    words = [*(["paused"] if state.paused else []), *guards]
    return click.style(", ".join(words) or "-", fg="yellow" if words else None)


def shown_json(shown: ShownConversation) -> dict[str, Any]:
    """Return one element of `conversations show --json`."""
    return {
        **asdict(shown.state),
        "messages": [event_json(message) for message in shown.messages],
        "next": [asdict(one) for one in shown.next],
    }


def show_lines(shown: ShownConversation, now: datetime) -> Iterator[str]:
    """Yield who it is with and what holds it, then the messages, then what is next."""
    state, width = shown.state, terminal_width()
    title = f"{state.id}  {state.channel}  "
    yield click.style(f"{title}{_who(state, width - len(title))}", bold=True)
    if state.paused is not None:
        yield from _paused_lines(state.paused, now)
    for reason in state.held:
        yield click.style(f"held: {printable(reason)}", fg="yellow")
    yield ""
    for message in shown.messages:
        yield from _message_lines(message, width)
    if not shown.messages:
        yield "Nothing was said yet."
    yield ""
    yield from _next_lines(shown, now)


def _paused_lines(paused: Paused, now: datetime) -> Iterator[str]:
    yield click.style(f"paused by {printable(paused.by)}, {age(paused.since, now)}", fg="yellow")
    if paused.until is not None:
        left = (paused.until - now).total_seconds()
        end = f"in {duration(left)}" if left > 0 else "over"
        yield f"until {utc(paused.until)} ({end})"
    else:
        yield "until `conversations resume`"
    if paused.reason:
        yield f"because: {one_line(paused.reason, 500)}"


def _message_lines(message: Shown, width: int) -> Iterator[str]:
    text = "(erased)" if message.data is None else str(message.data.get("body", ""))
    yield _line(message.received_at, "<", text, width)
    yield f"{INDENT}{click.style(message.id, dim=True)}  {coloured_state(message.state)}"
    last = _last_attempt(message)
    if message.state != EntryState.DONE and last is not None and last.error:
        yield INDENT + one_line(last.error.strip().splitlines()[-1], width - len(INDENT))
    if last is not None and last.reply:
        yield _line(last.ended_at, ">", last.reply, width)
        yield f"{INDENT}not sent: nobody was waiting"
    if message.reply is not None:
        yield _line(message.reply.decided_at, ">", message.reply.text, width)
        if message.reply.route != "inline":
            yield f"{INDENT}{ROUTES.get(message.reply.route, '')}"


def _last_attempt(message: Shown) -> ShownAttempt | None:
    attempts = [
        one for entry in message.entries if entry.kind == EntryKind.AGENT for one in entry.attempts
    ]
    return attempts[-1] if attempts else None


def _line(at: datetime, arrow: str, text: str, width: int) -> str:
    start = f"{at.astimezone(UTC):%Y-%m-%d %H:%M}  {arrow} "
    return start + one_line(text, width - len(start))


def _next_lines(shown: ShownConversation, now: datetime) -> Iterator[str]:
    for one in shown.next:
        late = " (late reply)" if one.kind == EntryKind.REPLY else ""
        yield f"next for {printable(one.agent)}{late}: {_when(one, now)}"
        yield f"    {one.id}"
    if not shown.next:
        yield "next: nothing, until it is resumed" if _is_held(shown) else "next: nothing"


def _is_held(shown: ShownConversation) -> bool:
    state = shown.state
    return bool(state.paused or state.held) and state.ready + state.waiting > 0


def _when(one: NextEntry, now: datetime) -> str:
    if one.state == EntryState.RUNNING:
        return "runs now"
    left = 0.0 if one.startable_at is None else (one.startable_at - now).total_seconds()
    return "at once" if left <= 0 else f"in {duration(left)}"
