"""Opt-outs of people who were erased: nobody can read them, and they count all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from berinia_webhookd.errors import CannotStart, WebhookdError
from berinia_webhookd.journal.consents import ListedConsent
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.model import Consent, ConsentState, OptOut

from .world import SMS, START, World, an_event, on_postgresql, traces

PERSON, OTHER = "+33639980077", "+33639980088"
KEY, ANOTHER = ConsentsKey("k" * 32), ConsentsKey("another key, " * 3)
OUT, IN = ConsentState.OPTED_OUT, ConsentState.OPTED_IN


@pytest.fixture
async def world(closed_world: World) -> World:
    """An open journal that has a key."""
    await closed_world.open(consents_key=KEY)
    return closed_world


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Operations]:
    async with Operations(world.url, clock=world.clock, key=KEY) as operations:
        yield operations


async def stop(world: World, sender: str = PERSON) -> str:
    return (await world.accept(sender=sender, opt_out=OptOut.STOP)).event_id


async def test_an_opt_out_outlives_its_person(world: World, desk: Operations) -> None:
    """The address is nowhere; whoever asks about it is told, and nobody else is named."""
    event = await stop(world)
    await world.accept(sender=OTHER, opt_out=OptOut.STOP)
    assert (await desk.erase(PERSON, dry_run=True)).consents == 1
    assert await desk.consents_of(PERSON) == [ListedConsent(PERSON, SMS, OUT, START, event)]
    assert (await desk.erase(PERSON)).consents == 1
    assert await traces(world, PERSON[1:].encode()) == []
    assert await desk.consents_of(PERSON) == [ListedConsent(PERSON, SMS, OUT, START, event)]
    assert {one.address for one in await desk.consents()} == {None, OTHER}
    assert (await desk.erase(PERSON)).consents == 0


async def test_who_writes_again_is_recognised(world: World, desk: Operations) -> None:
    """The agent is told at once; and a "Yes" is START, which is then no answer any more."""
    await stop(world)
    await desk.erase(PERSON)
    await world.accept("one", sender=PERSON)
    (entry,) = await world.claim()
    assert entry.consent == Consent(OUT, START)
    await world.settle(entry)
    yes = an_event("Yes", sender=PERSON)
    receipt = await world.accept_event(yes._replace(as_start=yes._replace(opt_out=OptOut.START)))
    assert receipt.consent is IN
    (found,) = await desk.consents_of(PERSON)
    assert (found.address, found.state) == (PERSON, IN)
    assert (await desk.erase(PERSON)).consents == 1
    assert await traces(world, PERSON[1:].encode()) == []


async def test_a_stop_heard_long_ago_is_erased_too(world: World, desk: Operations) -> None:
    """Of somebody of whom there is nothing else any more."""
    await stop(world)
    for entry in await world.claim():
        await world.settle(entry)
    world.clock.move(31 * 86_400)
    while await world.journal.purge():
        pass
    erasure = await desk.erase(PERSON)
    assert (erasure.events, erasure.consents, erasure.files_clean) == (0, 1, True)
    assert await traces(world, PERSON[1:].encode()) == []


async def test_what_is_running_keeps_its_address(world: World, desk: Operations) -> None:
    """Until the erasure can be finished, the person's messages find the opt-out as ever."""
    await stop(world)
    (running,) = await world.claim()
    stuck = await desk.erase(PERSON, patience_seconds=0)
    assert (len(stuck.running), stuck.consents) == (1, 0)
    await world.settle(running)
    await world.accept("one", sender=PERSON)
    (entry,) = await world.claim()
    assert entry.consent == Consent(OUT, START)
    await world.settle(entry)
    assert (await desk.erase(PERSON)).consents == 1


async def test_nobody_who_opted_out_is_erased_without_a_key(world: World) -> None:
    """Nothing is touched then, and the setting is named; who never said anything needs none."""
    await stop(world)
    await world.accept("one", sender=OTHER)
    async with Operations(world.url, clock=world.clock) as desk:
        with pytest.raises(WebhookdError, match=r"consents\.key is not set") as error:
            await desk.erase(PERSON)
        assert error.value.exit_code == 1
        assert await world.states() == {"ready": 2}
        assert (await desk.erase(OTHER)).events == 1


@pytest.mark.parametrize("key", [None, ANOTHER], ids=["none", "another"])
async def test_a_key_that_does_not_fit_is_refused(
    world: World, desk: Operations, key: ConsentsKey | None
) -> None:
    """By a daemon when it starts, and by whoever asks about a person."""
    await stop(world)
    await world.reopen(consents_key=key)
    await desk.erase(PERSON)
    with pytest.raises(CannotStart, match=r"consents\.key"):
        await world.reopen(consents_key=key)
    world.journals.pop()
    async with Operations(world.url, clock=world.clock, key=key) as other:
        for asked in (other.erase(OTHER), other.consents_of(OTHER)):
            with pytest.raises(CannotStart, match=r"consents\.key"):
                await asked
    await world.open(consents_key=KEY)


@on_postgresql
async def test_erasing_and_writing_at_once(world: World, desk: Operations) -> None:
    """Whichever comes first on two nodes, the opt-out is found by who writes afterwards."""
    second = await world.open(node="second", consents_key=KEY)
    for turn in range(20):
        await stop(world)
        for entry in await world.claim():
            await world.settle(entry)
        await asyncio.gather(
            desk.erase(PERSON, patience_seconds=0),
            *(
                world.accept_event(
                    event._replace(conversation=event.conversation._replace(party=f"+{number}")),
                    journal=second,
                )
                for number in range(turn % 4)
                for event in [an_event(sender=PERSON)]
            ),
        )
        await world.accept("who am I?" * (turn + 1), sender=PERSON)
        entries = await world.claim()
        assert entries
        for entry in entries:
            assert entry.consent is not None
            assert entry.consent.state is OUT
            await world.settle(entry)


async def test_the_whole_register_is_exported(world: World, desk: Operations) -> None:
    """In pages, whoever is erased without an address."""
    people = [f"+336399{number:05}" for number in range(1100)]
    await asyncio.gather(*(stop(world, person) for person in people))
    await desk.erase(people[7])
    found = [one async for one in desk.export_consents()]
    addresses = {one.address for one in found}
    assert len(found) == len(people)
    assert addresses == {*people[:7], None, *people[8:]}
    assert len(await desk.consents(limit=10)) == 10
    assert await desk.consents(channel="email") == []
