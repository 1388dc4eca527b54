"""Accepts deliveries: each is committed once, completely or not at all, also if it arrives
repeatedly or concurrently. A step of the group commit, so that a burst costs a handful of
statements. Events are inserted first and looked up afterwards, so that no concurrent process can
insert one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Final

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.journal import (
    arrival_conversations,
    consents,
    event_text,
    order,
    ranks,
    rebuilt_keys,
    receipts,
    rejected,
    replay_keys,
)
from berinia_webhookd.journal.arrival_conversations import Conversations
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.contract import ReplayedSignature
from berinia_webhookd.journal.database import (
    Conflict,
    Parties,
    Transaction,
    Unstorable,
    microseconds,
)
from berinia_webhookd.journal.deliveries import (
    EVENTS_EACH,
    key_digest,
    new_id,
    once_key,
    row_of,
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
    Receipts,
    RejectedItem,
    VerifiedDelivery,
)

AGENT = EntryKind.AGENT.value
READY, SKIPPED = EntryState.READY.value, EntryState.SKIPPED.value
DIGEST: Final = 6  # index of the state in a row
GatheringOf = Callable[[AgentName], Gathering | None]


def no_gathering(agent: AgentName) -> None:
    """Hand over each message by itself."""
    del agent


@dataclass(slots=True, eq=False)
class NewEvent:
    """One event, with its id if it is new, and its stored form. It gets its numbers when it is
    inserted.
    """

    id: EventId
    event: Event
    digest: bytes
    parties: Parties
    data: str
    in_form: bool  # whether its raw fields are read from the delivery's body
    gathering: Gathering | None = None
    consent: ConsentState | None = None  # the change of consent by its sender
    number: int = 0
    delivery: int = 0
    place: int = 0
    conversation: int = 0


@dataclass(slots=True, eq=False)
class Arrival:
    """One delivery to accept. A replayed one has a number already."""

    delivery: VerifiedDelivery
    events: Sequence[NewEvent]
    size_bytes: int  # the size of the stored data
    node: str
    rejected: tuple[RejectedItem, ...] = ()
    wait_seconds: float | None = None
    number: int | None = None
    events_before: int = 0  # how many of its event numbers are taken
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
        """Return a decoded delivery, ready to be stored."""
        alone = len(decoded.events) == 1 and not decoded.rejected and number is None
        form = delivery.fields if alone else None  # erasing one of several events blanks the body
        events: list[NewEvent] = []
        size_bytes = len(delivery.body)
        for event in decoded.events:
            channel, sender, party = event.conversation
            parties = channel, storable(sender), storable(party)
            text, in_form = event_text.encode(event, form)
            gathering = gathering_of(event.agent) if event.gathers else None
            id_ = EventId(new_id())
            size_bytes += len(text)
            events.append(NewEvent(id_, event, event.digest, parties, text, in_form, gathering))
        of_delivery = (delivery, events, size_bytes, node, decoded.rejected, wait_seconds)
        return cls(*of_delivery, number, events_before, key)


async def accept(
    transaction: Transaction, arrivals: Sequence[Arrival]
) -> list[Receipts | ReplayedSignature]:
    """Store new events; known ones get the receipts of the first time."""
    if any(one.rejected for one in arrivals):
        arrivals = await rejected.without_kept_items(transaction, arrivals)
    conversations = await arrival_conversations.of(transaction, arrivals)
    used = await replay_keys.used(transaction, arrivals)
    rebuilt = await rebuilt_keys.known(transaction, arrivals)
    inserted = await _insert_deliveries(transaction, arrivals, used, conversations.ids)
    known = await _insert_events(transaction, arrivals, used, inserted) | rebuilt
    kept = await _without_repeated(transaction, inserted, known)
    for understood in (ranks.judge, consents.hear):
        if changed := await understood(transaction, kept):
            arrivals, kept = _as_understood(arrivals, kept, changed)
    await _insert_authors(transaction, kept)
    await _insert_entries(transaction, kept, conversations)
    return await receipts.of(transaction, arrivals, known, used, kept)


async def touched(_: Transaction, arrivals: Sequence[Arrival]) -> Iterable[Parties]:
    """Return the conversations of these events, not all of which exist."""
    return arrival_conversations.parties_of(arrivals)


# ---- what is inserted


# An event to insert, and its arrival.
Inserted = tuple[Arrival, NewEvent]


async def _insert_deliveries(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    used: Container[bytes],
    conversations: Mapping[Parties, int],
) -> list[Inserted]:
    """Insert the deliveries that are new within this batch, and return their events. A delivery
    whose replay key was used before, or earlier in the batch, is not new. The places of the entries
    are drawn here, while their conversations are locked.
    """
    keys, digests = set[bytes](), set[bytes]()
    taken: list[tuple[Arrival, list[NewEvent]]] = []
    for one in arrivals:
        if (key := one.delivery.replay_key) is not None:
            if key in used or key in keys:
                continue
            keys.add(key)
        news: list[NewEvent] = []
        for new in one.events:
            if new.digest not in digests:
                digests.add(new.digest)
                news.append(new)
        if one.events_before + len(news) > EVENTS_EACH:
            raise Unstorable("too many events in one delivery")
        if news or (one.rejected and one.number is None):
            taken.append((one, news))
    rows = [_delivery(one) for one, _ in taken if one.number is None]
    drawn = iter(await transaction.insert_numbered("insert_delivery", rows))
    replayed = len(taken) - len(rows)
    places = iter(await transaction.numbers(replayed) if replayed else ())
    inserted: list[Inserted] = []
    for one, news in taken:
        delivery = next(drawn) if one.number is None else one.number
        place = (delivery if one.number is None else next(places)) * EVENTS_EACH
        for number, new in enumerate(news, delivery * EVENTS_EACH + one.events_before):
            new.number, new.delivery, new.place = number, delivery, place
            new.conversation = conversations[new.parties]
            inserted.append((one, new))
            place += 1
    return inserted


def _delivery(arrival: Arrival) -> tuple[Any, ...]:
    if not arrival.rejected:
        return row_of(arrival.delivery, arrival.node)
    rejection, key = rejection_text(as_items(arrival.rejected)), once_key(arrival.delivery)
    return row_of(arrival.delivery, arrival.node, rejection=rejection, once_key=key)


async def _insert_events(
    transaction: Transaction,
    arrivals: Sequence[Arrival],
    used: Mapping[bytes, object],
    inserted: Sequence[Inserted],
) -> dict[bytes, EventId]:
    """Insert the events, and return by digest the event that has or had it. One that was seen
    before takes precedence over one inserted just now.
    """
    known = {new.digest: new.id for _, new in inserted}
    # In the same order on every node, to prevent deadlocks.
    rows = sorted([_event(new) for _, new in inserted], key=itemgetter(DIGEST))
    total = await transaction.insert("insert_event", rows)
    digests = [*known]
    if used:
        digests += {new.digest for one in arrivals for new in one.events} - known.keys()
    if total < len(rows) or used:
        known.update(await transaction.execute("events_with", digests=digests))
    keys = {key for one in arrivals if (key := one.delivery.replay_key) is not None}
    unused = {key_digest(key) for key in keys - used.keys()}
    for digest, event in await transaction.execute("already_seen", digests=[*digests, *unused]):
        if digest in unused:
            raise Conflict("a used signature was purged meanwhile")
        known[digest] = event
    return known


def _event(new: NewEvent) -> tuple[Any, ...]:
    """Return the parameters of `insert_event` for an event."""
    event = new.event
    key = event.reconcile_key
    return (
        new.number,
        new.id,
        new.delivery,
        new.place,
        str(event.kind),
        new.conversation,
        new.digest,
        None if event.opt_out is None else str(event.opt_out),
        event.skipped,
        None if event.about is None else ranks.about_of(event),
        event.rank,
        key,
        None if key is None or not event.reconciled else key,
        1 if new.in_form else 0,
        new.data,
    )


async def _without_repeated(
    transaction: Transaction, inserted: list[Inserted], known: Mapping[bytes, EventId]
) -> list[Inserted]:
    """Delete inserted events that are known already, and deliveries that have no others."""
    kept = [(one, new) for one, new in inserted if known[new.digest] == new.id]
    if len(kept) == len(inserted):
        return inserted
    repeated = [(one, new) for one, new in inserted if known[new.digest] != new.id]
    await transaction.execute("delete_events", numbers=[new.number for _, new in repeated])
    empty = {new.delivery for one, new in repeated if one.number is None and not one.rejected}
    empty -= {new.delivery for _, new in kept}
    await transaction.execute("delete_deliveries", numbers=list(empty))
    return kept


def _as_understood(
    arrivals: Iterable[Arrival], kept: Iterable[Inserted], changed: Mapping[EventId, NewEvent]
) -> tuple[list[Arrival], list[Inserted]]:
    """Return the events as changed by the register of consents and the ranks of receipts."""
    return (
        [replace(one, events=[changed.get(new.id, new) for new in one.events]) for one in arrivals],
        [(one, changed.get(new.id, new)) for one, new in kept],
    )


async def _insert_authors(transaction: Transaction, kept: Sequence[Inserted]) -> None:
    rows = [(new.number, storable(who)) for _, new in kept for who in new.event.authors]
    await transaction.many("insert_author", rows)


async def _insert_entries(
    transaction: Transaction, kept: Sequence[Inserted], conversations: Conversations
) -> None:
    rows: list[tuple[Any, ...]] = []
    counts = transaction.counts
    touched = {new.conversation for _, new in kept} - conversations.empty
    heads = await order.Heads.of(transaction, touched, conversations.paused)
    for arrival, new in kept:
        event, conversation = new.event, new.conversation
        agent, overtakes = event.agent, event.overtakes
        state, startable_at, wait, quiet, gather = SKIPPED, None, None, None, None
        if event.skipped is None:
            state, gathering = READY, new.gathering
            if arrival.wait_seconds is not None:
                wait = microseconds(arrival.wait_seconds)
            if gathering is not None:
                quiet = microseconds(gathering.seconds)
                gather = microseconds(gathering.most_seconds)
            startable_at = heads.append((conversation, AGENT, agent), overtakes, quiet is not None)
        rows.append(
            (
                new.place,
                new.number,
                AGENT,
                agent,
                conversation,
                1 if overtakes else 0,
                state,
                startable_at,
                loop_key(event),
                quiet,
                gather,
                wait,
            )
        )
        counts[AGENT, event.channel, agent, state] += 1
    transaction.changes.work |= heads.start
    await transaction.many("insert_entry", rows)
    await order.advance(transaction, heads.changed)
