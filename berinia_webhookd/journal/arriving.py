"""What arrives: events, committed once each, however often and close together they come.

A step of the group commit, so that a burst costs a handful of statements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import uuid_utils
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy import Sequence as DatabaseSequence
from sqlalchemy.dialects.postgresql import insert as postgresql_insert

from berinia_webhookd.journal import lines
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.engine import Transaction
from berinia_webhookd.journal.event_text import storable, to_text
from berinia_webhookd.journal.prepared import VALUES, AnyOf, Batch, Question
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
INSERT_ENTRIES: Final = Batch(
    insert(entries),
    *("id", "event", "kind", "channel", "agent", "conversation", "opt_out", "state", "place"),
    *("attempts", "retries", "losses", "waiting_until", "created_at", "startable_at"),
    postgresql=insert(entries).values(place=next_place("postgresql")),
)
LAST_PLACE: Final = Question(select(func.coalesce(func.max(entries.c.place), 0)))


def accept(
    transaction: Transaction, arrivals: Sequence[Arrival]
) -> list[Receipt | ReplayedSignature]:
    """Store what is new; what was seen before gets the receipt of the first time."""
    known = _already_seen(transaction, arrivals)
    keys: list[Row] = []
    new: list[Arrival] = []
    results: list[tuple[Arrival, EventId] | ReplayedSignature] = []
    for arrival in arrivals:
        digest = arrival.event.digest
        event_id = known.get(digest, arrival.event_id)
        replay_key = arrival.delivery.replay_key
        if replay_key is not None:
            key = signature_key(replay_key)
            if known.get(key, event_id) != event_id:
                results.append(ReplayedSignature("the signature was used with another message"))
                continue
            if key not in known:
                known[key] = event_id
                keys.append({"key": key, "event": event_id, "seen_at": transaction.now})
        if digest not in known:
            known[digest] = event_id
            keys.append({"key": digest, "event": event_id, "seen_at": transaction.now})
            new.append(arrival)
        results.append((arrival, event_id))
    # On PostgreSQL another node may have inserted one meanwhile: that fails the transaction, and
    # its repetition finds it.
    INSERT_SEEN.execute(transaction.connection, sorted(keys, key=lambda row: row["key"]))
    if new:
        _store(transaction, new)
    return _receipts(transaction, results)


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
    delivery_ids = [arrival.delivery_id or new_id() for arrival in new]
    fresh = [
        (arrival, id_)
        for arrival, id_ in zip(new, delivery_ids, strict=True)
        if arrival.delivery_id is None
    ]
    INSERT_DELIVERIES.execute(connection, [_delivery(*pair) for pair in fresh])
    INSERT_BODIES.execute(
        connection, [{"delivery": id_, "body": arrival.delivery.body} for arrival, id_ in fresh]
    )
    if replayed := [{"replayed": a.delivery_id} for a in new if a.delivery_id is not None]:
        connection.execute(ACCEPT_REJECTED, replayed)
    conversation_ids = _conversation_ids(transaction, (a.event.conversation for a in new))
    event_rows, entry_rows = [], []
    for arrival, delivery_id in zip(new, delivery_ids, strict=True):
        conversation_id = conversation_ids[_parties(arrival.event.conversation)]
        event_rows.append(_event(arrival, delivery_id, conversation_id))
        entry_rows.append(_entry(arrival, conversation_id, transaction.now))
    INSERT_EVENTS.execute(connection, event_rows)
    changed = lines.begin(transaction, entry_rows)
    insert_entries(connection, entry_rows)
    lines.advance(transaction, changed)


def insert_entries(connection: Connection, rows: Sequence[Row]) -> None:
    """Insert new entries; their places are drawn meanwhile, in the order of the rows."""
    if connection.dialect.name == "sqlite":
        ((last,),) = LAST_PLACE.execute(connection)
        rows = [{**row, "place": last + number} for number, row in enumerate(rows, 1)]
    INSERT_ENTRIES.execute(connection, rows)


def _parties(conversation: Conversation) -> Parties:
    return (conversation.channel, storable(conversation.sender), storable(conversation.party))


def _conversation_ids(
    transaction: Transaction, wanted: Iterable[Conversation]
) -> dict[Parties, int]:
    """The ids of conversations, made where they are new; on PostgreSQL, held until the commit."""
    connection = transaction.connection
    parties = sorted({_parties(conversation) for conversation in wanted})
    while True:
        ids = _find_conversations(transaction, parties)
        if missing := [p for p in parties if p not in ids]:
            rows = [{"channel": p[0], "sender": p[1], "party": p[2]} for p in missing]
            MAKE_CONVERSATIONS.execute(connection, rows)
        elif transaction.locks_rows and not transaction.held.issuperset(ids.values()):
            # Looked for again afterwards: one may just have been erased.
            lines.hold(transaction, ids.values())
        else:
            return ids


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
        "kind": EntryKind.AGENT.value,
        "channel": arrival.event.channel,
        "agent": arrival.event.agent,
        "conversation": conversation_id,
        "opt_out": arrival.event.opt_out is not None,
        "state": EntryState.READY.value,
        "attempts": 0,
        "retries": 0,
        "losses": 0,
        "waiting_until": arrival.waiting_until,
        "created_at": now,
        "startable_at": None,
    }


def _receipts(
    transaction: Transaction, results: Sequence[tuple[Arrival, EventId] | ReplayedSignature]
) -> list[Receipt | ReplayedSignature]:
    repeated = [
        (arrival, event_id)
        for arrival, event_id in (r for r in results if not isinstance(r, ReplayedSignature))
        if arrival.event_id != event_id
    ]
    agents: dict[str, str] = {}
    if repeated:
        asked = {"events": list({event_id for _, event_id in repeated})}
        agents = {
            row.event: row.agent for row in transaction.connection.execute(FIND_AGENTS, asked)
        }
        waiting = [
            {"with_event": event_id, "until": arrival.waiting_until}
            for arrival, event_id in repeated
            if arrival.waiting_until is not None
        ]
        if waiting:
            transaction.connection.execute(WAIT_WITH, waiting)
    return [
        result
        if isinstance(result, ReplayedSignature)
        else Receipt(
            event_id=result[1],
            agent=AgentName(agents.get(result[1], result[0].event.agent)),
            duplicate=result[0].event_id != result[1],
        )
        for result in results
    ]
