"""Pauses: events of a conversation are received, but only opt-outs are dispatched, until it is
resumed or the given time is over. A pause is stored on the conversation only, so its cost does not
depend on the waiting entries; its effect on the order is in `order.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from berinia_webhookd.journal import order
from berinia_webhookd.journal.database import Row, Transaction, instant, microseconds
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.model import Pause, PauseRequest

# The sender in a pause of everybody with a party, also later ones; no normal form begins with a
# blank.
EVERYBODY: Final = " everybody"


@dataclass(frozen=True, slots=True)
class Paused:
    """A conversation's pause, for display."""

    since: datetime
    until: datetime | None  # None: until somebody resumes it
    by: str
    reason: str | None

    def __str__(self) -> str:
        end = "it is resumed" if self.until is None else f"{self.until:%Y-%m-%d %H:%M:%S} UTC"
        why = "" if self.reason is None else f": {self.reason}"
        return f"paused by {self.by} until {end}{why}"


def of_row(row: Row) -> Paused | None:
    """Return the pause of a conversation's row, also an expired one until it is deleted."""
    if row["paused_at"] is None:
        return None
    until = None if row["paused_until"] is None else instant(row["paused_until"])
    return Paused(instant(row["paused_at"]), until, row["paused_by"], row["paused_for"])


async def pause(
    transaction: Transaction, conversations: Sequence[int], pause: Pause
) -> Sequence[int]:
    """Pause conversations; returns those that were not paused, or for a shorter time."""
    await order.hold(transaction, conversations)
    rows = await transaction.execute(
        "pause",
        conversations=conversations,
        lasts=microseconds(pause.seconds),
        by=storable(pause.by),
        why=None if pause.reason is None else storable(pause.reason),
    )
    changed = [row["id"] for row in rows]
    await order.advance_all(transaction, changed)
    return changed


async def pause_all(transaction: Transaction, requests: Sequence[PauseRequest]) -> Sequence[int]:
    """Pause the conversations of each request; returns those that changed."""
    changed: list[int] = []
    for request in requests:
        changed += await pause(transaction, await _made(transaction, request), request.pause)
    return changed


async def pause_as_asked(
    transaction: Transaction, asked: Sequence[Sequence[PauseRequest]]
) -> list[Sequence[int]]:
    """Do all requested pauses; returns the changed conversations of each."""
    return [await pause_all(transaction, requests) for requests in asked]


async def _made(transaction: Transaction, request: PauseRequest) -> Sequence[int]:
    """Return the matching conversations, creating the one with a party if it is missing."""
    if request.party is not None:
        if request.sender is None:
            await transaction.execute("keep_conversations")
        (id_,) = await transaction.numbers(1)
        row = {
            "id": id_,
            "channel": request.channel,
            "sender": storable(EVERYBODY if request.sender is None else request.sender),
            "party": storable(request.party),
            "of_group": int(request.of_group),
        }
        await transaction.many("make_conversations", [row])
    return await of(transaction, request.channel, request.sender, request.party)


async def to_pause(
    transaction: Transaction, asked: Sequence[Sequence[PauseRequest]]
) -> Iterable[int]:
    """Return the existing matching conversations."""
    found: list[int] = []
    for request in (one for requests in asked for one in requests):
        found += await of(transaction, request.channel, request.sender, request.party)
    return found


@dataclass(frozen=True, slots=True)
class Whose:
    """A filter of conversations, in normal form; None matches all."""

    sender: str | None = None
    channel: str | None = None
    party: str | None = None


@dataclass(frozen=True, slots=True)
class Resumed:
    """The conversations that were held until now, and the number of discarded entries."""

    conversations: tuple[int, ...]
    discarded: int = 0


async def resume(
    transaction: Transaction, conversations: Sequence[int], *, discard: bool = False
) -> Resumed:
    """End the pauses and guards' holds of conversations; or discard the held entries."""
    await order.hold(transaction, conversations)
    paused = await transaction.execute("resume", conversations=conversations)
    released = await order.release(transaction, conversations)
    held = sorted({row["id"] for row in paused} | released)
    if not discard:
        return Resumed(tuple(held))
    rows = await transaction.execute("entries_to_give_up", conversations=held)
    await order.discard(transaction, rows)
    return Resumed(tuple(held), len(rows))


async def over(transaction: Transaction) -> list[int]:
    """Return the conversations whose pause is over; their entries fall due without it."""
    return [id_ for (id_,) in await transaction.execute("pauses_over")]


async def end(transaction: Transaction, asked: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Delete expired pauses; returns their conversations."""
    ended: list[Sequence[int]] = []
    for conversations in asked:
        await order.hold(transaction, conversations)
        rows = await transaction.execute("end_pauses", conversations=conversations)
        ended.append([row["id"] for row in rows])
    return ended


async def to_end(_: Transaction, asked: Sequence[Sequence[int]]) -> list[int]:
    """Return these conversations."""
    return [id_ for conversations in asked for id_ in conversations]


async def channels_of(transaction: Transaction, conversations: Sequence[int]) -> list[str]:
    """Return the channels of these conversations."""
    rows = await transaction.execute("channels_of", conversations=conversations)
    return [channel for (channel,) in rows]


async def of(
    transaction: Transaction, channel: str | None, sender: str | None, party: str | None
) -> list[int]:
    """Return the conversations of a sender, with a party, or of both, given in normal form."""
    found: set[int] | None = None
    if sender is not None:
        rows = await transaction.execute(
            "conversations_of_person", sender=storable(sender), channel=channel
        )
        found = {id_ for (id_,) in rows}
    if party is not None:
        with_party = await _with_party(transaction, channel, storable(party))
        found = with_party if found is None else found & with_party
    return sorted(found or ())


async def _with_party(transaction: Transaction, channel: str | None, party: str) -> set[int]:
    about = {"channel": channel, "party": party}
    rows = await transaction.execute("conversations_of_group", **about)
    found = {row["id"] for row in rows}
    if all(row["sender"] == EVERYBODY for row in rows):  # it may be an address of ours
        others = await transaction.execute("conversations_with_address", **about)
        found.update(id_ for (id_,) in others)
    return found
