"""Deleting a person's data: from every column and raw body, from the SQLite file and from its WAL.

What stays is that an event was there: its digest, its times and outcomes. A person is found by the
normal form of the sender, so every spelling is met.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from sqlalchemy import Connection, bindparam, delete, exists, func, not_, select, update

from berinia_webhookd.journal import lines
from berinia_webhookd.journal.claiming import line_of
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.schema import (
    Instant,
    attempts,
    conversations,
    deliveries,
    delivery_bodies,
    entries,
    events,
    rejected,
    replies,
    state_is,
)
from berinia_webhookd.model import EntryState

BATCH: Final = 200
CHECKPOINT_WAIT_MILLISECONDS: Final = 50
PHONE: Final = re.compile(r"\+\d{6,}")
SEPARATORS: Final = re.compile(r"[\s().\-/]+")

_running = exists().where(entries.c.event == events.c.id, state_is(EntryState.RUNNING))
_of_conversations = events.c.conversation.in_(bindparam("conversations", expanding=True))
WITH_DATA: Final = select(events.c.id, events.c.delivery).where(
    _of_conversations, events.c.data.is_not(None)
)
ERASABLE: Final = WITH_DATA.where(not_(_running)).limit(BATCH)
BLANK_EVENTS: Final = (
    update(events)
    .where(events.c.id.in_(bindparam("ids", expanding=True)))
    .values(data=None, opt_out=None)
)
BLANK_ATTEMPTS: Final = (
    update(attempts)
    .where(attempts.c.entry.in_(bindparam("ids", expanding=True)))
    .values(error=None, reply=None)
)
BLANK_ENTRIES: Final = (
    update(entries)
    .where(entries.c.id.in_(bindparam("ids", expanding=True)))
    .values(
        state=EntryState.ERASED.value,
        startable_at=None,
        due_at=None,
        hold_until=None,
        finished_at=func.coalesce(entries.c.finished_at, bindparam("at", type_=Instant)),
    )
)
BLANK_CONVERSATIONS: Final = (
    update(conversations)
    .where(conversations.c.id.in_(bindparam("ids", expanding=True)))
    .values(sender=None, party=None)
)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a person."""

    conversations: tuple[int, ...]
    events: int
    running: tuple[str, ...]  # events with an attempt under way: not to be erased now
    rejected: tuple[str, ...]  # deliveries


@dataclass(frozen=True, slots=True)
class Erasure:
    """What `events erase` did, or with a dry run would do."""

    events: int
    conversations: int
    rejected: int
    running: tuple[str, ...]  # events left, because an attempt is under way
    files_clean: bool  # False: the WAL could not be truncated yet; run it again


def find(connection: Connection, normal_sender: str, rejected_ids: Sequence[str]) -> Found:
    """Everything of a sender, given in normal form; `rejected_ids` were found before."""
    of_sender = select(conversations.c.id).where(conversations.c.sender == storable(normal_sender))
    ids = tuple(connection.execute(of_sender).scalars())
    about = {"conversations": ids}
    total = connection.execute(select(func.count()).select_from(WITH_DATA.subquery()), about)
    running = connection.execute(WITH_DATA.where(_running), about).scalars()
    return Found(ids, total.scalar_one(), tuple(running), tuple(rejected_ids))


def erase_some(transaction: Transaction, conversation_ids: Sequence[int]) -> int:
    """Blank one batch of events that are not running; returns how many. At the end, the parties."""
    connection = transaction.connection
    lines.hold(transaction, conversation_ids)
    about = {"conversations": list(conversation_ids)}
    chosen = connection.execute(ERASABLE, about).all()
    if not chosen:
        left = {
            row.conversation
            for row in connection.execute(
                WITH_DATA.with_only_columns(events.c.conversation, maintain_column_froms=True),
                about,
            )
        }
        blank = [id_ for id_ in conversation_ids if id_ not in left]
        connection.execute(BLANK_CONVERSATIONS, {"ids": blank})
        return 0
    event_ids = [row.id for row in chosen]
    rows = connection.execute(select(entries).where(entries.c.event.in_(event_ids))).all()
    entry_ids = [row.id for row in rows]
    connection.execute(BLANK_EVENTS, {"ids": event_ids})
    connection.execute(BLANK_ATTEMPTS, {"ids": entry_ids})
    connection.execute(BLANK_ENTRIES, {"ids": entry_ids, "at": transaction.now})
    connection.execute(delete(replies).where(replies.c.event.in_(event_ids)))
    connection.execute(
        delete(delivery_bodies).where(
            delivery_bodies.c.delivery.in_([row.delivery for row in chosen])
        )
    )
    lines.advance(transaction, map(line_of, rows))
    return len(chosen)


def rejected_page(
    connection: Connection, normal_sender: str, *, after: str
) -> tuple[str | None, list[str]]:
    """Of the next rejected deliveries behind `after`, the last id, and those that name the sender.

    They could not be decoded, so their bodies are searched: what only mentions the sender counts.
    """
    page = connection.execute(
        select(deliveries.c.id, delivery_bodies.c.body)
        .join_from(deliveries, delivery_bodies, delivery_bodies.c.delivery == deliveries.c.id)
        .where(rejected(), deliveries.c.id > after)
        .order_by(deliveries.c.id)
        .limit(BATCH)
    ).all()
    if not page:
        return None, []
    return page[-1].id, [row.id for row in page if names(bytes(row.body), normal_sender)]


def names(body: bytes, normal_sender: str) -> bool:
    """Whether a raw body holds this sender, in any spelling that its normal form stands for."""
    text = unquote_plus(body.decode("utf-8", "replace")).casefold()
    if PHONE.fullmatch(normal_sender):
        return normal_sender[1:] in SEPARATORS.sub("", text)
    return normal_sender.casefold() in text


def delete_rejected(transaction: Transaction, ids: Sequence[str]) -> None:
    """Delete rejected deliveries with their bodies."""
    transaction.connection.execute(
        delete(deliveries).where(rejected(), deliveries.c.id.in_(list(ids)))
    )


def truncate_wal(connection: Connection) -> bool:
    """Write the WAL back and empty it; False while somebody still reads an older state."""
    if connection.dialect.name != "sqlite":
        return True
    # It keeps writers out while it waits for readers, so it must not wait for long.
    waits = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MILLISECONDS}")
    busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {waits}")
    return not busy
