"""The complete data of one event or rejected delivery, for operators. It only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from berinia_webhookd import json_text
from berinia_webhookd.journal import event_text, guards, pause
from berinia_webhookd.journal.contract import MissingAgent
from berinia_webhookd.journal.database import Row, Transaction, as_record
from berinia_webhookd.journal.guards import HeldAgent
from berinia_webhookd.journal.queries import GIVEN_UP, missing_agents
from berinia_webhookd.model import EntryKind, EntryState


@dataclass(frozen=True, slots=True)
class ShownAttempt:
    """One attempt."""

    number: int
    node: str
    started_at: datetime
    ended_at: datetime
    outcome: str
    error: str | None
    reply: str | None


@dataclass(frozen=True, slots=True)
class ShownEntry:
    """One entry with its attempts."""

    place: int
    kind: str
    agent: str
    state: str
    created_at: datetime
    due_at: datetime | None  # waiting only
    hold_until: datetime | None
    lease_until: datetime | None  # running only
    node: str | None
    started_at: datetime | None
    finished_at: datetime | None
    retries: int
    losses: int
    may_have_acted: bool  # its at-most-once agent may have acted
    unavailable: str | None  # the reason why the agent cannot be loaded
    held: str | None  # the reason why a guard holds it
    gathers_until: datetime | None  # its earliest start while its conversation is not silent
    gathered_into: str | None  # the event whose attempts it shares
    gathered: tuple[str, ...]  # the events that share its attempts
    attempts: tuple[ShownAttempt, ...]


@dataclass(frozen=True, slots=True)
class ShownReply:
    """The agent's reply, and its route."""

    text: str
    route: str
    failed: bool
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class ShownAction:
    """A manual action on it."""

    done_at: datetime
    who: str
    way: str  # command, console
    what: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One event, or one delivery that was rejected, at least in part (no entries then)."""

    id: str
    state: str
    channel: str
    agent: str | None
    kind: str | None  # of an event: message, receipt, other
    received_at: datetime
    node: str
    content_type: str
    body_bytes: int | None  # None once erased
    skipped: str | None  # the channel's rule by which it was skipped
    data: dict[str, Any] | None  # the normalised event; None if erased, or rejected
    rejection: dict[str, Any] | None
    events: tuple[str, ...] = ()  # ids of the accepted events of a partly rejected delivery
    entries: tuple[ShownEntry, ...] = ()
    reply: ShownReply | None = None
    actions: tuple[ShownAction, ...] = ()

    @property
    def unsent(self) -> str | None:
        """The last reply of its agent that could not be sent, as nobody waited."""
        tries = [
            one for entry in self.entries if entry.kind == EntryKind.AGENT for one in entry.attempts
        ]
        return tries[-1].reply if tries else None


async def show_event(transaction: Transaction, event_id: str) -> Shown | None:
    """Return the data of one event; None if it is gone."""
    rows = await transaction.execute("show_event", id=event_id)
    if not rows:
        return None
    row, event = rows[0], rows[0]["number"]
    tries = await transaction.execute("show_attempts", event=event)
    entries = await transaction.execute("show_entries", event=event)
    notes = [one for one in await missing_agents(transaction) if not one.goes_on]
    held = await guards.held_agents(transaction)
    members = await transaction.execute("show_members", event=event)
    said = await transaction.execute("show_reply", event=event)
    of_agent = next(one for one in entries if one["kind"] == EntryKind.AGENT)
    return as_record(
        Shown,
        row,
        state=of_agent["state"],
        agent=of_agent["agent"],
        data=None if row["data"] is None else event_text.fields_of(row["data"], row["form"]),
        rejection=None,
        events=(),
        entries=tuple(_entry(one, tries, notes, held, members) for one in entries),
        reply=next((as_record(ShownReply, one, failed=bool(one["failed"])) for one in said), None),
        actions=await _actions(transaction, row),
    )


async def show_delivery(transaction: Transaction, delivery_id: str) -> Shown | None:
    """Return the data of a delivery that was rejected, at least in part; None if it is gone."""
    rows = await transaction.execute("show_delivery", id=delivery_id)
    if not rows:
        return None
    events = await transaction.execute("events_of_delivery", delivery=rows[0]["number"])
    return as_record(
        Shown,
        rows[0],
        rejection=json_text.decode(rows[0]["rejection"]),
        events=tuple(row["id"] for row in events),
        entries=(),
        actions=await _actions(transaction, rows[0]),
    )


async def _actions(transaction: Transaction, row: Row) -> tuple[ShownAction, ...]:
    about = {"since": row["received_at"], "id_in_json": f'%"{row["id"]}"%'}
    return tuple(
        as_record(ShownAction, one) for one in await transaction.execute("actions_on", **about)
    )


def _entry(
    row: Row,
    attempts: Sequence[Row],
    notes: Sequence[MissingAgent],
    held: Mapping[str, HeldAgent],
    members: Sequence[Row],
) -> ShownEntry:
    waits = row["state"] in {EntryState.READY, EntryState.WAITING}
    of_entry = [one for one in attempts if one["entry"] == row["place"]]
    return as_record(
        ShownEntry,
        row,
        may_have_acted=bool(row["began"]) and row["state"] in GIVEN_UP,
        unavailable=_why_unavailable(row["agent"], notes) if waits else None,
        held=_why_held(row, held) if waits else None,
        gathered=tuple(one["id"] for one in members if one["place"] == row["place"]),
        attempts=tuple(as_record(ShownAttempt, one) for one in of_entry),
    )


def _why_held(row: Row, held: Mapping[str, HeldAgent]) -> str | None:
    if row["kind"] == EntryKind.REPLY or row["opt_out"]:
        return None
    if (paused := pause.of_row(row)) is not None:
        return str(paused)
    if row["held"] is not None:
        return str(row["held"])
    return None if row["agent"] not in held else held[row["agent"]].said


def _why_unavailable(agent: str, notes: Sequence[MissingAgent]) -> str | None:
    """Return the reasons of nodes that cannot load it, with their names if there are several."""
    of_agent = [note for note in notes if note.agent == agent]
    if len(of_agent) == 1:
        return of_agent[0].reason
    return "; ".join(f"{note.node}: {note.reason}" for note in of_agent) or None
