"""What arrives: events, committed once each, however often and close together they come.

A step of the group commit, so that a burst costs a handful of statements.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, Final

import uuid_utils
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy import Sequence as DatabaseSequence
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.exc import IntegrityError

from berinia_webhookd.journal import lines
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.event_text import storable, to_text
from berinia_webhookd.journal.prepared import ROWS_AT_ONCE, VALUES, AnyOf, Batch, Question
from berinia_webhookd.journal.schema import (
    conversations,
    deliveries,
    delivery_bodies,
    entries,
    events,
    seen,
)
from berinia_webhookd.model import (
    AgentName,
    Conversation,
    EntryKind,
    EntryState,
    Event,
    EventId,
    Receipt,
    VerifiedDelivery,
)

Row = dict[str, Any]
Parties = tuple[str, str, str]

AGENT: Final = EntryKind.AGENT.value


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """One delivery to accept, with the id its event gets if it is new."""

    event_id: EventId
    delivery: VerifiedDelivery
    event: Event
    event_data: str
    node: str
    waiting_until: datetime | None = None
    delivery_id: str | None = None  # of a rejected delivery that is replayed


@dataclass(slots=True)
class Sorted:
    """A batch of arrivals: what is new, what repeats which event, and what everybody is told."""

    new: list[Arrival] = field(default_factory=list)
    repeated: list[tuple[Arrival, EventId]] = field(default_factory=list)
    results: list[Receipt | ReplayedSignature] = field(default_factory=list)


def new_id() -> str:
    """A UUIDv7: unique, and in the order of time for people."""
    return str(uuid_utils.uuid7())


def signature_key(replay_key: bytes) -> bytes:
    """The key of a used signature in `seen`; no event's digest can be the same by design."""
    return hashlib.sha256(b"signature\0" + replay_key).digest()


def next_place(dialect_name: str) -> ColumnElement[int]:
    """The place of a new entry, drawn by the database while it inserts."""
    if dialect_name == "sqlite":
        return select(func.coalesce(func.max(entries.c.place), 0) + 1).scalar_subquery()
    return DatabaseSequence("entry_places").next_value()


FIND_SEEN: Final = AnyOf(
    select(seen.c.key, seen.c.event).where(seen.c.key.in_(bindparam(VALUES, expanding=True)))
)
_columns: Final = (conversations.c.channel, conversations.c.sender, conversations.c.party)
_wanted: Final = func.json_each(bindparam("parties")).table_valued("value", name="wanted")
FIND_CONVERSATIONS: Final = Question(
    # SQLite would not use its index for a list of rows.
    select(conversations.c.id, *_columns).join_from(
        _wanted,
        conversations,
        and_(
            *(
                column == func.json_extract(_wanted.c.value, f"$[{number}]")
                for number, column in enumerate(_columns)
            )
        ),
    ),
    postgresql=select(conversations.c.id, *_columns).where(
        tuple_(*_columns).in_(bindparam("parties", expanding=True))
    ),
)
# On PostgreSQL another node may make the same one meanwhile: that is waited for, and used.
MAKE_CONVERSATIONS: Final = Batch(
    insert(conversations),
    *("channel", "sender", "party"),
    postgresql=postgresql_insert(conversations).on_conflict_do_nothing(),
)
FIND_AGENTS: Final = select(entries.c.event, entries.c.agent).where(
    entries.c.event.in_(bindparam("events", expanding=True)),
    entries.c.kind == EntryKind.AGENT.value,
)
WAIT_WITH: Final = (
    update(entries)
    .where(
        entries.c.event == bindparam("with_event"),
        entries.c.kind == EntryKind.AGENT.value,
        entries.c.finished_at.is_(None),
        or_(
            entries.c.waiting_until.is_(None),
            entries.c.waiting_until < bindparam("until", type_=entries.c.waiting_until.type),
        ),
    )
    .values(waiting_until=bindparam("until", type_=entries.c.waiting_until.type))
)
ACCEPT_REJECTED: Final = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("replayed"))
    .values(state="accepted", once_key=None)
)
INSERT_SEEN: Final = Batch(insert(seen), "key", "event", "seen_at")
INSERT_DELIVERIES: Final = Batch(
    insert(deliveries),
    *("id", "channel", "content_type", "node", "received_at", "state", "replay_key"),
)
INSERT_BODIES: Final = Batch(insert(delivery_bodies), "delivery", "body")
INSERT_EVENTS: Final = Batch(
    insert(events),
    *("id", "delivery", "channel", "conversation", "digest", "data", "opt_out", "received_at"),
)
_insert_entry: Final = insert(entries).values(
    state=literal_column(f"'{EntryState.READY.value}'"),
    attempts=literal_column("0"),
    retries=literal_column("0"),
    losses=literal_column("0"),
)
INSERT_ENTRIES: Final = Batch(
    _insert_entry,
    *("id", "event", "kind", "channel", "agent", "conversation", "opt_out", "place"),
    *("waiting_until", "created_at", "startable_at"),
    postgresql=_insert_entry.values(place=next_place("postgresql")),
)
LAST_PLACE: Final = Question(select(func.coalesce(func.max(entries.c.place), 0)))


def accept(
    transaction: Transaction, arrivals: Sequence[Arrival]
) -> list[Receipt | ReplayedSignature]:
    """Store what is new; what was seen before gets the receipt of the first time."""
    found = _note(transaction, arrivals)
    if found.new:
        _store(transaction, found.new)
    return _of_the_first_time(transaction, found) if found.repeated else found.results


def _note(transaction: Transaction, arrivals: Sequence[Arrival]) -> Sorted:
    """Tell what is new, and write down that it was seen.

    Nearly always all is. SQLite is not asked before, because it takes back a statement that finds
    something there; PostgreSQL takes back the transaction.
    """
    if not transaction.locks_rows and 2 * len(arrivals) <= ROWS_AT_ONCE:
        with contextlib.suppress(IntegrityError):
            return _note_but(transaction, arrivals, {})
    return _note_but(transaction, arrivals, _already_seen(transaction, arrivals))


def _note_but(
    transaction: Transaction, arrivals: Sequence[Arrival], known: dict[bytes, EventId]
) -> Sorted:
    """The same, but for what is known."""
    keys: list[Row] = []
    found = Sorted()
    for arrival in arrivals:
        digest = arrival.event.digest
        event_id = known.get(digest, arrival.event_id)
        replay_key = arrival.delivery.replay_key
        if replay_key is not None:
            key = signature_key(replay_key)
            if known.get(key, event_id) != event_id:
                found.results.append(
                    ReplayedSignature("the signature was used with another message")
                )
                continue
            if key not in known:
                known[key] = event_id
                keys.append({"key": key, "event": event_id, "seen_at": transaction.now})
        if digest not in known:
            known[digest] = event_id
            keys.append({"key": digest, "event": event_id, "seen_at": transaction.now})
            found.new.append(arrival)
        duplicate = event_id != arrival.event_id
        if duplicate:
            found.repeated.append((arrival, event_id))
        found.results.append(Receipt(event_id, arrival.event.agent, duplicate))
    # On PostgreSQL another node may have inserted one meanwhile: that fails the transaction, and
    # its repetition finds it.
    INSERT_SEEN.execute(transaction.connection, sorted(keys, key=itemgetter("key")))
    return found


def _already_seen(transaction: Transaction, arrivals: Sequence[Arrival]) -> dict[bytes, EventId]:
    keys = {arrival.event.digest for arrival in arrivals} | {
        signature_key(arrival.delivery.replay_key)
        for arrival in arrivals
        if arrival.delivery.replay_key is not None
    }
    found = FIND_SEEN.execute(transaction.connection, keys)
    return {bytes(key): EventId(event_id) for key, event_id in found}


def _store(transaction: Transaction, new: Sequence[Arrival]) -> None:
    connection = transaction.connection
    delivery_rows, body_rows, event_rows, entry_rows = [], [], [], []
    parties = [_parties(arrival.event.conversation) for arrival in new]
    conversation_ids, made = _conversation_ids(transaction, parties)
    for arrival, names in zip(new, parties, strict=True):
        delivery_id, conversation_id = arrival.delivery_id or new_id(), conversation_ids[names]
        if arrival.delivery_id is None:
            delivery_rows.append(_delivery(arrival, delivery_id))
            body_rows.append({"delivery": delivery_id, "body": arrival.delivery.body})
        event_rows.append(_event(arrival, delivery_id, conversation_id))
        entry_rows.append(_entry(arrival, conversation_id, transaction.now))
    INSERT_DELIVERIES.execute(connection, delivery_rows)
    INSERT_BODIES.execute(connection, body_rows)
    if replayed := [{"replayed": a.delivery_id} for a in new if a.delivery_id is not None]:
        connection.execute(ACCEPT_REJECTED, replayed)
    INSERT_EVENTS.execute(connection, event_rows)
    changed = lines.begin(transaction, entry_rows, made)
    insert_entries(connection, entry_rows)
    lines.advance(transaction, changed)


def insert_entries(connection: Connection, rows: Sequence[Row]) -> None:
    """Insert new entries; their places are drawn meanwhile, in the order of the rows."""
    if connection.dialect.name == "sqlite":
        ((last,),) = LAST_PLACE.execute(connection)
        for number, row in enumerate(rows, 1):
            row["place"] = last + number
    INSERT_ENTRIES.execute(connection, rows)


def _parties(conversation: Conversation) -> Parties:
    return (conversation.channel, storable(conversation.sender), storable(conversation.party))


def _conversation_ids(
    transaction: Transaction, wanted: Iterable[Parties]
) -> tuple[dict[Parties, int], set[int]]:
    """The ids of conversations, made where they are new; on PostgreSQL, held until the commit.
    Then those that nothing can be in, because they are new and nobody else writes meanwhile.
    """
    parties = sorted(set(wanted))
    found = ids = _find_conversations(transaction, parties)
    while True:
        if missing := [p for p in parties if p not in ids]:
            rows = [{"channel": p[0], "sender": p[1], "party": p[2]} for p in missing]
            MAKE_CONVERSATIONS.execute(transaction.connection, rows)
        elif not transaction.locks_rows:
            return ids, set(ids.values()).difference(found.values())
        elif transaction.held.issuperset(ids.values()):
            return ids, set()
        else:
            # Looked for again afterwards: one may just have been erased.
            lines.hold(transaction, ids.values())
        ids = _find_conversations(transaction, parties)


def touched(transaction: Transaction, arrivals: Sequence[Arrival]) -> Iterable[int]:
    """The conversations that these events will come into, as far as there are any yet."""
    parties = sorted({_parties(arrival.event.conversation) for arrival in arrivals})
    return _find_conversations(transaction, parties).values()


def _find_conversations(transaction: Transaction, parties: Sequence[Parties]) -> dict[Parties, int]:
    connection = transaction.connection
    wanted = to_text(parties) if connection.dialect.name == "sqlite" else parties
    found = FIND_CONVERSATIONS.execute(connection, parties=wanted)
    return {(channel, sender, party): id_ for id_, channel, sender, party in found}


def _delivery(arrival: Arrival, delivery_id: str) -> Row:
    delivery = arrival.delivery
    return {
        "id": delivery_id,
        "channel": delivery.channel,
        "content_type": storable(delivery.content_type_header),
        "node": arrival.node,
        "received_at": delivery.received_at,
        "state": "accepted",
        "replay_key": delivery.replay_key,
    }


def _event(arrival: Arrival, delivery_id: str, conversation_id: int) -> Row:
    return {
        "id": arrival.event_id,
        "delivery": delivery_id,
        "channel": arrival.event.channel,
        "conversation": conversation_id,
        "digest": arrival.event.digest,
        "data": arrival.event_data,
        "opt_out": arrival.event.opt_out,
        "received_at": arrival.event.received_at,
    }


def _entry(arrival: Arrival, conversation_id: int, now: datetime) -> Row:
    return {
        "id": new_id(),
        "event": arrival.event_id,
        "kind": AGENT,
        "channel": arrival.event.channel,
        "agent": arrival.event.agent,
        "conversation": conversation_id,
        "opt_out": arrival.event.opt_out is not None,
        "waiting_until": arrival.waiting_until,
        "created_at": now,
        "startable_at": None,
    }


def _of_the_first_time(
    transaction: Transaction, found: Sorted
) -> list[Receipt | ReplayedSignature]:
    """The receipts with the agents the events went to; who waits now, waits for their replies."""
    connection = transaction.connection
    asked = {"events": list({event_id for _, event_id in found.repeated})}
    agents = {row.event: AgentName(row.agent) for row in connection.execute(FIND_AGENTS, asked)}
    waiting = [
        {"with_event": event_id, "until": arrival.waiting_until}
        for arrival, event_id in found.repeated
        if arrival.waiting_until is not None
    ]
    if waiting:
        connection.execute(WAIT_WITH, waiting)
    return [
        replace(result, agent=agents.get(result.event_id, result.agent))
        if isinstance(result, Receipt)
        else result
        for result in found.results
    ]
