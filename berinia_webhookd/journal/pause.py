"""Pauses: everything of a conversation is received and nothing but opt-outs is dispatched, until it
is resumed or the time given is over.

A pause is written on the conversation alone, so it costs the same whatever waits there; what it
means for the order is in `order.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from berinia_webhookd.journal import order
from berinia_webhookd.journal.database import Transaction, microseconds
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.model import Pause


async def pause(
    transaction: Transaction, conversations: Sequence[int], pause: Pause
) -> Sequence[int]:
    """Pause conversations; returns those that were not, or not for so long."""
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


async def resume(transaction: Transaction, conversations: Sequence[int]) -> Sequence[int]:
    """End the pauses of conversations and what guards hold there; returns what was held."""
    await order.hold(transaction, conversations)
    rows = await transaction.execute("resume", conversations=conversations)
    released = await order.release(transaction, conversations)
    return sorted({row["id"] for row in rows} | set(released))


async def over(transaction: Transaction) -> list[int]:
    """Return the conversations whose pause is over by now. What it held falls due by itself."""
    return [id_ for (id_,) in await transaction.execute("pauses_over")]


async def end(transaction: Transaction, asked: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Forget pauses that are over; returns which."""
    ended: list[Sequence[int]] = []
    for conversations in asked:
        await order.hold(transaction, conversations)
        rows = await transaction.execute("end_pauses", conversations=conversations)
        ended.append([row["id"] for row in rows])
    return ended


async def to_end(_: Transaction, asked: Sequence[Sequence[int]]) -> list[int]:
    """Return these conversations."""
    return [id_ for conversations in asked for id_ in conversations]


async def of_person(transaction: Transaction, sender: str, channel: str | None) -> list[int]:
    """Return the conversations of a person, given in normal form."""
    rows = await transaction.execute(
        "conversations_to_pause", sender=storable(sender), channel=channel
    )
    return [row["id"] for row in rows]
