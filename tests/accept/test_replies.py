"""Requests that wait for the agent's reply."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from berinia_webhookd.channels.contract import Replies
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Reply

from .world import CHAT_PATH, GOOD, World

Answer = tuple[int, Any, Any]


async def waiting(world: World, body: bytes = b"id=1") -> asyncio.Task[Answer]:
    """A request that has been stored and waits for its reply."""
    posting = asyncio.create_task(world.post(body, CHAT_PATH))
    await world.inbox.waited_for.wait()
    return posting


@pytest.mark.parametrize("failed", [False, True])
async def test_the_reply_comes_back_inline(world: World, failed: bool) -> None:
    """200 with the agent's text, also when the agent returned it as an error."""
    posting = await waiting(world)
    world.inbox.reply("event-0", "Bonjour !", failed=failed)
    status, body, headers = await posting
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert body == {
        "status": "ok",
        "event_id": "event-0",
        "agent": "TestAgent",
        "response": "Bonjour !",
    }
    assert not world.inbox.stopped


async def test_without_a_reply_in_time_it_is_accepted(world: World) -> None:
    """202, and the journal is told that nobody waits."""
    world.chat.replies = Replies(wait_seconds=0.05)
    status, body, _ = await world.post(path=CHAT_PATH)
    assert (status, body) == (202, {"status": "accepted", "event_id": "event-0"})
    assert world.inbox.stopped == [("event-0", False)]
    assert not world.receiver.commits.callers.waiting


async def test_a_reply_decided_at_the_last_moment_is_still_given(world: World) -> None:
    """What the journal decided inline while the time ran out goes to the caller."""
    world.inbox.last_chance = Reply("just in time", failed=False)
    status, body, _ = await world.post(path=CHAT_PATH)
    assert (status, body["response"]) == (200, "just in time")


async def test_an_event_without_a_reply_is_accepted_at_once(world: World) -> None:
    """202 as soon as the journal says that no reply will come."""
    posting = await waiting(world)
    world.inbox.reply("event-0", None)
    assert (await posting)[0] == 202


async def test_stopping_ends_the_waiting(world: World) -> None:
    """202 to all who wait when the daemon begins to stop, and to those who come after."""
    posting = await waiting(world)
    world.receiver.stopping.set()
    assert (await posting)[0] == 202
    assert world.inbox.stopped == [("event-0", False)]
    assert (await world.post(b"id=2", CHAT_PATH))[0] == 202


async def test_no_waiting_when_it_is_switched_off(world: World) -> None:
    """With a waiting time of nothing the answer is 202 right after the commit."""
    world.chat.replies = Replies(wait_seconds=0)
    assert (await world.post(path=CHAT_PATH))[0] == 202
    assert not world.inbox.stopped


async def hang_up(
    world: World, body: bytes = b"id=1", *, eof: bool = False
) -> asyncio.StreamWriter:
    """A connection whose request waits for its reply."""
    head = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
    request = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(request.encode() + body)
    if eof:
        writer.write_eof()
    return writer


async def test_a_caller_that_hangs_up_makes_the_reply_late(served: World) -> None:
    """The journal is told as soon as the connection is gone."""
    writer = await hang_up(served)
    await served.inbox.waited_for.wait()
    writer.close()
    await served.inbox.told.wait()
    assert served.inbox.stopped == [("event-0", True)]
    assert not served.receiver.commits.callers.waiting


async def test_a_caller_that_hangs_up_before_the_commit_makes_the_reply_late(served: World) -> None:
    """The commit is kept, and nobody waits for its reply."""
    served.inbox.gate.clear()
    writer = await hang_up(served)
    await served.inbox.pending(1)
    writer.close()
    await writer.wait_closed()
    await served.get("/health")
    served.inbox.gate.set()
    await served.inbox.told.wait()
    assert served.inbox.stopped == [("event-0", True)]


async def test_a_caller_that_has_closed_its_side_is_not_made_to_wait(served: World) -> None:
    """It is told at once that its message is stored: it may be gone altogether."""
    writer = await hang_up(served, eof=True)
    async with asyncio.timeout(90):
        await served.inbox.pending(1)
    assert not served.receiver.commits.callers.waiting
    writer.close()


async def test_a_late_commit_makes_the_reply_late(world: World) -> None:
    """503 past the deadline; when the event is stored after all, nobody waits for its reply."""
    world.receiver.commits.ack_timeout_seconds = 0.05
    world.inbox.gate.clear()
    assert (await world.post(path=CHAT_PATH))[0] == 503
    world.inbox.gate.set()
    await world.inbox.told.wait()
    assert world.inbox.stopped == [("event-0", True)]


async def test_a_repeated_message_waits_with_the_first(world: World) -> None:
    """Both requests get the reply."""
    first = await waiting(world)
    world.inbox.waited_for.clear()
    second = await waiting(world)
    world.inbox.reply("event-0", "both")
    assert (await first)[:2] == (await second)[:2]
    assert not world.inbox.stopped


async def test_one_that_hangs_up_does_not_speak_for_the_other(served: World) -> None:
    """While another request waits for the same event, its reply stays inline."""
    writer = await hang_up(served)
    await served.inbox.waited_for.wait()
    served.inbox.waited_for.clear()
    posting = await waiting(served)
    writer.close()
    await writer.wait_closed()
    await served.get("/health")
    assert served.receiver.commits.callers.waiting == {"event-0": 1}
    served.inbox.reply("event-0", "for you")
    assert (await posting)[1]["response"] == "for you"
    assert not served.inbox.stopped


async def test_hanging_up_over_the_last_chance_makes_the_reply_late(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply decided inline for a caller that is gone by then is given back."""
    asked, answered = asyncio.Event(), asyncio.Event()
    told: list[bool] = []

    async def stop_waiting(event_id: str, *, hung_up: bool) -> Reply | None:
        if hung_up:
            told.append(answered.is_set())
            served.inbox.told.set()
            return None
        asked.set()
        await answered.wait()
        return Reply("for nobody", failed=False)

    monkeypatch.setattr(served.inbox, "stop_waiting", stop_waiting)
    served.chat.replies = Replies(wait_seconds=0.05)
    writer = await hang_up(served)
    await asked.wait()
    writer.close()
    await writer.wait_closed()
    await served.get("/health")
    answered.set()
    await served.inbox.told.wait()
    assert told == [True]


async def test_a_journal_that_goes_away_while_waiting_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is on disk, so 202 is true whatever happens to the journal now."""

    async def away(*_: object, **__: object) -> Reply | None:
        raise JournalUnavailable("away")

    monkeypatch.setattr(world.inbox, "wait_for_reply", away)
    monkeypatch.setattr(world.inbox, "stop_waiting", away)
    assert (await world.post(path=CHAT_PATH))[0] == 202
