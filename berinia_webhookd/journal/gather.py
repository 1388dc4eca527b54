"""Bursts: messages of one conversation that are delivered together, as one attempt of the last
one's entry. The other entries are its members: they run, wait and end with it, and have no attempts
of their own. `order.py` decides when a burst may start; here it is put together, once, by the claim
of its first attempt. Retries have the same members.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from berinia_webhookd.journal import event_text
from berinia_webhookd.journal.database import Row, Transaction
from berinia_webhookd.model import Entry, EventId, Member

if TYPE_CHECKING:
    from berinia_webhookd.journal.order import Startable

MOST_MESSAGES: Final = 50
MOST_BYTES: Final = 256 * 1024


async def put_together(
    transaction: Transaction, heads: Sequence[Startable]
) -> dict[int, Startable]:
    """Put together the bursts that begin with these entries. Returns the first row of each by the
    place of its last entry; without bursts whose conversations are locked.
    """
    ids = sorted({head.conversation for head in heads})
    free = {id_ for (id_,) in await transaction.execute("free_conversations", ids=ids)}
    return {
        await _put_together(transaction, head): head for head in heads if head.conversation in free
    }


async def _put_together(transaction: Transaction, head: Startable) -> int:
    if head.quiet_at is None:
        return head.place  # a retry: its members are known
    queue = {"conversation": head.conversation, "kind": head.kind, "agent": head.agent}
    found = await transaction.execute("burst", **queue, head=head.place, most=MOST_MESSAGES - 1)
    *members, last = _within_memory(found)
    if members:
        await transaction.execute("gather", places=members, into=last)
    return last


def _within_memory(found: Sequence[Row]) -> Iterator[int]:
    """Return the places of the first rows, up to the size limit."""
    size_bytes = 0
    for number, row in enumerate(found):
        size_bytes += row["size_bytes"] or 0
        if number and size_bytes > MOST_BYTES:
            return
        yield row["place"]


async def with_members(transaction: Transaction, entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with the events of their members."""
    found = await members_of(transaction, [entry.id for entry in entries])
    await share(transaction, found)
    return [with_rows(entry, found.get(entry.id, ())) for entry in entries]


def with_rows(entry: Entry, rows: Sequence[Row]) -> Entry:
    """Return the entry with its members from these rows of `members`."""
    members = tuple(
        Member(EventId(row["event_id"]), event_text.decode(row["data"], row["form"]))
        for row in rows
    )
    size_bytes = entry.size_bytes + sum(len(row["data"]) for row in rows)
    return entry._replace(members=members, size_bytes=size_bytes)


async def members_of(transaction: Transaction, places: Collection[int]) -> dict[int, list[Row]]:
    """Return the members in order, by the place of the entry whose attempt they share."""
    found: defaultdict[int, list[Row]] = defaultdict(list)
    if places:
        for row in await transaction.execute("members", places=list(places)):
            found[row["gathered_into"]].append(row)
    return found


async def share(transaction: Transaction, places: Collection[int]) -> None:
    """Set the members' states to those of these entries."""
    if places:
        await transaction.execute("share", places=list(places))


async def follow(transaction: Transaction, rows: Sequence[Row], states: Mapping[int, str]) -> None:
    """Do the same after these entries changed state, and count the changes; the rows have the old
    states.
    """
    places = [row["place"] for row in rows]
    counted = dict(await transaction.execute("count_members", places=places))
    await share(transaction, counted)
    for row in rows:
        for _ in range(counted.get(row["place"], 0)):
            transaction.moved(row, states[row["place"]])


async def disband(transaction: Transaction, places: Collection[int]) -> None:
    """Release the members of untried bursts: they are gathered again, with later messages."""
    if places:
        await transaction.execute("disband", places=list(places))


def listener(rows: Sequence[Row]) -> Row:
    """Return the message of a burst that gets the reply: the last with a waiting caller, else the
    last.
    """
    return next((row for row in reversed(rows) if row["has_caller"]), rows[-1])
