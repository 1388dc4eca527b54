"""The journal: one implementation of the contract for SQLite and PostgreSQL.

It ties the steps (`arriving`, `claiming`, `settling` and the like) to the group commit that writes
them, and tells sleepers in this process when something changed. No SQL is in here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from berinia_webhookd.config.settings import JournalSettings
from berinia_webhookd.errors import CannotStart, JournalUnavailable
from berinia_webhookd.journal import (
    arriving,
    claiming,
    event_text,
    migrate,
    reading,
    recovering,
    refusing,
    replying,
    settling,
    upkeep,
)
from berinia_webhookd.journal.contract import (
    Backlog,
    Claimed,
    Lane,
    Reply,
    Settled,
)
from berinia_webhookd.journal.engine import Database, prepare_file
from berinia_webhookd.journal.group_commit import GroupCommit, ItemT, ResultT, Step
from berinia_webhookd.journal.lock import OwnerLock
from berinia_webhookd.journal.steps import (
    ACCEPT,
    BRING_WORK,
    CLAIM,
    NOTE_UNAVAILABLE,
    PURGE,
    RECOVER,
    REJECT,
    RELEASE,
    RENEW,
    SETTLE,
    STOP_WAITING,
)
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import (
    AgentName,
    Entry,
    EntryKind,
    Event,
    EventId,
    Receipt,
    Settlement,
    VerifiedDelivery,
)


class SqlJournal:
    """One journal; `open` it before, and `close` it after everything else."""

    def __init__(
        self,
        url: str,
        *,
        node: str,
        clock: Callable[[], datetime],
        lease_seconds: float = 15,
        retention_days: float = 30,
        dedupe_days: float = 400,
        rejected_max: int = 10_000,
        metrics: Metrics | None = None,
    ) -> None:
        self._clock = clock
        self._keep = upkeep.Retention(retention_days, dedupe_days)
        self._rejected_max = rejected_max
        self._holder = claiming.Holder(f"{node}/{uuid4()}", node, lease_seconds)
        self._database = Database(url, clock=clock)
        self._owner = OwnerLock(self._database.path) if self._database.path else None
        self._metrics = metrics
        self._commits: GroupCommit | None = None
        self._work = asyncio.Event()
        self._replies: defaultdict[EventId, set[asyncio.Event]] = defaultdict(set)

    @classmethod
    def from_settings(
        cls,
        settings: JournalSettings,
        clock: Callable[[], datetime],
        metrics: Metrics | None = None,
    ) -> SqlJournal:
        """The journal that is configured."""
        return cls(
            settings.url.reveal(),
            node=settings.node,
            clock=clock,
            lease_seconds=settings.lease_seconds,
            retention_days=settings.retention_days,
            dedupe_days=settings.dedupe_days,
            rejected_max=settings.rejected_max,
            metrics=metrics,
        )

    async def open(self) -> None:
        """Take the file, bring its schema up to date, and give back what the dead were running.

        Raises:
            CannotStartNow: another process holds it.
            CannotStart: it cannot be written, is no journal, or a newer program excluded this one.
        """
        if self._owner is not None and self._database.path is not None:
            prepare_file(self._database.path)
            self._owner.take()
        try:
            await migrate.migrate(self._database)
        except (SQLAlchemyError, OSError) as error:
            if self._database.is_sqlite:
                await self.close()
                raise CannotStart(
                    f"the journal cannot be opened: {getattr(error, 'orig', error)}",
                    hint="see journal.url; a damaged file can be moved away and looked at",
                ) from error
            # A database elsewhere may come back: serve, and answer 503 until then.
        except CannotStart:
            await self.close()
            raise
        self._commits = GroupCommit(
            self._database,
            committed=self._committed,
            changed=self._changed,
            metrics=self._metrics,
        )
        await self._commits.start()
        with contextlib.suppress(JournalUnavailable):
            await self._submit(RECOVER, recovering.Recovery(everybody=self._database.is_sqlite))

    @property
    def up(self) -> bool:
        """Whether the last commit or connection worked."""
        return self._commits is not None and self._commits.up

    @property
    def last_turn(self) -> float:
        """When the writer last went round, by the loop's clock; an error counts as a turn."""
        return self._commits.last_turn if self._commits is not None else 0.0

    async def close(self) -> None:
        """Finish the commits under way and queued, and let the next owner in."""
        if self._commits is not None:
            await self._commits.close()
        await self._database.close()
        if self._owner is not None:
            self._owner.release()

    # ---- the receiving side

    async def accept(
        self, delivery: VerifiedDelivery, event: Event, *, waiting_until: datetime | None = None
    ) -> Receipt:
        """Commit a new event, or find the one it repeats (see the contract)."""
        data = event_text.encode(event)
        arrival = arriving.Arrival(
            event_id=EventId(arriving.new_id()),
            delivery=delivery,
            event=event,
            event_data=data,
            node=self._holder.node,
            waiting_until=waiting_until,
        )
        return await self._submit(ACCEPT, arrival, size_bytes=len(delivery.body) + len(data))

    async def reject(self, delivery: VerifiedDelivery, reason: Mapping[str, object]) -> None:
        """Keep a verified delivery that fails validation."""
        refusal = refusing.Refusal(delivery, reason, self._holder.node, self._rejected_max)
        await self._submit(REJECT, refusal, size_bytes=len(delivery.body))

    async def wait_for_reply(self, event_id: EventId, until: datetime) -> Reply | None:
        """The reply as soon as there is one for whoever waits; None when there will be none."""
        with self._listening(event_id) as news:
            found = await self._find_reply(event_id)
            if found.reply is not None:
                return found.reply  # also one that is posted late: the message is a repeated one
            while not found.over:
                if not await self._sleep_until(news, until):
                    return None
                news.clear()
                found = await self._find_reply(event_id)
            return found.reply if found.inline else None

    async def stop_waiting(self, event_id: EventId, *, hung_up: bool) -> Reply | None:
        """Nobody waits for this event's reply any longer (see the contract)."""
        return await self._submit(STOP_WAITING, replying.Departure(event_id, hung_up))

    # ---- the dispatching side

    async def claim(self, lanes: Sequence[Lane]) -> Claimed:
        """Lease what may start now, in the order of places."""
        self._work.clear()  # what comes from here on is news to whoever claims
        return await self._submit(CLAIM, claiming.Claim(self._holder, lanes))

    async def settle(self, settlement: Settlement) -> Settled:
        """Record an attempt and the entry's next state, if the lease is still ours."""
        size = len(settlement.outcome.reply or "") + len(settlement.outcome.error or "")
        return await self._submit(
            SETTLE, settling.Ending(self._holder, settlement), size_bytes=size
        )

    async def wait_for_work(self, until: datetime | None) -> None:
        """Sleep until there may be something new to claim, or until the given instant."""
        await self._sleep_until(self._work, until)

    async def renew(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Extend our leases; returns those that were already lost."""
        return await self._submit(RENEW, claiming.Held(self._holder, entries))

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give entries back unfinished, at no cost to their schedule."""
        await self._submit(RELEASE, claiming.Held(self._holder, entries))

    async def agents_waiting(self) -> frozenset[AgentName]:
        """Agents that have open entries."""
        async with self._reading() as connection:
            return await connection.run_sync(reading.agents_waiting)

    async def note_unavailable(self, agent: AgentName, reason: str | None) -> None:
        """Write down why an agent's entries wait, or that they no longer do."""
        note = upkeep.Unavailable(agent, self._holder.node, reason)
        await self._submit(NOTE_UNAVAILABLE, note)

    async def delivery_of(self, event_id: EventId) -> VerifiedDelivery | None:
        """The raw delivery of an event, for its attachments; None once erased or purged."""
        async with self._reading() as connection:
            return await connection.run_sync(reading.delivery_of, event_id)

    # ---- upkeep

    async def recover(self) -> int:
        """Give back what dead processes were running; on SQLite only `open` finds any."""
        if self._database.is_sqlite:
            return 0
        return await self._submit(RECOVER, recovering.Recovery(everybody=False))

    async def backlog(self) -> Backlog:
        """Counts for the status pages."""
        async with self._reading() as connection:
            return await connection.run_sync(reading.backlog)

    async def purge(self) -> int:
        """Delete one small batch of what is past its retention; returns how many rows went."""
        return await self._submit(PURGE, self._keep)

    # ---- how

    async def _submit(
        self, step: Step[ItemT, ResultT], item: ItemT, *, size_bytes: int = 0
    ) -> ResultT:
        if self._commits is None:
            raise JournalUnavailable("the journal is not open")
        return await self._commits.submit(step, item, size_bytes=size_bytes)

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._database.reading() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise JournalUnavailable("the journal cannot be read") from error

    async def _find_reply(self, event_id: EventId) -> reading.FoundReply:
        async with self._reading() as connection:
            return await connection.run_sync(reading.reply_to, event_id)

    @contextlib.contextmanager
    def _listening(self, event_id: EventId) -> Iterator[asyncio.Event]:
        news = asyncio.Event()
        self._replies[event_id].add(news)
        try:
            yield news
        finally:
            self._replies[event_id].discard(news)
            if not self._replies[event_id]:
                del self._replies[event_id]

    async def _sleep_until(self, news: asyncio.Event, until: datetime | None) -> bool:
        """Whether there was news before the instant."""
        seconds = None if until is None else (until - self._clock()).total_seconds()
        try:
            async with asyncio.timeout(None if seconds is None else max(0.0, seconds)):
                await news.wait()
        except TimeoutError:
            return False
        return True

    def _committed(self, step: Step[Any, Any], item: object, _result: object) -> None:
        if step.name in BRING_WORK:
            self._work.set()
        if isinstance(item, settling.Ending) and item.settlement.entry.kind is EntryKind.AGENT:
            for news in self._replies.get(item.settlement.entry.event_id, ()):
                news.set()

    def _changed(self) -> None:
        """Another process wrote: whoever sleeps here looks again."""
        self._work.set()
        for listeners in self._replies.values():
            for news in listeners:
                news.set()
