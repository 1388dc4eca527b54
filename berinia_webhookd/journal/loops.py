"""Loops: two machines that answer each other do not stop by themselves. A suspected loop is held
until its conversation is resumed: a mail marked as automatic, the same text for the third time in a
day, or ten turns, each within a minute of our reply to the one before.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from berinia_webhookd.journal.database import DAY, SECOND, Transaction
from berinia_webhookd.model import AutoSubmitted, Event, EventKind

MESSAGE, AUTO_REPLY = EventKind.MESSAGE, AutoSubmitted.AUTO_REPLY
AUTOMATIC: Final = 0  # the `loop_key` of a mail marked as automatic
NO_TEXT: Final = 1
SAME_TEXTS: Final = 3
QUICK_TURNS: Final = 10
QUICK: Final = 60 * SECOND


def loop_key(event: Event) -> int | None:
    """Return the key by which an entry's text is compared; None for events that are no messages."""
    if event.kind is not MESSAGE:
        return None
    if event.auto_submitted is AUTO_REPLY:
        return AUTOMATIC
    text = event.body.strip()
    if not text:
        return NO_TEXT
    return NO_TEXT + 1 + zlib.crc32(text.encode("utf-8", "surrogatepass"))


class Turn(NamedTuple):
    """A message, and the beginning and end of its answer in microseconds: an agent may write to
    people by itself while it runs.
    """

    loop_key: int
    created_at: int
    started_at: int | None = None  # None: it was not answered
    ended_at: int | None = None

    def is_answered_by(self, other: Turn) -> bool:
        """Whether another message came right after the answer to this one."""
        if self.started_at is None or self.ended_at is None:
            return False
        return self.started_at <= other.created_at <= self.ended_at + QUICK


async def loops_of(transaction: Transaction, places: Sequence[int]) -> list[tuple[int, str]]:
    """Return the entries that look like a loop, with reasons. Only first attempts are checked;
    messages from before a resume of the conversation do not count.
    """
    found: list[tuple[int, str]] = []
    for row in await transaction.execute("doubtful", places=places):
        about = {"conversation": row["conversation"], "place": row["place"], "since": row["since"]}
        turns = [Turn(*turn) for turn in await transaction.execute("last_turns", **about)]
        turns.append(Turn(row["loop_key"], row["created_at"]))
        if why := loop_of(turns):
            found.append((row["place"], why))
    return found


def loop_of(turns: Sequence[Turn]) -> str | None:
    """Return why the last of these messages, in order, is held; None: it is no loop."""
    last = turns[-1]
    if last.loop_key == AUTOMATIC:
        return "it says that it is automatic"
    same = [
        turn
        for turn in turns
        if turn.loop_key == last.loop_key > NO_TEXT and last.created_at - turn.created_at <= DAY
    ]
    if len(same) >= SAME_TEXTS:
        return f"the same text came {len(same)} times within a day"
    quick = 0
    for before, turn in pairwise(turns):
        quick = quick + 1 if before.is_answered_by(turn) else 0
    if quick >= QUICK_TURNS:
        return f"each of the last {quick} messages came within a minute of our reply"
    return None
