"""Pauses: everything of a conversation is received and nothing but opt-outs is dispatched, until it
is resumed or the time given is over.

A pause is written on the conversation alone, so it costs the same whatever waits there; what it
means for the order is in `order.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from berinia_webhookd.journal import order
from berinia_webhookd.journal.database import Transaction, microseconds
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.model import Pause, PauseRequest

EVERYBODY: Final = "*"  # the sender of a pause of all with a party, also of later ones


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


async def pause_as_asked(
    transaction: Transaction, asked: Sequence[Sequence[PauseRequest]]
) -> list[Sequence[int]]:
    """Pause what each means, all of it or nothing; returns what changed."""
    changed: list[Sequence[int]] = []
    for requests in asked:
        ids: list[int] = []
        for request in requests:
            ids += await pause(transaction, await _made(transaction, request), request.pause)
        changed.append(ids)
    return changed


async def _made(transaction: Transaction, request: PauseRequest) -> Sequence[int]:
    """The conversations that are meant. With a party there is one, though nobody has written."""
    if request.party is not None:
        if request.sender is None:
            await transaction.execute("keep_conversations")
        row = {
            "channel": request.channel,
            "sender": storable(EVERYBODY if request.sender is None else request.sender),
            "party": storable(request.party),
        }
        await transaction.many("make_conversations", [row])
    return await of(transaction, request.channel, request.sender, request.party)


async def to_pause(
    transaction: Transaction, asked: Sequence[Sequence[PauseRequest]]
) -> Iterable[int]:
    """Return the conversations that are meant, as far as there are any yet."""
    found: list[int] = []
    for request in (one for requests in asked for one in requests):
        found += await of(transaction, request.channel, request.sender, request.party)
    return found


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
        about = {"channel": channel, "party": storable(party)}
        rows = await transaction.execute("conversations_of_party", **about)
        found = {id_ for (id_,) in rows if found is None or id_ in found}
    return sorted(found or ())
