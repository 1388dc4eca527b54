"""Holds a request open until the agent has answered, as the WhatsApp bot expects. The event is on
disk by then; who gives up, and who hung up, is told to the journal, which alone decides whether a
reply goes back inline or is posted later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

import orjson
from aiohttp import web

from berinia_webhookd.accept.door import Door
from berinia_webhookd.channels.contract import Answer, Channel
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Reply
from berinia_webhookd.model import EventId, Receipt

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


async def answer_with_reply(
    request: web.Request, door: Door, channel: Channel, receipt: Receipt, until: datetime
) -> web.Response:
    """200 with the reply, or the channel's own answer (202) when there is none in time."""
    event_id = receipt.event_id
    door.waiting[event_id] += 1
    try:
        reply = await _reply(door, event_id, until)
    except asyncio.CancelledError:
        if _leave(door, event_id):
            door.finish_later(hang_up(door, event_id))
        raise
    alone = _leave(door, event_id)
    if reply is None and alone:
        reply = await _last_chance(door, event_id)
    if reply is None:
        return answered(channel.answer((receipt,)))
    if alone and (request.transport is None or request.transport.is_closing()):
        door.finish_later(hang_up(door, event_id))
    return _with_reply(receipt, reply)


async def hang_up(door: Door, event_id: EventId) -> None:
    """Tell the journal that this event's caller is gone, so that a reply goes out late."""
    try:
        await door.inbox.stop_waiting(event_id, hung_up=True)
    except JournalUnavailable:
        return  # it finds out by `waiting_until`


def answered(answer: Answer, headers: Mapping[str, str] = _NONE) -> web.Response:
    """A channel's answer over HTTP."""
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={"Content-Type": answer.content_type, **headers},
    )


async def _reply(door: Door, event_id: EventId, until: datetime) -> Reply | None:
    """The reply, or None when the time is over or this process is stopping."""
    loop = asyncio.get_running_loop()
    waiting = loop.create_task(door.inbox.wait_for_reply(event_id, until))
    stopping = loop.create_task(door.stopping.wait())
    try:
        await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    except JournalUnavailable:
        return None  # the event is on disk: 202 is the truth
    finally:
        waiting.cancel()
        stopping.cancel()


async def _last_chance(door: Door, event_id: EventId) -> Reply | None:
    """Say that nobody waits any more; a reply decided inline in the meantime is still ours."""
    asking = asyncio.get_running_loop().create_task(
        door.inbox.stop_waiting(event_id, hung_up=False)
    )
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        door.finish_later(_give_back(door, event_id, asking))
        raise
    except JournalUnavailable:
        return None


async def _give_back(door: Door, event_id: EventId, asking: asyncio.Task[Reply | None]) -> None:
    """The caller hung up over its last chance: a reply that it was to have goes out late."""
    with contextlib.suppress(JournalUnavailable):
        await asking
    await hang_up(door, event_id)


def _leave(door: Door, event_id: EventId) -> bool:
    """Count out one waiting request; True for the last one."""
    door.waiting[event_id] -= 1
    if door.waiting[event_id] > 0:
        return False
    del door.waiting[event_id]
    return True


def _with_reply(receipt: Receipt, reply: Reply) -> web.Response:
    body = orjson.dumps(
        {
            "status": "ok",
            "event_id": receipt.event_id,
            "agent": receipt.agent,
            "response": reply.text,
        }
    )
    return web.Response(status=200, body=body, headers={"Content-Type": "application/json"})
