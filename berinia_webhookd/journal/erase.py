"""Deleting a person's data: from every column and raw body, from the SQLite file and from its WAL.

The event's digest, times and outcomes remain. A person is found by the normal form of the sender,
which covers every spelling, and in mails also by the people of From and Reply-To, in an index. Of a
delivery with several people only that person's part is deleted: the shared body is blanked, and the
other events have their own data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from berinia_webhookd import json_text
from berinia_webhookd.journal import order, rejected_items
from berinia_webhookd.journal.database import Row, Transaction
from berinia_webhookd.journal.event_text import to_text
from berinia_webhookd.journal.queries import person_of
from berinia_webhookd.journal.rejected_items import Item
from berinia_webhookd.model import EntryState
from berinia_webhookd.phone_numbers import without_country

BATCH: Final = 200
BODIES: Final = 20  # read at once
PHONE: Final = re.compile(r"\+\d{6,}")
SEPARATORS: Final = re.compile(r"[\s().\-/]+")


@dataclass(frozen=True, slots=True)
class Found:
    """What a journal has of a person."""

    conversations: tuple[int, ...]
    events: int
    running: tuple[str, ...]  # events with an attempt under way: not to be erased now
    rejected: tuple[int, ...]  # deliveries that were rejected, at least in part

    def as_erasure(self, consents: int) -> Erasure:
        """Return the result that erasing it would have."""
        return Erasure(
            *(self.events, len(self.conversations), len(self.rejected), self.running),
            consents=consents,
            files_clean=False,
        )


@dataclass(frozen=True, slots=True)
class Erasure:
    """The result of `events erase`, or of its dry run."""

    events: int
    conversations: int
    rejected: int
    running: tuple[str, ...]  # events not erased, because an attempt is running
    consents: int  # channels on which the register keeps an opt-out or its end, under a digest
    files_clean: bool  # False: the WAL could not be truncated yet; run it again


async def find(transaction: Transaction, sender: str, rejected: Sequence[int]) -> Found:
    """Return what the journal has of a sender, in normal form; rejected ones are passed in."""
    person = await person_of(transaction, sender)
    authored = await transaction.execute("conversations_of_author", sender=person["sender"])
    ids = dict.fromkeys((*person["conversations"], *(id_ for (id_,) in authored)))
    counted = await transaction.execute("count_with_data", **person)
    running = await transaction.execute("running_events", **person)
    total = sum(count for (count,) in counted)
    return Found(tuple(ids), total, tuple(id_ for (id_,) in running), tuple(rejected))


async def find_rejected(
    transaction: Transaction, sender: str, *, after: str
) -> tuple[str | None, list[int]]:
    """Return the last id of the next page of rejected deliveries, and those that contain the
    sender. Their bodies are searched as text, so that mentions count as well.
    """
    page = await transaction.execute("rejected_bodies", after=after, most=BODIES)
    return (page[-1]["id"] if page else None), [
        row["number"] for row in page if _concerns(row, sender)
    ]


def _concerns(row: Row, sender: str) -> bool:
    if items := _items(row):
        return any(_is_of(item, sender) for item in items)
    body = bytes(row["body"])
    return names(body, sender) or names(_unescaped(body), sender)


def _unescaped(body: bytes) -> bytes:
    """Return JSON text without optional escapes; empty for other content."""
    try:
        return json_text.encode(json_text.decode(body))
    except (ValueError, RecursionError):
        return b""


def _items(row: Row) -> list[Item]:
    return rejected_items.items_of(row["rejection"], row["body"]) if row["rejection"] else []


def _is_of(item: Item, sender: str) -> bool:
    return names(to_text(item).encode(), sender)


def names(text: bytes, sender: str) -> bool:
    """Return whether bytes contain this sender, in any spelling with the same normal form."""
    plain = unquote_plus(text.decode("utf-8", "replace")).casefold()
    if PHONE.fullmatch(sender):
        digits = SEPARATORS.sub("", plain)
        national = without_country(sender)
        return sender[1:] in digits or (national is not None and national in digits)
    return sender.casefold() in plain


async def erase_events(transaction: Transaction, sender: str, conversations: Sequence[int]) -> int:
    """Blank one batch of events that are not running, at the end the parties; returns how many."""
    await order.hold(transaction, conversations)
    person = await person_of(transaction, sender)
    chosen = await transaction.execute("erasable_events", **person, held=conversations, most=BATCH)
    if not chosen:
        await transaction.execute("erase_runs", conversations=conversations)
        await transaction.execute("erase_parties", conversations=conversations)
        return 0
    await blank(transaction, [row["number"] for row in chosen])
    await erase_deliveries(transaction, sender, sorted({row["delivery"] for row in chosen}))
    return len(chosen)


async def blank(transaction: Transaction, events: Sequence[int]) -> None:
    """Blank events with their attempts and replies."""
    entries = await transaction.execute("entries_of", events=events)
    places = [row["place"] for row in entries]
    for name in ("erase_attempts", "erase_entries"):
        await transaction.execute(name, places=places)
    for name in ("erase_replies", "erase_authors", "erase_events"):
        await transaction.execute(name, events=events)
    await transaction.execute("leave", places=[row["place"] for row in entries])
    for row in entries:
        transaction.moved(row, EntryState.ERASED.value)
    await order.advance(transaction, map(order.queue_of, entries))


async def erase_deliveries(transaction: Transaction, sender: str, deliveries: Sequence[int]) -> int:
    """Blank the person's data in deliveries, and delete rejected deliveries without other data.
    Returns the number of deliveries.
    """
    rows = await transaction.execute("deliveries_to_erase", deliveries=deliveries)
    left = [_left_of(row, sender) for row in rows]
    await transaction.many("erase_delivery", left)
    await transaction.execute("delete_rejected", numbers=deliveries)
    return len(rows)


def _left_of(row: Row, sender: str) -> dict[str, object]:
    """Return what remains of a delivery: nothing if it concerns no other person."""
    items = [
        item for item in _items(row) if rejected_items.ITEM in item and not _is_of(item, sender)
    ]
    shared = bool(items or row["shared"])
    headers = {
        name: value
        for name, value in (json_text.decode(row["headers"]) if row["headers"] else {}).items()
        if shared and not names(value.encode("utf-8", "replace"), sender)
    }
    target = row["target"] if shared and not names(row["target"].encode(), sender) else ""
    return {
        "number": row["number"],
        "target": target,
        "headers": to_text(headers) if headers else None,
        "rejection": rejected_items.rejection_text(items),
    }
