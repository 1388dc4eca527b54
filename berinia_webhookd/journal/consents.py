"""The register of consents: who may be written to. A person's opt-out or opt-in is written in the
transaction that accepts its event, and outlives the event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from berinia_webhookd.journal import event_text
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.database import Row, Transaction, instant, stored
from berinia_webhookd.model import Consent, ConsentState, EventId, OptOut

if TYPE_CHECKING:
    from berinia_webhookd.journal.accept import Arrival, Inserted, NewEvent

PAGE: Final = 500

Party = tuple[str, str]  # address in normal form, channel


@dataclass(frozen=True, slots=True)
class Said:
    """A person's statement of consent: STOP, START, or a word that may mean START."""

    address: str
    channel: str
    event: EventId
    word: OptOut | None  # None: START if the person has opted out, otherwise no statement
    at: int | None = None  # the provider's time; None: now
    time_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """A row of the register, for a person on a channel; instants as stored."""

    state: ConsentState
    since: int | None
    event: str | None
    latest_at: int


@dataclass(slots=True)
class Heard:
    """The results of one statement."""

    starts: set[EventId] = field(default_factory=set)  # words that mean START
    changed: dict[EventId, ConsentState] = field(default_factory=dict)


async def hear(
    transaction: Transaction, inserted: Sequence[Inserted]
) -> Mapping[EventId, NewEvent]:
    """Record people's statements. Return the events that mean START, because their sender had opted
    out, and those that changed a consent.
    """
    spoken = {new.id: (one, new) for one, new in inserted if new.event.asks_consent}
    if not spoken:
        return {}
    heard = await bring_up_to_date(transaction, [_said(*one) for one in spoken.values()])
    starts = {id_: _as_start(*spoken[id_]) for id_ in spoken if id_ in heard.starts}
    marks = [
        {"number": new.number, "skipped": new.event.skipped, "data": new.data}
        for new in starts.values()
    ]
    await transaction.many("mark_start", marks)
    return {
        id_: replace(starts.get(id_, new), consent=heard.changed.get(id_))
        for id_, (_, new) in spoken.items()
        if id_ in heard.starts or id_ in heard.changed
    }


def _said(arrival: Arrival, new: NewEvent) -> Said:
    event = new.event
    replayed = event.received_at if arrival.number is not None else None
    at = event.said_at or replayed
    return Said(
        address=event_text.storable(event.conversation.sender),
        channel=event.channel,
        event=new.id,
        word=event.opt_out,
        at=None if at is None else stored(at),
        time_unknown=event.time_unknown,
    )


def _as_start(arrival: Arrival, new: NewEvent) -> NewEvent:
    event = new.event.as_start or new.event
    form = arrival.delivery.fields if new.in_form else None
    data, in_form = event_text.encode(event, form)
    return replace(new, event=event, data=data, in_form=in_form)


async def bring_up_to_date(transaction: Transaction, said: Sequence[Said]) -> Heard:
    """Update the register. Two nodes with events of the same person take turns."""
    ((now,),) = await transaction.execute("present")
    certain = sorted({(one.address, one.channel) for one in said if one.word is not None})
    await transaction.many("make_consents", list(map(_key, certain)))
    rows = await transaction.execute("hold_consents", addresses=[one.address for one in said])
    found = {
        (row["address"], row["channel"]): Registered(
            ConsentState(row["state"]), row["since"], row["event"], row["latest_at"]
        )
        for row in rows
        if row["latest_at"]  # else the row was created just now
    }
    register = dict(found)
    heard = listen(register, said, now)
    written = [
        {**_key(party), **asdict(now_is)}
        for party, now_is in register.items()
        if found.get(party) != now_is
    ]
    await transaction.many("write_consent", written)
    return heard


def _key(party: Party) -> dict[str, str]:
    return dict(zip(("address", "channel"), party, strict=True))


def listen(register: dict[Party, Registered], said: Iterable[Said], now: int) -> Heard:
    """Apply statements to a register, one after another."""
    heard = Heard()
    for one in said:
        party = (one.address, one.channel)
        before = register.get(party)
        word = one.word
        if word is None:
            if before is None or before.state is not ConsentState.OPTED_OUT:
                continue
            if one.at is not None and one.at < before.latest_at:
                continue  # from before the opt-out: an ordinary answer
            word = OptOut.START
            heard.starts.add(one.event)
        register[party] = after = _after(before, one, word, now)
        if before is None or before.state is not after.state:
            heard.changed[one.event] = after.state
    return heard


def _after(before: Registered | None, said: Said, word: OptOut, now: int) -> Registered:
    """Return the consent after a statement. One older than the latest does not count; a STOP of
    unknown time does, and a START of unknown time ends no opt-out.
    """
    stop = word is OptOut.STOP
    state = ConsentState.OPTED_OUT if stop else ConsentState.OPTED_IN
    at = now if said.at is None else min(said.at, now)  # a provider's time is never ahead
    if before is not None and state is before.state:
        return replace(before, latest_at=max(before.latest_at, at))
    if before is not None and (not stop if said.time_unknown else at < before.latest_at):
        return before
    return Registered(state, None if said.time_unknown else at, said.event, at)


def consent_of(state: str | None, since: int | None) -> Consent | None:
    """Return a row's consent, as agents read it."""
    if state is None:
        return None
    return Consent(ConsentState(state), None if since is None else instant(since))


@dataclass(frozen=True, slots=True)
class ListedConsent:
    """A row of the register, for display."""

    address: str | None  # in normal form; None: the person was erased
    channel: str
    state: str
    since: datetime | None  # None: unknown
    event: str | None


async def latest(
    transaction: Transaction, *, channel: str | None, limit: int
) -> list[ListedConsent]:
    """Return the latest statements."""
    rows = await transaction.execute("list_consents", channel=channel, most=limit)
    return list(map(_listed, rows))


async def page(transaction: Transaction, *, after: Party) -> tuple[Party, list[ListedConsent]]:
    """Return the next part of the register behind a key, and the key of its last row."""
    rows = await transaction.execute("consents_behind", **_key(after), most=PAGE)
    end = (rows[-1]["address"], rows[-1]["channel"]) if rows else after
    return end, list(map(_listed, rows))


async def of_person(
    transaction: Transaction, key: ConsentsKey | None, sender: str
) -> list[ListedConsent]:
    """Return the rows of a person, given in normal form, who may have been erased."""
    address = event_text.storable(sender)
    addresses = [address] if key is None else [address, key.digest(address)]
    rows = await transaction.execute("consents_of", addresses=addresses)
    return [replace(_listed(row), address=sender) for row in rows]


def _listed(row: Row) -> ListedConsent:
    consent = consent_of(row["state"], row["since"])
    return ListedConsent(
        address=None if row["erased_by"] else row["address"],
        channel=row["channel"],
        state=row["state"],
        since=None if consent is None else consent.since,
        event=row["event"],
    )
