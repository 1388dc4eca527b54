"""What a rule of its channel skips: said in the log, counted, and answered at once."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from berinia_webhookd.accept.receive import MOST_STATUSES
from berinia_webhookd.channels.contract import Replies
from berinia_webhookd.model import EventMark

from .world import CHAT_PATH, SMS_PATH, FakeChannel, World

Logged = list[MutableMapping[str, Any]]


def skipped(logged: Logged) -> Logged:
    return [line for line in logged if line["event"] == "event.skipped"]


async def test_a_caller_of_what_is_skipped_is_answered_at_once(world: World) -> None:
    """Nobody waits for a reply that cannot come."""
    chat = FakeChannel("whatsapp", CHAT_PATH, replies=Replies(5), skip=(EventMark.EMPTY,))
    world.have(chat)
    for _ in range(2):
        _, body, _ = await world.post(b"id=1&text=", CHAT_PATH)
        assert body == {"status": "accepted", "event_id": "event-0"}
    assert not world.inbox.waited_for.is_set()
    assert not world.inbox.stopped


async def test_it_is_said_why_and_counted_once(world: World, logged: Logged) -> None:
    """A copy is a duplicate."""
    world.have(FakeChannel("sms", SMS_PATH, skip=(EventMark.EMPTY,)))
    for _ in range(2):
        assert (await world.post(b"id=1&text="))[0] == 200
    (line,) = skipped(logged)
    assert (line["reason"], line["event_id"], line["channel"]) == ("empty", "event-0", "sms")
    assert not [line for line in logged if line["event"] == "event.accepted"]
    counted = world.metrics.registry.get_sample_value
    labels = {"channel": "sms", "reason": "empty"}
    assert counted("berinia_webhookd_skipped_total", labels) == 1


async def test_receipts_that_come_by_mistake_are_explained_once(
    world: World, logged: Logged
) -> None:
    """The line to change is in the log, not in each of a thousand lines."""
    world.have(FakeChannel("sms", SMS_PATH, skip=(EventMark.RECEIPT,), receipts_hint="change this"))
    for number, status in enumerate(("sent", "delivered", "delivered")):
        await world.post(f"id={number}&kind=receipt&status={status}".encode())
    hints = [(line["log_level"], line.get("hint")) for line in skipped(logged)]
    assert hints == [("warning", "change this"), ("info", None), ("info", None)]
    counted = world.metrics.registry.get_sample_value
    labels = {"channel": "sms", "status": "delivered"}
    assert counted("berinia_webhookd_receipts_total", labels) == 2


async def test_the_statuses_of_a_metric_have_an_end(world: World) -> None:
    """A provider can invent words for ever; beyond so many they are one."""
    world.have(FakeChannel("sms", SMS_PATH, skip=(EventMark.RECEIPT,)))
    for number in range(MOST_STATUSES + 3):
        await world.post(f"id={number}&kind=receipt&status=s{number}".encode())
    await world.post(b"id=again&kind=receipt&status=s0")
    counted = world.metrics.registry.get_sample_value
    name = "berinia_webhookd_receipts_total"
    assert counted(name, {"channel": "sms", "status": "s0"}) == 2
    assert counted(name, {"channel": "sms", "status": "other"}) == 3
