"""Waiting callers: requests held open until the agent has answered, as the WhatsApp bot expects.
The event is on disk by then; who gives up, and who hung up, is told to the journal, which alone
decides whether a reply goes back inline or is posted later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from aiohttp import web

from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Inbox, Reply
from berinia_webhookd.model import EventId, Receipt


class WaitingCallers:
    """The callers that wait for the reply to an event; one that was sent twice has several.

    Args:
        finish_later: runs what a request no longer waits for to its end.
        stopping: once set, nobody waits any more.
    """

    def __init__(
        self,
        inbox: Inbox,
        finish_later: Callable[[Coroutine[Any, Any, None]], None],
        stopping: asyncio.Event,
    ) -> None:
        self._inbox = inbox
        self._finish_later = finish_later
        self._stopping = stopping
        self.waiting: Counter[EventId] = Counter()

    async def reply(self, request: web.Request, event_id: EventId, seconds: float) -> Reply | None:
        """Return the reply for this caller; None when none comes in time or before a stop."""
        self.waiting[event_id] += 1
        try:
            reply = await self._inline(event_id, seconds)
        except asyncio.CancelledError:
            if self._leave(event_id):
                self._finish_later(self.hang_up(event_id))
            raise
        alone = self._leave(event_id)
        if reply is None and alone:
            return await self._last_chance(event_id)
        gone = request.transport is None or request.transport.is_closing()
        if reply is not None and alone and gone:
            self._finish_later(self.hang_up(event_id))
        return reply

    async def hang_up(self, event_id: EventId) -> None:
        """Tell the journal that this event's caller is gone, so that a reply goes out late."""
        try:
            await self._inbox.stop_waiting(event_id, hung_up=True)
        except JournalUnavailable:
            return  # it finds out when the caller's time is over

    async def _inline(self, event_id: EventId, seconds: float) -> Reply | None:
        loop = asyncio.get_running_loop()
        waiting = loop.create_task(self._inbox.wait_for_reply(event_id, seconds))
        stopping = loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        except JournalUnavailable:
            return None  # the event is on disk: 202 is the truth
        finally:
            waiting.cancel()
            stopping.cancel()

    async def _last_chance(self, event_id: EventId) -> Reply | None:
        """Stop waiting; a reply that was decided inline in the meantime is still returned."""
        asking = asyncio.get_running_loop().create_task(
            self._inbox.stop_waiting(event_id, hung_up=False)
        )
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._finish_later(self._give_back(event_id, asking))
            raise
        except JournalUnavailable:
            return None

    async def _give_back(self, event_id: EventId, asking: asyncio.Task[Reply | None]) -> None:
        """Make a reply late whose caller hung up while it was being decided."""
        with contextlib.suppress(JournalUnavailable):
            await asking
        await self.hang_up(event_id)

    def _leave(self, event_id: EventId) -> bool:
        """Count out one waiting request; True for the last one."""
        self.waiting[event_id] -= 1
        if self.waiting[event_id] > 0:
            return False
        del self.waiting[event_id]
        return True


def with_reply(receipt: Receipt, reply: Reply) -> web.Response:
    """200 with the agent's text; without one where that is another message's."""
    answer = {"status": "ok", "event_id": receipt.event_id, "agent": receipt.agent}
    if reply.text is not None:
        answer["response"] = reply.text
    body = orjson.dumps(answer)
    return web.Response(status=200, body=body, headers={"Content-Type": "application/json"})
