"""Conversations for operators: messages and replies, holds, and next entries. It only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal import guards, pause, queries, show
from berinia_webhookd.journal.database import Row, Transaction, as_record, instant
from berinia_webhookd.journal.guards import HeldAgent
from berinia_webhookd.journal.pause import Paused
from berinia_webhookd.journal.show import Shown
from berinia_webhookd.model import EntryKind, EntryState

# The newest events from which a list of conversations is made: fewer are enough if most of them are
# of different people.
EVENTS_EACH: Final = 4  # for each conversation on the list
RECENT_EVENTS: Final = 5000
LONGEST_NUMBER: Final = 18


@dataclass(frozen=True, slots=True)
class ConversationState:
    """The state of a conversation."""

    id: int
    channel: str
    sender: str | None  # in normal form; None once erased, * for everybody in a group
    party: str | None  # the recipient, or the group
    paused: Paused | None
    held: tuple[str, ...]  # the guards that hold it
    ready: int
    waiting: int
    running: int
    last_received_at: datetime | None


@dataclass(frozen=True, slots=True)
class NextEntry:
    """The running or next entry of a queue."""

    kind: str
    agent: str
    id: str  # of the event
    state: str
    startable_at: datetime | None  # None: it runs, or may start at once


@dataclass(frozen=True, slots=True)
class ShownConversation:
    """A conversation with its newest messages, in order, and its next entries."""

    state: ConversationState
    messages: tuple[Shown, ...]
    next: tuple[NextEntry, ...]


async def list_conversations(
    transaction: Transaction, *, paused: bool, limit: int
) -> list[ConversationState]:
    """Return the paused conversations; or the held ones, then the most recent."""
    if paused:
        rows = await transaction.execute("list_paused")
        return await _states(transaction, [id_ for (id_,) in rows])
    held = [id_ for (id_,) in await transaction.execute("list_held")]
    ids = dict.fromkeys([*held, *await _recent(transaction, limit)])
    return await _states(transaction, [*ids][:limit])


async def _recent(transaction: Transaction, limit: int) -> list[int]:
    """Return the conversations of the newest events, the newest first."""
    found: list[int] = []
    for events in (min(EVENTS_EACH * limit, RECENT_EVENTS), RECENT_EVENTS):
        rows = await transaction.execute("recent_conversations", events=events, most=limit)
        found = [row["conversation"] for row in rows]
        if len(found) == limit:
            break
    return found


async def _states(transaction: Transaction, ids: Sequence[int]) -> list[ConversationState]:
    rows = {row["id"]: row for row in await transaction.execute("conversations", conversations=ids)}
    received = dict(map(tuple, await transaction.execute("last_received", conversations=ids)))
    counted = await transaction.execute("open_in_conversations", conversations=ids)
    held = await guards.held_agents(transaction)
    return [
        _state(rows[id_], [one for one in counted if one["conversation"] == id_], held, received)
        for id_ in ids
        if id_ in rows
    ]


def _state(
    row: Row,
    counted: Sequence[Row],
    held: Mapping[str, HeldAgent],
    received: Mapping[int, int],
) -> ConversationState:
    totals = Counter[str]()
    for one in counted:
        totals[one["state"]] += one["total"]
    last = received.get(row["id"])
    return as_record(
        ConversationState,
        row,
        paused=pause.of_row(row),
        held=tuple(sorted({why for one in counted if (why := _why_held(one, held)) is not None})),
        ready=totals[EntryState.READY],
        waiting=totals[EntryState.WAITING],
        running=totals[EntryState.RUNNING],
        last_received_at=None if last is None else instant(last),
    )


def _why_held(row: Row, held: Mapping[str, HeldAgent]) -> str | None:
    if row["held"] is not None or row["kind"] == EntryKind.REPLY or row["opt_out"]:
        return None if row["held"] is None else str(row["held"])
    waits = row["state"] != EntryState.RUNNING and row["agent"] in held
    return held[row["agent"]].said if waits else None


async def show_conversation(
    transaction: Transaction, conversation: int, *, limit: int
) -> ShownConversation:
    """Return a conversation with a number of its newest messages.

    Raises:
        NotFound: it is gone.
    """
    states = await _states(transaction, [conversation])
    if not states:
        raise NotFound(f"there is no conversation {conversation}", hint="see `conversations list`")
    about = {"conversation": conversation}
    events = await transaction.execute("events_of_conversation", **about, most=limit)
    messages = [await show.show_event(transaction, id_) for (id_,) in reversed(events)]
    next_ones = await transaction.execute("next_in_conversation", **about)
    return ShownConversation(
        state=states[0],
        messages=tuple(message for message in messages if message is not None),
        next=tuple(map(_next, next_ones)),
    )


def _next(row: Row) -> NextEntry:
    at = row["startable_at"]  # 0: at once
    return as_record(NextEntry, row, startable_at=instant(at) if at else None)


async def find(transaction: Transaction, name: str) -> int:
    """Return the conversation of this number, or of the event with this id prefix; no id begins
    like a number.

    Raises:
        NotFound: there is none, or more than one.
    """
    if name.isascii() and name.isdigit() and not name.startswith("0"):
        return int(name[:LONGEST_NUMBER])
    id_, what = await queries.find(transaction, name)
    if what != "event":
        raise NotFound(f"{id_} was rejected when it came; it is in no conversation")
    ((conversation,),) = await transaction.execute("conversation_of_event", event=id_)
    return int(conversation)
