"""The handler of channels: a verified delivery is decoded, committed, and answered. A 2xx is sent
only once the events are on disk; what cannot be stored in time is answered 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from aiohttp import web

from berinia_webhookd.accept.aiohttp_limits import gone_at_eof
from berinia_webhookd.accept.body import LONG_BODY_BYTES
from berinia_webhookd.accept.own_requests import how_it_arrived
from berinia_webhookd.accept.replies import WaitingCallers, with_reply
from berinia_webhookd.accept.request_context import Endpoint, RequestContext
from berinia_webhookd.accept.signature_check import (
    VERIFIED,
    VerifiedRequest,
    note_invalid_signature,
)
from berinia_webhookd.channels.contract import Answer, Channel, Replies
from berinia_webhookd.clock import Deadlines
from berinia_webhookd.config.settings import ServerSettings
from berinia_webhookd.errors import (
    AccountRefused,
    JournalUnavailable,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.journal.contract import Inbox, ReplayedSignature
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Decoded,
    EventKind,
    EventMark,
    Receipt,
    Receipts,
)
from berinia_webhookd.own_requests import HEADER, Mark, Purpose

CLOSE_SECONDS: Final = 5.0
MOST_STATUSES: Final = 50  # of receipts of a channel, that are counted by their names
_RECEIPT: Final = EventKind.RECEIPT  # looked up once, as Python finds it by a function
_T = TypeVar("_T")


class Commits:
    """Commits in time for the handlers, and goes on with those that outlive their request.

    Args:
        stopping: once set, no caller waits for a reply.
        can_answer: whether a caller who waits for this agent may get its reply in time.
    """

    def __init__(
        self,
        settings: ServerSettings,
        inbox: Inbox,
        metrics: Metrics,
        stopping: asyncio.Event,
        can_answer: Callable[[AgentName], bool] = lambda _: True,
    ) -> None:
        self.can_answer = can_answer
        self.callers = WaitingCallers(inbox, self.finish_later, stopping)
        self.stopping = stopping
        self._inbox = inbox
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._unfinished: set[asyncio.Task[None]] = set()
        self._statuses: dict[ChannelName, set[str]] = {}  # that stand in the metric
        self._hinted: set[ChannelName] = set()  # where receipts came that nobody expected
        self.reconfigure(settings)

    def reconfigure(self, settings: ServerSettings) -> None:
        """Take a new deadline from the next request on."""
        self.ack_timeout_seconds = settings.ack_timeout_seconds

    async def accept(
        self,
        verified: VerifiedRequest,
        channel: Channel,
        decoded: Decoded,
        *,
        wait_seconds: float | None = None,
    ) -> Receipts:
        """Return the journal's word that all events of a delivery are on disk.

        Raises:
            SignatureInvalid: its signature was used before with another message.
            JournalUnavailable: it is not on disk in time; if it gets there later, it is kept.
        """

        async def late(receipts: Receipts) -> None:
            self._note(verified.context, channel, decoded, receipts)
            if wait_seconds is not None:
                for receipt in receipts:
                    await self.callers.hang_up(receipt.event_id)

        accepting = self._inbox.accept(verified.delivery, decoded, wait_seconds=wait_seconds)
        try:
            receipts = await self._in_time(accepting, verified, channel, late)
        except ReplayedSignature:
            reason = "used before with another message"
            note_invalid_signature(
                self._metrics, verified.context, reason, resembles_provider=False
            )
            raise SignatureInvalid(reason) from None
        verified.reservation.end_work()
        self._note(verified.context, channel, decoded, receipts)
        return receipts

    def _note(
        self, context: RequestContext, channel: Channel, decoded: Decoded, receipts: Receipts
    ) -> None:
        for receipt, event in zip(receipts, decoded.events, strict=True):
            event_id, agent = receipt.event_id, receipt.agent
            if receipt.duplicate:
                self._metrics.duplicates_total.labels(channel=channel.name).inc()
                context.log.info("event.duplicate", event_id=event_id, agent=agent)
                continue
            if receipt.skipped is None:
                line = {**context.said, "event_id": event_id, "agent": agent}
                context.say("event.accepted", line)
            else:
                self._note_skipped(context, channel, receipt)
            if receipt.consent is not None:
                consent = receipt.consent.value
                context.log.info("consent.changed", event_id=event_id, agent=agent, consent=consent)
            if event.kind is _RECEIPT:
                self._note_status(channel.name, event.status or "")

    def _note_status(self, channel: ChannelName, status: str) -> None:
        """Count a receipt; the words of a provider have no end, those of a metric must have one."""
        known = self._statuses.setdefault(channel, set())
        if len(known) < MOST_STATUSES:
            known.add(status)
        shown = status if status in known else "other"
        self._metrics.receipts_total.labels(channel=channel, status=shown).inc()

    def _note_skipped(self, context: RequestContext, channel: Channel, receipt: Receipt) -> None:
        reason = receipt.skipped or ""
        log = context.log.bind(event_id=receipt.event_id, agent=receipt.agent, reason=reason)
        self._metrics.skipped_total.labels(channel=channel.name, reason=reason).inc()
        hint = channel.receipts_hint if reason == EventMark.RECEIPT else None
        if hint is None or channel.name in self._hinted:
            log.info("event.skipped")
        else:
            self._hinted.add(channel.name)
            log.warning("event.skipped", hint=hint)

    async def pause(self, verified: VerifiedRequest, channel: Channel, decoded: Decoded) -> None:
        """Pause the conversations that a channel names.

        Raises:
            JournalUnavailable: it is not on disk in time.
        """

        async def note(changed: int) -> None:
            pause = decoded.pauses[0].pause
            verified.context.log.info(
                "conversation.paused",
                by=pause.by,
                for_seconds=pause.seconds,
                conversations=changed,
            )

        pausing = self._inbox.pause(decoded.pauses)
        await note(await self._in_time(pausing, verified, channel, note))

    def note_ignored(self, channel: Channel, count: int) -> None:
        """Count what a channel names as nothing to keep."""
        self._metrics.ignored_total.labels(channel=channel.name).inc(count)

    async def keep_rejected(
        self,
        verified: VerifiedRequest,
        channel: Channel,
        error: MalformedDelivery | AccountRefused,
    ) -> None:
        """Store a verified delivery that cannot be taken in, so that it can be replayed."""
        reason: dict[str, object] = {"kind": type(error).__name__, "detail": str(error)}
        if isinstance(error, MalformedDelivery):
            reason |= {"missing": list(error.missing), "invalid": list(error.invalid)}
            reason |= {"values": error.values} if error.values else {}
        self._metrics.rejected_total.labels(channel=channel.name).inc()
        verified.context.log.warning("delivery.rejected", reason=reason)

        async def late(_: None) -> None:
            return None

        await self._in_time(self._inbox.reject(verified.delivery, reason), verified, channel, late)

    async def _in_time(
        self,
        work: Awaitable[_T],
        verified: VerifiedRequest,
        channel: Channel,
        late: Callable[[_T], Awaitable[None]],
    ) -> _T:
        """Return the result of `work`, which goes on after the deadline, or when the caller hangs
        up: what the journal has begun to write is not taken back.
        """
        latest = verified.complete_at + (channel.ack_timeout_seconds or self.ack_timeout_seconds)
        task = work if isinstance(work, asyncio.Future) else asyncio.ensure_future(work)
        try:
            await self._deadlines.wait(latest, task)
        except asyncio.CancelledError:
            self._finish_late(task, verified, late)
            raise
        if task.done():
            return task.result()
        self._finish_late(task, verified, late)
        raise JournalUnavailable("The journal did not commit in time.")

    def _finish_late(
        self,
        task: asyncio.Future[_T],
        verified: VerifiedRequest,
        late: Callable[[_T], Awaitable[None]],
    ) -> None:
        async def finish() -> None:
            with memory:
                try:
                    result = await task
                except (JournalUnavailable, ReplayedSignature):
                    return  # the caller was told so, or is gone and will send it again
                await late(result)

        memory = verified.reservation.hand_over()
        self.finish_later(finish())

    def finish_later(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something end that its request no longer waits for, such as a late commit."""
        task = self._loop.create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

    async def close(self) -> None:
        """Wait for what goes on without a request; call it after the server stopped, before the
        journal closes. What a disk that hangs keeps is told so by the journal.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._unfinished:
                    await asyncio.wait(self._unfinished)


class ChannelHandler:
    """Answers the provider of one channel once its message is on disk. One class serves every
    channel: what differs between providers is in the channel's `verify`, `decode` and `answer`.
    """

    def __init__(self, channel: Channel, commits: Commits) -> None:
        self.channel = channel
        self.commits = commits

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Take in one verified delivery.

        Raises:
            MalformedDelivery, AccountRefused: it was kept as rejected.
            SignatureInvalid, JournalUnavailable: see `Commits.accept`.
        """
        verified = request[VERIFIED]
        delivery, mark = verified.delivery, verified.context.mark
        if mark is not None and mark.purpose is Purpose.PROBE:
            return self._probe_answer(request, mark)
        try:
            if len(delivery.body) > LONG_BODY_BYTES:
                decoded = await asyncio.to_thread(self.channel.decode, delivery)
            else:
                decoded = self.channel.decode(delivery)
        except (MalformedDelivery, AccountRefused) as error:
            await self.commits.keep_rejected(verified, self.channel, error)
            rejected = self.channel.rejected_answer()
            if rejected is None:
                raise
            return _said(rejected)
        if decoded.ignored:
            self.commits.note_ignored(self.channel, decoded.ignored)
            if not decoded.events and not decoded.rejected:
                return _said(self.channel.answer(()))
        if decoded.pauses:
            await self.commits.pause(verified, self.channel, decoded)
        if (replies := self.channel.replies) is not None and self._may_wait(request, replies):
            return await self._answer_in_time(request, verified, decoded, replies.wait_seconds)
        receipts = await self.commits.accept(verified, self.channel, decoded)
        return _said(self.channel.answer(receipts))

    def _may_wait(self, request: web.Request, replies: Replies) -> bool:
        if not replies.wait_seconds or self.commits.stopping.is_set():
            return False
        return not gone_at_eof(request)

    async def _answer_in_time(
        self, request: web.Request, verified: VerifiedRequest, decoded: Decoded, seconds: float
    ) -> web.StreamResponse:
        """Commit, then answer with the agent's reply, which the caller waits for, if it comes in
        time, else as the channel says.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        receipts = await self.commits.accept(verified, self.channel, decoded, wait_seconds=seconds)
        if len(receipts) == 1 and receipts[0].skipped is None:
            left = until - clock()
            if not self.commits.can_answer(receipts[0].agent):
                left = 0.0  # a reply that is stored already is given all the same
            reply = await self.commits.callers.reply(request, receipts[0].event_id, left)
            if reply is not None:
                return with_reply(receipts[0], reply)
        return _said(self.channel.answer(receipts))

    def _probe_answer(self, request: web.Request, mark: Mark) -> web.StreamResponse:
        """Return the channel's answer, or 400 where the body was altered on its way; and in a
        header how the request looked when it arrived.
        """
        body = request[VERIFIED].delivery.body
        response = _said(self.channel.answer(()))
        if not mark.is_of(body):
            response.set_status(web.HTTPBadRequest.status_code)
        response.headers[HEADER] = how_it_arrived(request, hashlib.sha256(body).hexdigest())
        return response


def endpoint(channel: Channel, commits: Commits) -> Endpoint:
    """Return a channel's endpoint."""
    handler = ChannelHandler(channel, commits)
    return Endpoint(handler.handle, channel.name, channel.methods, channel=channel)


def _said(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type}
    return web.Response(status=answer.status, body=answer.body, headers=headers)
