"""What operators look for in events: who, what, and what went wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from berinia_webhookd.journal import queries, search
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.pause import Whose
from berinia_webhookd.journal.queries import Filters, Listed
from berinia_webhookd.journal.search import Searched
from berinia_webhookd.model import (
    ChannelName,
    Conversation,
    EntryState,
    EventKind,
    Outcome,
    OutcomeKind,
    Pause,
)

from .batches import decode
from .world import AGENT, World, a_delivery, an_event

CHAT, MAIL = ChannelName("whatsapp"), ChannelName("email")
ANNA, BEN = "+33639980071", "+33639980072"


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Operations]:
    """An operator beside the daemon."""
    async with Operations(world.url, clock=world.clock) as operations:
        yield operations


@pytest.fixture
async def texts(world: World) -> list[str]:
    """Events of every sort, of which the first is dead and the last is a receipt."""
    dead = Outcome(OutcomeKind.EXCEPTION, error="Traceback\nConnectionError: Refused by CRM")
    await world.accept("Où est ma commande ?", sender=ANNA, message_id="SM1")
    (entry,) = await world.claim()
    await world.settle(entry, outcome=dead, state=EntryState.DEAD)
    world.clock.move(3600)
    at: dict[str, Any] = {"received_at": world.clock.now}
    for sender, text in ((ANNA, "in the group"), (BEN, "of the group")):
        there: dict[str, Any] = {
            "group": "Support",
            "conversation": Conversation(CHAT, sender, "support"),
        }
        await world.accept(text, sender=sender, channel=CHAT, recipient="BerinIA", **there, **at)
    await world.accept("a mail", channel=MAIL, subject="Devis", message_id="<m1@example.com>", **at)
    await world.accept("delivered", kind=EventKind.RECEIPT, status="delivered", **at)
    return ["Où est ma commande ?", "in the group", "of the group", "a mail", "delivered"]


def told(found: Searched) -> list[str]:
    return sorted(str(one.content and one.content.text) for one in found.events)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), "01234"),
        (Filters(kind="receipt"), "4"),
        (Filters(until=an_event().received_at + timedelta(minutes=1)), "0"),
        (Filters(since=an_event().received_at + timedelta(minutes=1)), "1234"),
        (Filters(group="support"), "12"),
        (Filters(group="support", sender=BEN), "2"),
        (Filters(group="nobody"), ""),
        (Filters(recipient=an_event().conversation.party), "034"),
        (Filters(recipient="berinia"), "12"),
        (Filters(message_id="SM1"), "0"),
        (Filters(message_id="m1@example.com"), "3"),
        (Filters(text="COMMANDE où"), "0"),
        (Filters(text="devis mail"), "3"),
        (Filters(text="group", sender=ANNA), "1"),
        (Filters(error="refused connectionerror"), "0"),
        (Filters(error="refused", state=EntryState.DEAD), "0"),
        (Filters(text="commande", state=EntryState.READY), ""),
    ],
)
async def test_events_are_found(
    desk: Operations, texts: list[str], filters: Filters, expected: str
) -> None:
    """By what an index knows, and by what is in them."""
    found = await desk.search(filters)
    assert told(found) == sorted(texts[int(number)] for number in expected)
    assert found.end is None
    assert [one.id for one in found.events] == [one.id for one in await desk.list_events(filters)]


async def test_a_list_says_what_is_in_events(desk: Operations, texts: list[str]) -> None:
    """Sender, text and the last error; a state that is wished for alone does not change that."""
    (one,) = (await desk.search(Filters(state=EntryState.DEAD))).events
    assert one.content is not None
    assert (one.content.sender, one.content.text) == (ANNA, texts[0])
    assert one.content.error == "Traceback\nConnectionError: Refused by CRM"


async def test_a_list_says_why_nothing_happens(world: World, desk: Operations) -> None:
    """The agent cannot be loaded, or somebody paused the conversation."""
    await world.accept("one", sender=ANNA)
    await world.journal.note_unavailable(AGENT, "No module named 'agents'")
    (one,) = (await desk.search(Filters())).events
    assert one.reason == "the agent cannot be loaded: No module named 'agents'"
    await desk.pause(Whose(ANNA), Pause("me"))
    (one,) = (await desk.search(Filters())).events
    assert one.reason == "paused"


async def test_a_rejected_delivery_says_why(world: World, desk: Operations) -> None:
    """And is found by it."""
    delivery = a_delivery(an_event("x"))
    await world.journal.reject(delivery, {"detail": "Fields are missing.", "missing": ["Body"]})
    (one,) = (await desk.search(Filters(state="rejected", error="missing body"))).events
    assert one.content is not None
    assert one.content.error == "Fields are missing. (missing: Body)"
    assert not (await desk.search(Filters(state="rejected", error="other"))).events


async def test_a_search_looks_at_so_many_and_says_so(
    world: World, desk: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, the newest first; where a state narrows it, all are looked at."""
    monkeypatch.setattr(search, "PAGE", 2)
    monkeypatch.setattr(search, "BATCH_BYTES", 100)
    for number in range(7):
        await world.accept(f"number {number}", sender=f"+3363998007{number}")
    assert told(await desk.search(Filters(text="number"), limit=3)) == [
        "number 4",
        "number 5",
        "number 6",
    ]
    assert told(await desk.search(Filters(text="number 0"))) == ["number 0"]
    monkeypatch.setattr(search, "MOST_SEARCHED", 4)
    given_up = await desk.search(Filters(text="number 0"))
    assert given_up.events == []
    assert given_up.end is not None
    assert given_up.reached_at == an_event().received_at
    going_on = await desk.search(Filters(text="number 0"), before=given_up.end)
    assert (told(going_on), going_on.end) == (["number 0"], None)
    in_no_time = await desk.search(Filters(text="number 0"), seconds=0)
    assert (told(in_no_time), in_no_time.reached_at) == ([], an_event().received_at)
    assert told(await desk.search(Filters(text="number 0", state=EntryState.READY))) == ["number 0"]


async def test_short_ids_are_of_one_event_alone(world: World, desk: Operations) -> None:
    """However close together events came."""
    ids = [(await world.accept(f"{n}", sender=f"+336399800{n:02}")).event_id for n in range(40)]
    short = await desk.short_ids(ids)
    for id_, prefix in short.items():
        assert (await desk.show(prefix)).id == id_
    assert min(map(len, short.values())) >= 13
    assert not any(prefix.endswith("-") for prefix in short.values())


@pytest.mark.usefixtures("texts")
async def test_what_matches_is_replayed_or_given_up(world: World, desk: Operations) -> None:
    """And nothing else; what runs is passed over."""
    dead = Filters(state=EntryState.DEAD, error="refused")
    (dry,) = await desk.discard_matching(dead, dry_run=True)
    assert (dry.was, dry.refused) == ("dead", None)
    assert not await desk.replay_matching(Filters(state=EntryState.DEAD, text="x"), decode=decode)
    (done,) = await desk.replay_matching(dead, decode=decode)
    assert done.refused is None
    running = await world.claim()
    changed = await desk.discard([entry.event_id for entry in running[:1]])
    assert [one.passed_over for one in changed] == [True]
    assert await desk.discard_matching(Filters(state=EntryState.READY, group="support")) == []


async def test_nothing_is_looked_through_for_what_is_not_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tallies say that there is none, however many others there are."""
    await world.accept()

    async def read_through(*_: object, **__: object) -> list[Listed]:
        raise AssertionError("the events were read through")

    monkeypatch.setattr(queries, "list_entries", read_through)
    async with Operations(world.url, clock=world.clock) as desk:
        assert await desk.list_events(Filters(state=EntryState.SKIPPED)) == []
        assert await desk.list_events(Filters(agent="Nobody")) == []
        assert await desk.list_events(Filters(channel="mail")) == []
        with pytest.raises(AssertionError, match="read through"):
            await desk.list_events(Filters(state=EntryState.READY))
