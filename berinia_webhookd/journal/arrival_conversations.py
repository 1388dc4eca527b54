"""The conversations of new events, which are found by their parties; missing ones are created."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from berinia_webhookd.journal import consents_key, order
from berinia_webhookd.journal.database import Parties, Transaction
from berinia_webhookd.journal.pause import EVERYBODY

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Arrival


@dataclass(slots=True, eq=False)
class Conversations:
    """Conversations by their parties, with their state before the new events."""

    ids: dict[Parties, int] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)  # the pause may be over by now
    empty: set[int] = field(default_factory=set)
    everybody: set[tuple[str, str]] = field(default_factory=set)  # paused: channel and party


def parties_of(arrivals: Iterable[Arrival]) -> dict[Parties, None]:
    """Return the parties of each conversation once."""
    return dict.fromkeys([new.parties for one in arrivals for new in one.events])


async def of(transaction: Transaction, arrivals: Sequence[Arrival]) -> Conversations:
    """Return the conversations of the events, creating missing ones; on PostgreSQL, locked until
    the commit.
    """
    wanted = parties_of(arrivals)
    if transaction.shared:
        return await _held_conversations(transaction, arrivals, wanted)
    found = await _find_conversations(transaction, wanted)
    if missing := sorted(wanted.keys() - found.ids.keys()):
        await _make_conversations(transaction, arrivals, missing, found)
    return found


async def _held_conversations(
    transaction: Transaction, arrivals: Sequence[Arrival], wanted: Mapping[Parties, None]
) -> Conversations:
    found, known = Conversations(), transaction.conversations
    while missing := wanted.keys() - known.keys():
        groups = _groups(arrivals)
        rows = [(*one, int(one in groups)) for one in missing]
        made = await transaction.many("make_conversations", rows)
        order.hold_rows(transaction, made)
        found.empty |= {row["id"] for row in made}
        senders = (row["sender"] for row in made)
        await consents_key.recognise(transaction, arrivals[0].key, senders)
        # One may have been created by another node, and be erased by now.
        await order.hold(transaction, wanted)
    found.ids = {parties: known[parties][0] for parties in wanted}
    found.paused = {id_ for id_, paused in (known[parties] for parties in wanted) if paused}
    return found


async def _find_conversations(transaction: Transaction, wanted: Iterable[Parties]) -> Conversations:
    found = Conversations()
    everybody = {(channel, EVERYBODY, party) for channel, _, party in wanted}
    rows = await transaction.many("find_conversations", [*wanted, *everybody])
    for id_, channel, sender, party, paused in rows:
        if sender != EVERYBODY:
            found.ids[channel, sender, party] = id_
            if paused:
                found.paused.add(id_)
        elif paused:
            found.everybody.add((channel, party))
    return found


async def _make_conversations(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    missing: Sequence[Parties],
    found: Conversations,
) -> None:
    """Create them for a single writer."""
    groups = _groups(arrivals)
    rows = [(*one, int(one in groups)) for one in missing]
    name = "make_conversations" if found.everybody else "make_unpaused_conversations"
    ids = await transaction.insert_numbered(name, rows)
    for id_, parties in zip(ids, missing, strict=True):
        found.ids[parties] = id_
        found.empty.add(id_)
        if parties[::2] in found.everybody:
            found.paused.add(id_)
    senders = (sender for _, sender, _ in missing)
    await consents_key.recognise(transaction, arrivals[0].key, senders)


def _groups(arrivals: Iterable[Arrival]) -> set[Parties]:
    return {new.parties for one in arrivals for new in one.events if new.event.group}
