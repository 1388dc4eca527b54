"""Deliveries that arrive: committed once each, all of one or nothing, however often and close
together they come.

A step of the group commit, so that a burst costs a handful of statements. Events are inserted
first, and asked about afterwards: so nothing that another process does meanwhile lets one in twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from berinia_webhookd.journal import consents, consents_key, event_text, order, ranks
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.database import (
    Conflict,
    Row,
    Transaction,
    Unstorable,
    microseconds,
    stored,
)
from berinia_webhookd.journal.deliveries import (
    EVENTS_EACH,
    delivery_row,
    key_digest,
    new_id,
    once_key,
)
from berinia_webhookd.journal.event_text import storable
from berinia_webhookd.journal.loops import loop_key
from berinia_webhookd.journal.rejected_items import as_items, rejection_text
from berinia_webhookd.model import (
    AgentName,
    ConsentState,
    Conversation,
    Decoded,
    EntryKind,
    EntryState,
    Event,
    EventId,
    Gathering,
    Receipt,
    Receipts,
    RejectedItem,
    VerifiedDelivery,
)

Parties = tuple[str, str, str]
GatheringOf = Callable[[AgentName], Gathering | None]


def no_gathering(agent: AgentName) -> None:
    """Hand over each message by itself."""
    del agent


class NewEvent(NamedTuple):
    """One event, with the id it gets if it is new, and as it is stored."""

    id: EventId
    event: Event
    data: str
    in_form: bool  # whether its raw fields are read from the delivery's body
    consent: ConsentState | None = None  # what its sender changed by it
    gathering: Gathering | None = None


class Arrival(NamedTuple):
    """One delivery to accept. It has a number already where it is replayed."""

    delivery: VerifiedDelivery
    events: tuple[NewEvent, ...]
    node: str
    rejected: tuple[RejectedItem, ...] = ()
    wait_seconds: float | None = None
    number: int | None = None
    events_before: int = 0  # numbers of its that are taken
    key: ConsentsKey | None = None

    @classmethod
    def of(
        cls,
        delivery: VerifiedDelivery,
        decoded: Decoded,
        *,
        node: str,
        wait_seconds: float | None = None,
        number: int | None = None,
        events_before: int = 0,
        key: ConsentsKey | None = None,
        gathering_of: GatheringOf = no_gathering,
    ) -> Arrival:
        """What a delivery is decoded to, ready to be stored."""
        alone = len(decoded.events) == 1 and not decoded.rejected and number is None
        form = delivery.fields if alone else None  # erasing one of several blanks the body
        events = tuple(
            NewEvent(
                EventId(new_id()),
                event,
                *event_text.encode(event, form),
                gathering=gathering_of(event.agent),
            )
            for event in decoded.events
        )
        return cls(
            *(delivery, events, node, decoded.rejected, wait_seconds),
            *(number, events_before, key),
        )

    @property
    def size_bytes(self) -> int:
        """How much is to be stored."""
        return len(self.delivery.body) + sum(len(new.data) for new in self.events)


async def accept(
    transaction: Transaction, arrivals: Sequence[Arrival]
) -> list[Receipts | ReplayedSignature]:
    """Store what is new; what was seen before gets the receipts of the first time."""
    arrivals = await _with_new_items(transaction, arrivals)
    parties = [_parties(new.event.conversation) for one in arrivals for new in one.events]
    key = next((one.key for one in arrivals), None)
    conversations = await _conversations(transaction, parties, key)
    used = await _used_keys(transaction, arrivals)
    first = _first_ones(arrivals, used)
    inserted = await _insert(transaction, first, conversations.ids)
    known = await _known(transaction, arrivals, used)
    kept = await _without_repeated(transaction, inserted, known)
    for understood in (ranks.judge, consents.hear):
        if changed := await understood(transaction, kept):
            arrivals, kept = _as_understood(arrivals, kept, changed)
    await transaction.many("insert_author", _authors(kept))
    await _insert_entries(transaction, kept, conversations)
    return await _receipts(transaction, arrivals, known, used, kept)


async def touched(transaction: Transaction, arrivals: Sequence[Arrival]) -> Iterable[int]:
    """Return the conversations that these events will come into, as far as there are any yet."""
    wanted = {_parties(new.event.conversation) for one in arrivals for new in one.events}
    return (await _find_conversations(transaction, sorted(wanted))).ids.values()


async def _with_new_items(transaction: Transaction, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The arrivals, each without rejected items that are kept already: of the same body."""
    keys = {id(one): once_key(one.delivery) for one in arrivals if one.rejected}
    if not keys:
        return [*arrivals]
    kept = {key for (key,) in await transaction.execute("kept_once", keys=list(keys.values()))}
    result: list[Arrival] = []
    for one in arrivals:
        key = keys.get(id(one))
        result.append(one._replace(rejected=()) if key in kept and one.number is None else one)
        if key is not None:
            kept.add(key)
    return result


@dataclass(slots=True, eq=False)
class Conversations:
    """Conversations by their parties, and what is known of them before anything new is in them."""

    ids: dict[Parties, int] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)  # perhaps until just now
    empty: set[int] = field(default_factory=set)

    def add(self, rows: Iterable[Row]) -> None:
        """Take in what was found, or made."""
        for row in rows:
            self.ids[row["channel"], row["sender"], row["party"]] = row["id"]
            if row["paused"]:
                self.paused.add(row["id"])


async def _conversations(
    transaction: Transaction, parties: Iterable[Parties], key: ConsentsKey | None
) -> Conversations:
    """The conversations of these parties, made where they are new; on PostgreSQL, held until the
    commit. Nothing can be in those that are new where nobody else writes meanwhile.
    """
    wanted = sorted(set(parties))
    found = await _find_conversations(transaction, wanted)
    while True:
        if missing := [_as_row(names) for names in wanted if names not in found.ids]:
            made = await transaction.many("make_conversations", missing)
            found.add(made)
            found.empty.update(row["id"] for row in made)
            await consents_key.recognise(transaction, key, (row["sender"] for row in made))
        if not transaction.shared:
            return found
        if transaction.held.issuperset(found.ids.values()) and len(found.ids) == len(wanted):
            found.empty.clear()
            return found
        # Looked for again afterwards: one may just have been erased, or made by another node.
        await order.hold(transaction, found.ids.values())
        found = await _find_conversations(transaction, wanted)


async def _find_conversations(
    transaction: Transaction, parties: Sequence[Parties]
) -> Conversations:
    found = Conversations()
    found.add(await transaction.many("find_conversations", list(map(_as_row, parties))))
    return found


def _parties(conversation: Conversation) -> Parties:
    return (conversation.channel, storable(conversation.sender), storable(conversation.party))


def _as_row(parties: Parties) -> dict[str, str]:
    return dict(zip(("channel", "sender", "party"), parties, strict=True))


async def _used_keys(
    transaction: Transaction, arrivals: Sequence[Arrival]
) -> dict[bytes, set[str]]:
    """By replay key, the events that came with it; a delivery that is replayed uses its own."""
    numbers = {
        one.delivery.replay_key: one.number
        for one in arrivals
        if one.delivery.replay_key is not None
    }
    if not numbers:
        return {}
    keys = {key_digest(key): key for key in numbers}
    found = await transaction.execute("used_keys", keys=list(numbers), digests=list(keys))
    used: dict[bytes, set[str]] = {}
    for key, delivery, event in found:
        replay_key = keys.get(key, key)
        if delivery != numbers[replay_key]:
            used.setdefault(replay_key, set()).add(event)
    return used


def _first_ones(
    arrivals: Sequence[Arrival], used: Mapping[bytes, object]
) -> list[tuple[Arrival, list[NewEvent]]]:
    """The arrivals whose events are new as far as this batch goes, with these events. With a key
    that was used, or is used by an earlier one of the batch, there is nothing new.
    """
    keys, digests = set(used), set[bytes]()
    first: list[tuple[Arrival, list[NewEvent]]] = []
    for one in arrivals:
        key = one.delivery.replay_key
        if key in keys:
            continue
        if key is not None:
            keys.add(key)
        fresh: list[NewEvent] = []
        for new in one.events:
            if new.event.digest not in digests:
                digests.add(new.event.digest)
                fresh.append(new)
        if fresh or one.rejected:
            first.append((one, fresh))
    return first


class Inserted(NamedTuple):
    """An event that was inserted, unless it was there."""

    arrival: Arrival
    new: NewEvent
    number: int
    delivery: int
    conversation: int
    place: int


async def _insert(
    transaction: Transaction,
    first: Sequence[tuple[Arrival, Sequence[NewEvent]]],
    conversations: Mapping[Parties, int],
) -> list[Inserted]:
    """Insert deliveries and events. The places of their entries are drawn here, where their
    conversations are held.
    """
    numbers = await transaction.numbers(len(first)) if first else ()
    deliveries: list[dict[str, Any]] = []
    inserted: list[Inserted] = []
    for number, (one, fresh) in zip(numbers, first, strict=True):
        if len(fresh) + one.events_before > EVENTS_EACH:
            raise Unstorable("too many events in one delivery")
        delivery = number if one.number is None else one.number
        if one.number is None:
            deliveries.append(_delivery(one, number))
        for index, new in enumerate(fresh):
            conversation = conversations[_parties(new.event.conversation)]
            event = delivery * EVENTS_EACH + one.events_before + index
            place = number * EVENTS_EACH + index
            inserted.append(Inserted(one, new, event, delivery, conversation, place))
    await transaction.many("insert_delivery", deliveries)
    # In one order on every node, so that two of them never wait for each other.
    rows = sorted(map(_event, inserted), key=lambda row: bytes(row["digest"]))
    await transaction.many("insert_event", rows)
    return inserted


def _delivery(arrival: Arrival, number: int) -> dict[str, Any]:
    return {
        **delivery_row(arrival.delivery, node=arrival.node),
        "number": number,
        "state": "accepted",
        "rejection": rejection_text(as_items(arrival.rejected)),
        "once_key": once_key(arrival.delivery) if arrival.rejected else None,
    }


def _event(one: Inserted) -> dict[str, Any]:
    event = one.new.event
    return {
        "number": one.number,
        "id": one.new.id,
        "delivery": one.delivery,
        "place": one.place,
        "kind": event.kind.value,
        "conversation": one.conversation,
        "digest": event.digest,
        "opt_out": event.opt_out,
        "skipped": event.skipped,
        "about": None if event.about is None else ranks.about_of(event),
        "rank": event.rank,
        "raw_in_body": int(one.new.in_form),
        "data": one.new.data,
    }


async def _known(
    transaction: Transaction, arrivals: Sequence[Arrival], used: Mapping[bytes, object]
) -> dict[bytes, EventId]:
    """By digest, the event that has it or had it. What was seen before wins over what was inserted
    just now.
    """
    digests = {new.event.digest for one in arrivals for new in one.events}
    keys = {key_digest(key) for one in arrivals if (key := one.delivery.replay_key) is not None}
    unused = keys - {key_digest(key) for key in used}
    found = await transaction.execute("already_seen", digests=[*digests, *unused])
    known: dict[bytes, EventId] = {}
    for digest, event, gone in found:
        if digest in unused:
            raise Conflict("a used signature was purged meanwhile")
        if gone or digest not in known:
            known[digest] = event
    return known


async def _without_repeated(
    transaction: Transaction, inserted: Sequence[Inserted], known: Mapping[bytes, EventId]
) -> list[Inserted]:
    """Take back what is here already, or was, and deliveries of nothing else."""
    kept = [one for one in inserted if known[one.new.event.digest] == one.new.id]
    if len(kept) < len(inserted):
        kept_deliveries = {one.delivery for one in kept}
        repeated = [one for one in inserted if known[one.new.event.digest] != one.new.id]
        await transaction.execute("delete_events", numbers=[one.number for one in repeated])
        empty = {
            one.delivery
            for one in repeated
            if one.arrival.number is None and not one.arrival.rejected
        }
        await transaction.execute("delete_deliveries", numbers=list(empty - kept_deliveries))
    return kept


def _as_understood(
    arrivals: Iterable[Arrival], kept: Iterable[Inserted], changed: Mapping[EventId, NewEvent]
) -> tuple[list[Arrival], list[Inserted]]:
    """The same with the events as the register of consents and the ranks of receipts have them."""
    return (
        [a._replace(events=tuple(changed.get(new.id, new) for new in a.events)) for a in arrivals],
        [one._replace(new=changed.get(one.new.id, one.new)) for one in kept],
    )


def _authors(kept: Sequence[Inserted]) -> list[dict[str, Any]]:
    return [
        {"event": one.number, "address": storable(address)}
        for one in kept
        for address in one.new.event.authors
    ]


async def _insert_entries(
    transaction: Transaction, kept: Sequence[Inserted], conversations: Conversations
) -> None:
    rows = [_entry(one) for one in kept]
    ready = [row for row in rows if row["state"] == EntryState.READY]
    changed = await order.begin(
        transaction, ready, empty=conversations.empty, paused=conversations.paused
    )
    await transaction.many("insert_entry", rows)
    await order.advance(transaction, changed)
    for one, row in zip(kept, rows, strict=True):
        event = one.new.event
        transaction.count(EntryKind.AGENT.value, event.channel, event.agent, row["state"])


def _entry(one: Inserted) -> dict[str, Any]:
    event = one.new.event
    gathering = one.new.gathering if event.gathers else None
    return {
        "place": one.place,
        "event": one.number,
        "kind": EntryKind.AGENT.value,
        "agent": event.agent,
        "conversation": one.conversation,
        "opt_out": int(event.overtakes),
        "state": EntryState.READY.value if event.skipped is None else EntryState.SKIPPED.value,
        "startable_at": None,
        "quiet": None if gathering is None else microseconds(gathering.seconds),
        "gather": None if gathering is None else microseconds(gathering.most_seconds),
        "loop_key": loop_key(event),
        "wait": microseconds(one.arrival.wait_seconds if event.skipped is None else None),
    }


async def _receipts(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    known: Mapping[bytes, EventId],
    used: dict[bytes, set[str]],
    kept: Sequence[Inserted],
) -> list[Receipts | ReplayedSignature]:
    """What everybody is told. Keys that came with what is not new are remembered, and whoever waits
    for what was here before waits with the others.
    """
    new_keys = {one.arrival.delivery.replay_key for one in kept}
    results: list[Receipts | ReplayedSignature] = []
    repeated: list[tuple[Arrival, EventId]] = []
    for one in arrivals:
        key, ids = one.delivery.replay_key, {known.get(new.event.digest) for new in one.events}
        if key is not None and (None in ids or ids.isdisjoint(used.get(key, ids))):
            results.append(ReplayedSignature("the signature was used with another message"))
            continue
        receipts = tuple(
            Receipt(
                known[new.event.digest],
                new.event.agent,
                known[new.event.digest] != new.id,
                new.event.skipped,
                new.consent,
            )
            for new in one.events
        )
        if key is not None and key not in used:
            used[key] = {receipt.event_id for receipt in receipts}
            if key not in new_keys:
                await _remember_key(transaction, one, receipts[0].event_id)
        repeated += [(one, receipt.event_id) for receipt in receipts if receipt.duplicate]
        results.append(receipts)
    return await _of_the_first_time(transaction, results, repeated) if repeated else results


async def _remember_key(transaction: Transaction, arrival: Arrival, event: str) -> None:
    key = arrival.delivery.replay_key
    row = {
        "digest": key_digest(key or b""),
        "event": event,
        "received_at": stored(arrival.delivery.received_at),
    }
    await transaction.many("remember", [row])


async def _of_the_first_time(
    transaction: Transaction,
    results: Sequence[Receipts | ReplayedSignature],
    repeated: Sequence[tuple[Arrival, EventId]],
) -> list[Receipts | ReplayedSignature]:
    """The receipts with the agents the events went to; who waits now, waits for their replies."""
    found = await transaction.execute(
        "agents_of_events", events=list({event for _, event in repeated})
    )
    first = {row["event"]: (AgentName(row["agent"]), row["skipped"]) for row in found}
    waiting = [
        {"event": event, "wait": microseconds(arrival.wait_seconds)}
        for arrival, event in repeated
        if arrival.wait_seconds is not None
    ]
    await transaction.many("wait_with", waiting)
    return [
        result
        if isinstance(result, ReplayedSignature)
        else tuple(
            _as_the_first(one, *first.get(one.event_id, (one.agent, None))) for one in result
        )
        for result in results
    ]


def _as_the_first(receipt: Receipt, agent: AgentName, skipped: str | None) -> Receipt:
    return receipt._replace(agent=agent, skipped=skipped) if receipt.duplicate else receipt
