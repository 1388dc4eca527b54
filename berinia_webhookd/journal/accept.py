"""Deliveries that arrive: committed once each, all of one or nothing, however often and close
together they come.

A step of the group commit, so that a burst costs a handful of statements. Events are inserted
first, and asked about afterwards: so nothing that another process does meanwhile lets one in twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

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
    DeliveryRow,
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

AGENT = EntryKind.AGENT.value
READY, SKIPPED = EntryState.READY.value, EntryState.SKIPPED.value
GatheringOf = Callable[[AgentName], Gathering | None]


def no_gathering(agent: AgentName) -> None:
    """Hand over each message by itself."""
    del agent


class Parties(NamedTuple):
    """By what a conversation is known, as it is stored."""

    channel: str
    sender: str
    party: str


class NewConversation(NamedTuple):
    """A conversation to make."""

    channel: str
    sender: str
    party: str
    of_group: bool


class NewEvent(NamedTuple):
    """One event, with the id it gets if it is new, and as it is stored."""

    id: EventId
    event: Event
    parties: Parties
    data: str
    in_form: bool  # whether its raw fields are read from the delivery's body
    consent: ConsentState | None = None  # what its sender changed by it
    gathering: Gathering | None = None


class Arrival(NamedTuple):
    """One delivery to accept. It has a number already where it is replayed."""

    delivery: VerifiedDelivery
    events: Sequence[NewEvent]
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
        events: list[NewEvent] = []
        for event in decoded.events:
            channel, sender, party = event.conversation
            parties = Parties(channel, storable(sender), storable(party))
            data, in_form = event_text.encode(event, form)
            gathering = gathering_of(event.agent)
            id_ = EventId(new_id())
            events.append(NewEvent(id_, event, parties, data, in_form, gathering=gathering))
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
    if any(one.rejected for one in arrivals):
        arrivals = await _with_new_items(transaction, arrivals)
    conversations = await _conversations(transaction, arrivals)
    used = await _used_keys(transaction, arrivals)
    inserted = await _insert(transaction, arrivals, used, conversations.ids)
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
    return (await _find_conversations(transaction, _parties(arrivals))).ids.values()


def _parties(arrivals: Iterable[Arrival]) -> list[Parties]:
    return sorted({new.parties for one in arrivals for new in one.events})


async def _with_new_items(transaction: Transaction, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The arrivals, each without rejected items that are kept already: of the same body."""
    keys = {id(one): once_key(one.delivery) for one in arrivals if one.rejected}
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
            id_, *parties, paused = row
            self.ids[Parties(*parties)] = id_
            if paused:
                self.paused.add(id_)


async def _conversations(transaction: Transaction, arrivals: Sequence[Arrival]) -> Conversations:
    """The conversations of the events, made where they are new; on PostgreSQL, held until the
    commit. Nothing can be in those that are new where nobody else writes meanwhile.
    """
    wanted = _parties(arrivals)
    found = await _find_conversations(transaction, wanted)
    while True:
        if missing := [parties for parties in wanted if parties not in found.ids]:
            groups = {new.parties for one in arrivals for new in one.events if new.event.group}
            rows = [NewConversation(*parties, parties in groups) for parties in missing]
            made = await transaction.many("make_conversations", rows)
            found.add(made)
            found.empty.update(row["id"] for row in made)
            senders = (row["sender"] for row in made)
            await consents_key.recognise(transaction, arrivals[0].key, senders)
        if not transaction.shared:
            return found
        if transaction.held.issuperset(found.ids.values()) and len(found.ids) == len(wanted):
            found.empty.clear()
            return found
        # Looked for again afterwards: one may just have been erased, or made by another node.
        await order.hold(transaction, found.ids.values())
        found = await _find_conversations(transaction, wanted)


async def _find_conversations(transaction: Transaction, wanted: Sequence[Parties]) -> Conversations:
    found = Conversations()
    found.add(await transaction.many("find_conversations", wanted))
    return found


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


class EventRow(NamedTuple):
    """An event as it is stored."""

    number: int
    id: str
    delivery: int
    place: int
    kind: str
    conversation: int
    digest: bytes
    opt_out: str | None
    skipped: str | None
    about: str | None
    rank: int | None
    raw_in_body: bool
    data: str


class Inserted(NamedTuple):
    """An event that was inserted, unless it was there."""

    arrival: Arrival
    new: NewEvent
    row: EventRow

    @property
    def number(self) -> int:
        """The number it has, or would have."""
        return self.row.number


async def _insert(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    used: Mapping[bytes, object],
    conversations: Mapping[Parties, int],
) -> list[Inserted]:
    """Insert the deliveries and events that are new as far as this batch goes. With a key that was
    used, or is used by an earlier one of the batch, there is nothing new. The places of the entries
    are drawn here, where their conversations are held.
    """
    keys, digests = set(used), set[bytes]()
    deliveries: list[DeliveryRow] = []
    inserted: list[Inserted] = []
    for number, one in zip(await transaction.numbers(len(arrivals)), arrivals, strict=True):
        if (key := one.delivery.replay_key) is not None:
            if key in keys:
                continue
            keys.add(key)
        before = len(inserted)
        for new in one.events:
            if new.event.digest not in digests:
                digests.add(new.event.digest)
                row = _event(one, new, number, len(inserted) - before, conversations[new.parties])
                inserted.append(Inserted(one, new, row))
        if one.number is None and (one.rejected or len(inserted) > before):
            deliveries.append(_delivery(one, number))
    await transaction.many("insert_delivery", deliveries)
    # In one order on every node, so that two of them never wait for each other.
    rows = sorted((one.row for one in inserted), key=attrgetter("digest"))
    await transaction.many("insert_event", rows)
    return inserted


def _event(arrival: Arrival, new: NewEvent, number: int, index: int, conversation: int) -> EventRow:
    event = new.event
    delivery = number if arrival.number is None else arrival.number
    if arrival.events_before + index >= EVENTS_EACH:
        raise Unstorable("too many events in one delivery")
    return EventRow(
        delivery * EVENTS_EACH + arrival.events_before + index,
        new.id,
        delivery,
        number * EVENTS_EACH + index,
        event.kind.value,
        conversation,
        event.digest,
        None if event.opt_out is None else event.opt_out.value,
        event.skipped,
        None if event.about is None else ranks.about_of(event),
        event.rank,
        new.in_form,
        new.data,
    )


def _delivery(arrival: Arrival, number: int) -> DeliveryRow:
    if not arrival.rejected:
        return DeliveryRow.of(arrival.delivery, number, node=arrival.node)
    return DeliveryRow.of(
        arrival.delivery,
        number,
        node=arrival.node,
        rejection=rejection_text(as_items(arrival.rejected)),
        once_key=once_key(arrival.delivery),
    )


async def _known(
    transaction: Transaction, arrivals: Sequence[Arrival], used: Mapping[bytes, object]
) -> dict[bytes, EventId]:
    """By digest, the event that has it or had it. What was seen before wins over what was inserted
    just now.
    """
    digests = {new.event.digest for one in arrivals for new in one.events}
    keys = {key for one in arrivals if (key := one.delivery.replay_key) is not None}
    unused = {key_digest(key) for key in keys - used.keys()}
    found = await transaction.execute("already_seen", digests=[*digests, *unused])
    known: dict[bytes, EventId] = {}
    for digest, event, gone in found:
        if digest in unused:
            raise Conflict("a used signature was purged meanwhile")
        if gone or digest not in known:
            known[digest] = event
    return known


async def _without_repeated(
    transaction: Transaction, inserted: list[Inserted], known: Mapping[bytes, EventId]
) -> list[Inserted]:
    """Take back what is here already, or was, and deliveries of nothing else."""
    repeated = [one for one in inserted if known[one.row.digest] != one.row.id]
    if not repeated:
        return inserted
    kept = [one for one in inserted if known[one.row.digest] == one.row.id]
    await transaction.execute("delete_events", numbers=[one.number for one in repeated])
    empty = {
        one.row.delivery
        for one in repeated
        if one.arrival.number is None and not one.arrival.rejected
    }
    empty -= {one.row.delivery for one in kept}
    await transaction.execute("delete_deliveries", numbers=list(empty))
    return kept


def _as_understood(
    arrivals: Iterable[Arrival], kept: Iterable[Inserted], changed: Mapping[EventId, NewEvent]
) -> tuple[list[Arrival], list[Inserted]]:
    """The same with the events as the register of consents and the ranks of receipts have them."""
    return (
        [a._replace(events=[changed.get(new.id, new) for new in a.events]) for a in arrivals],
        [one._replace(new=changed.get(one.new.id, one.new)) for one in kept],
    )


def _authors(kept: Sequence[Inserted]) -> list[dict[str, object]]:
    return [
        {"event": one.number, "address": storable(address)}
        for one in kept
        for address in one.new.event.authors
    ]


async def _insert_entries(
    transaction: Transaction, kept: Sequence[Inserted], conversations: Conversations
) -> None:
    entries: list[order.NewEntry] = []
    for arrival, new, row in kept:
        event = new.event
        agent, skipped = event.agent, event.skipped is not None
        state = SKIPPED if skipped else READY
        gathering = new.gathering if event.gathers else None
        entries.append(
            order.NewEntry(
                *(row.place, row.number, AGENT, agent, row.conversation),
                *(int(event.overtakes), state),
                quiet=None if gathering is None else microseconds(gathering.seconds),
                gather=None if gathering is None else microseconds(gathering.most_seconds),
                loop_key=loop_key(event),
                wait=None if skipped else microseconds(arrival.wait_seconds),
            )
        )
        transaction.count(AGENT, event.channel, agent, state)
    await order.insert(transaction, entries, empty=conversations.empty, paused=conversations.paused)


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
    results: list[Receipts | ReplayedSignature] = []
    repeated: list[tuple[Arrival, EventId]] = []
    for one in arrivals:
        key = one.delivery.replay_key
        if key is not None and not await _may_use(transaction, one, known, used, kept):
            results.append(ReplayedSignature("the signature was used with another message"))
            continue
        receipts: list[Receipt] = []
        for new in one.events:
            event, id_ = new.event, known[new.event.digest]
            duplicate = id_ != new.id
            receipts.append(Receipt(id_, event.agent, duplicate, event.skipped, new.consent))
            if duplicate:
                repeated.append((one, id_))
        results.append(tuple(receipts))
    return await _of_the_first_time(transaction, results, repeated) if repeated else results


async def _may_use(
    transaction: Transaction,
    arrival: Arrival,
    known: Mapping[bytes, EventId],
    used: dict[bytes, set[str]],
    kept: Sequence[Inserted],
) -> bool:
    """Whether a delivery's replay key belongs to its events; it does from now on if it is new."""
    key = arrival.delivery.replay_key or b""
    ids = {known.get(new.event.digest) for new in arrival.events}
    if None in ids or ids.isdisjoint(used.get(key, ids)):
        return False
    if key not in used:
        used[key] = {str(id_) for id_ in ids}
        if all(one.arrival.delivery.replay_key != key for one in kept):
            await _remember_key(transaction, arrival, known[arrival.events[0].event.digest])
    return True


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
