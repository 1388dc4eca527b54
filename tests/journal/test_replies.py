"""Replies: inline to whoever waits, else late, and never both."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from berinia_webhookd.journal.contract import ClaimRequest, FailureReply, Reply, ReplyRoute, Settled
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.model import (
    ChannelName,
    Decoded,
    Entry,
    EntryKind,
    EntryState,
    EventId,
    Outcome,
    OutcomeKind,
    Receipt,
)

from .world import SqliteWorld, World, an_event, on_sqlite

WHATSAPP = ChannelName("whatsapp")
REPLIES = [ClaimRequest(EntryKind.REPLY, None, 9)]
SAID = Outcome(OutcomeKind.SUCCESS, reply="said")


async def ask(world: World, text: str = "question") -> tuple[Receipt, Entry]:
    """A message whose sender waits half a minute for the answer, with the attempt begun."""
    event = an_event(text, channel=WHATSAPP, group="Support IA")
    receipt = await world.accept_event(event, wait_seconds=30)
    (entry,) = await world.claim()
    return receipt, entry


async def answer(world: World, entry: Entry, **changes: Any) -> Settled:
    return await world.settle(entry, **{"outcome": SAID, "late": True, **changes})


async def late_ones(world: World) -> list[str | None]:
    return [entry.reply_text for entry in (await world.journal.claim(REPLIES)).entries]


async def test_a_waiting_caller_gets_the_reply(world: World) -> None:
    """Inline, as soon as the outcome is on disk, and nothing is posted late."""
    receipt, entry = await ask(world)
    waiting = asyncio.create_task(world.journal.wait_for_reply(receipt.event_id, 30))
    assert (await answer(world, entry)).reply is ReplyRoute.INLINE
    assert await waiting == Reply("said", failed=False)
    assert await late_ones(world) == []


async def test_a_repeated_message_gets_the_same_reply(world: World) -> None:
    """At once if it is stored, and with the first one if it is not."""
    receipt, entry = await ask(world)
    event = an_event("question", channel=WHATSAPP, group="Support IA")
    again = await world.accept_event(event, wait_seconds=30)
    assert again == Receipt(receipt.event_id, receipt.agent, duplicate=True)
    both = [
        asyncio.create_task(world.journal.wait_for_reply(receipt.event_id, 30)) for _ in range(2)
    ]
    await answer(world, entry)
    assert await asyncio.gather(*both) == [Reply("said", failed=False)] * 2
    world.clock.move(3600)
    stored = await world.journal.wait_for_reply(receipt.event_id, 0)
    assert stored == Reply("said", failed=False)


async def test_a_repeated_message_waits_longer(world: World) -> None:
    """Its waiting counts as well as the first one's."""
    _, entry = await ask(world)
    world.clock.move(29)
    event = an_event("question", channel=WHATSAPP, group="Support IA")
    await world.accept_event(event, wait_seconds=30)
    world.clock.move(10)
    assert (await answer(world, entry)).reply is ReplyRoute.INLINE


@pytest.mark.parametrize("left", ["the time was over", "told", "hung up"])
async def test_a_reply_nobody_waits_for_is_posted_late(world: World, left: str) -> None:
    """As an entry of its own, with the group it came from and the time it was ready."""
    receipt, entry = await ask(world)
    if left == "the time was over":
        world.clock.move(31)
        assert await world.journal.wait_for_reply(receipt.event_id, 0) is None
    else:
        gone = await world.journal.stop_waiting(receipt.event_id, hung_up=left == "hung up")
        assert gone is None
    ready_at = world.clock.now
    assert (await answer(world, entry)).reply is ReplyRoute.LATE
    world.clock.move(5)
    (reply,) = (await world.journal.claim(REPLIES)).entries
    assert (reply.kind, reply.reply_text, reply.replied_at) == (EntryKind.REPLY, "said", ready_at)
    assert (reply.event_id, reply.event.group) == (receipt.event_id, "Support IA")
    assert (await world.settle(reply)).kept


async def test_a_late_reply_waits_for_no_message(world: World) -> None:
    """Late replies are in order among themselves, beside the conversation's next messages."""
    receipt, entry = await ask(world)
    await world.journal.stop_waiting(receipt.event_id, hung_up=False)
    await answer(world, entry)
    await ask(world, "next question")
    assert await late_ones(world) == ["said"]


async def test_leaving_at_the_last_moment_still_gets_the_reply(world: World) -> None:
    """Decided inline before the caller said he leaves: it is his."""
    receipt, entry = await ask(world)
    await answer(world, entry)
    reply = await world.journal.stop_waiting(receipt.event_id, hung_up=False)
    assert reply == Reply("said", failed=False)
    assert await late_ones(world) == []


async def test_a_caller_who_hung_up_gets_it_late(world: World) -> None:
    """Decided inline, but there was nobody to hand it to."""
    receipt, entry = await ask(world)
    await answer(world, entry)
    assert await world.journal.stop_waiting(receipt.event_id, hung_up=True) is None
    assert await late_ones(world) == ["said"]
    assert await world.journal.stop_waiting(receipt.event_id, hung_up=True) is None
    assert await late_ones(world) == []


async def test_where_nothing_can_be_posted_it_is_kept(world: World) -> None:
    """A direct message's late reply goes nowhere, and is said so once."""
    receipt, entry = await ask(world)
    await world.journal.stop_waiting(receipt.event_id, hung_up=False)
    assert (await answer(world, entry, late=False)).reply is ReplyRoute.UNDELIVERABLE
    assert await late_ones(world) == []
    receipt, entry = await ask(world, "another")
    await answer(world, entry, late=False)
    with structlog.testing.capture_logs() as logged:
        await world.journal.stop_waiting(receipt.event_id, hung_up=True)
    assert [line["event"] for line in logged] == ["reply.undeliverable"]
    assert await late_ones(world) == []


async def test_an_error_with_a_text_is_an_answer(world: World) -> None:
    """The person has been answered: the entry is done, and its outcome is an error."""
    receipt, entry = await ask(world)
    failed = Outcome(OutcomeKind.ERROR, error="e", reply="sorry")
    settled = await world.settle(
        entry,
        outcome=failed,
        late=True,
    )
    assert settled.reply is ReplyRoute.INLINE
    assert await world.states() == {"done": 1}
    reply = await world.journal.wait_for_reply(receipt.event_id, 30)
    assert reply == Reply("sorry", failed=True)


async def test_an_errors_text_is_posted_when_nobody_waits(world: World) -> None:
    """Like any answer."""
    receipt, entry = await ask(world)
    await world.journal.stop_waiting(receipt.event_id, hung_up=False)
    sorry = Outcome(OutcomeKind.ERROR, reply="sorry")
    settled = await world.settle(entry, outcome=sorry, late=True)
    assert settled.reply is ReplyRoute.LATE
    assert len(await late_ones(world)) == 1


async def test_the_text_of_what_is_tried_again_goes_nowhere(world: World) -> None:
    """It is kept with the attempt; the answer is yet to come."""
    _, entry = await ask(world)
    settled = await world.settle(
        entry,
        outcome=Outcome(OutcomeKind.ERROR, reply="sorry"),
        state=EntryState.WAITING,
        due_in_seconds=30,
        late=True,
    )
    assert settled.reply is ReplyRoute.NONE
    assert await world.states() == {"waiting": 1}
    assert await late_ones(world) == []


async def test_a_failure_is_told_once(world: World) -> None:
    """To whoever waits for the first; nobody is told again of a second one."""
    receipt, entry = await ask(world)
    told = FailureReply("it failed", late=True)
    broken: dict[str, Any] = {"outcome": Outcome(OutcomeKind.CRASH), "state": EntryState.DEAD}
    settled = await world.settle(entry, **broken, failure_reply=told)
    assert settled.reply is ReplyRoute.INLINE
    reply = await world.journal.wait_for_reply(receipt.event_id, 30)
    assert reply == Reply("it failed", failed=True)
    async with Operations(world.url, clock=world.clock) as desk:
        await desk.replay([receipt.event_id], decode=lambda _: Decoded(()))
    (entry,) = await world.claim()
    assert (await world.settle(entry, **broken, failure_reply=told)).reply is ReplyRoute.NONE
    assert await late_ones(world) == []


async def test_a_retry_keeps_the_caller_waiting(world: World) -> None:
    """An attempt that failed is no end; the next one's reply is still inline."""
    receipt, entry = await ask(world)
    waiting = asyncio.create_task(world.journal.wait_for_reply(receipt.event_id, 30))
    await world.fail(entry, retry_in=2)
    world.clock.move(2)
    (entry,) = await world.claim()
    assert (await answer(world, entry)).reply is ReplyRoute.INLINE
    assert await waiting == Reply("said", failed=False)


@pytest.mark.parametrize("reply", [None, ""])
async def test_an_end_without_a_reply_is_told_at_once(world: World, reply: str | None) -> None:
    """Nobody waits for what will not come."""
    receipt, entry = await ask(world)
    waiting = asyncio.create_task(world.journal.wait_for_reply(receipt.event_id, 30))
    await world.settle(entry, outcome=Outcome(OutcomeKind.SUCCESS, reply=reply), late=True)
    assert await waiting is None


@on_sqlite
async def test_callers_die_with_their_process(world: SqliteWorld) -> None:
    """After a restart nobody waits, so the reply is posted late."""
    await ask(world)
    await world.reopen()
    (entry,) = await world.claim()
    assert (await answer(world, entry)).reply is ReplyRoute.LATE


async def test_channels_without_replies_have_none(world: World) -> None:
    """What an agent says to an SMS is kept with the attempt, and goes nowhere."""
    await world.accept("sms")
    (entry,) = await world.claim()
    assert (await answer(world, entry, late=False)).reply is ReplyRoute.NONE


async def test_an_unknown_event_has_no_reply(world: World) -> None:
    """Asking for it neither waits nor fails."""
    event_id = EventId("00000000-0000-7000-8000-000000000000")
    assert await world.journal.wait_for_reply(event_id, 30) is None
    assert await world.journal.stop_waiting(event_id, hung_up=True) is None


async def failed_and_replayed(world: World, *, posting: bool) -> tuple[Entry | None, Entry]:
    """A failure that is to be posted, perhaps by somebody who has just begun to, and the attempt of
    its replay.
    """
    receipt, entry = await ask(world)
    world.clock.move(30)
    sorry = FailureReply("sorry", late=True)
    failed = Outcome(OutcomeKind.TIMEOUT)
    await answer(world, entry, outcome=failed, state=EntryState.DEAD, failure_reply=sorry)
    late = (await world.journal.claim(REPLIES)).entries[0] if posting else None
    async with Operations(world.url, clock=world.clock) as desk:
        await desk.replay([receipt.event_id], decode=lambda _: Decoded(()))
    world.clock.move(1)
    (again,) = await world.claim()
    return late, again


@pytest.mark.parametrize("reply", ["said", None])
async def test_a_success_takes_the_place_of_a_failure(world: World, reply: str | None) -> None:
    """What was not yet posted of the failure never is; the success is posted once, if it says
    anything.
    """
    _, again = await failed_and_replayed(world, posting=False)
    await answer(world, again, outcome=Outcome(OutcomeKind.SUCCESS, reply=reply))
    assert await late_ones(world) == [reply] * bool(reply)
    assert await late_ones(world) == []


@pytest.mark.parametrize("reply", ["said", None])
@pytest.mark.parametrize("end", ["crash", "unreachable"])
async def test_a_failure_that_could_not_be_posted_is_not_told_later(
    world: World, end: str, reply: str | None
) -> None:
    """Somebody was just posting it: it has no text any more when it is tried again."""
    late, again = await failed_and_replayed(world, posting=True)
    await answer(world, again, outcome=Outcome(OutcomeKind.SUCCESS, reply=reply))
    assert late is not None
    if end == "crash":
        await world.crash()
    else:
        await world.fail(late, retry_in=1, hold=0)
    world.clock.move(2)
    told = []
    while entries := (await world.journal.claim(REPLIES)).entries:
        for entry in entries:
            told.append(entry.reply_text)
            await world.settle(entry)
    assert sorted(told, key=str) == [None, *[reply] * bool(reply)]
