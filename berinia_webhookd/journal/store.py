"""The journal: one implementation of the contract for SQLite and PostgreSQL.

It ties the steps (`arriving`, `claiming`, `settling` and the like) to the group commit that writes
them, and tells sleepers in this process when something changed. No SQL is in here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from berinia_webhookd.config.settings import JournalSettings
from berinia_webhookd.errors import CannotStart, CannotStartNow, JournalUnavailable
from berinia_webhookd.journal import (
    arriving,
    claiming,
    clocks,
    event_text,
    migrate,
    postgresql,
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
    LostForGood,
    Reply,
    Settled,
)
from berinia_webhookd.journal.engine import CONNECTIONS, Database, is_passing, prepare_file
from berinia_webhookd.journal.group_commit import GroupCommit, ItemT, ResultT, Step
from berinia_webhookd.journal.lock import OwnerLock
from berinia_webhookd.journal.steps import (
    ACCEPT,
    BRING_WORK,
    CLAIM,
    GIVE_BACK_LEFTOVERS,
    NOTE_UNAVAILABLE,
    PURGE,
    RECOVER,
    REJECT,
    RELEASE,
    RENEW,
    SETTLE,
    STOP_WAITING,
)
from berinia_webhookd.journal.wake_ups import Ear, News
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import (
    AgentName,
    Entry,
    EntryId,
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
        pool_size: int = CONNECTIONS,
        metrics: Metrics | None = None,
    ) -> None:
        self._clock = clock
        self._keep = upkeep.Retention(retention_days, dedupe_days)
        self._rejected_max = rejected_max
        self._holder = claiming.Holder(f"{node}/{uuid4()}", node, lease_seconds)
        self._database = Database(url, clock=clock, pool_size=pool_size)
        self._owner = OwnerLock(self._database.path) if self._database.path else None
        self._metrics = metrics
        self._commits: GroupCommit | None = None
        self._ear: Ear | None = None
        self._listener: asyncio.Task[None] | None = None
        self._leased: set[EntryId] = set()  # as far as we were told
        self._lost_for_good: list[LostForGood] = []
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
            pool_size=settings.pool_size,
            metrics=metrics,
        )

    async def open(self) -> None:
        """Take the file, bring its schema up to date, and give back what the dead were running.

        Raises:
            CannotStartNow: another process holds it or is writing to it, or its disk is full.
            CannotStart: it cannot be written, is no journal, or a newer program excluded this one;
                or the database will not let us in. One that is away is waited for.
        """
        try:
            if self._database.is_sqlite:
                await self._open_file()
            self._commits = GroupCommit(
                self._database,
                committed=self._committed,
                changed=self._changed,
                metrics=self._metrics,
                prepare=None if self._database.is_sqlite else self._prepare,
                listening=lambda: self._ear is not None and self._ear.listening,
            )
            await self._commits.start()
        except (CannotStart, CannotStartNow):
            await self.close()
            raise
        if self._database.is_sqlite:
            with contextlib.suppress(JournalUnavailable):
                await self._submit(RECOVER, recovering.Recovery(everybody=True))
        else:
            self._listen()

    async def _open_file(self) -> None:
        if self._owner is None or self._database.path is None:
            return
        prepare_file(self._database.path)
        self._owner.take()
        try:
            await migrate.migrate(self._database)
        except (SQLAlchemyError, OSError) as error:
            why = f"the journal cannot be opened: {getattr(error, 'orig', error)}"
            if is_passing(error):
                hint = "another program may be writing to it, or its disk be full"
                raise CannotStartNow(why, hint=hint) from error
            hint = "see journal.url; a damaged file can be moved away and looked at"
            raise CannotStart(why, hint=hint) from error

    async def _prepare(self) -> None:
        """Before a database is used, for the first time or again."""
        try:
            await migrate.migrate(self._database)
        except (SQLAlchemyError, OSError, ValueError) as error:
            if postgresql.refuses_for_good(error):
                raise CannotStart(
                    f"the journal's database refuses us: {getattr(error, 'orig', error)}",
                    hint=postgresql.hint_for(error),
                ) from error
            raise

    def _listen(self) -> None:
        commits = self._commits
        if commits is None:
            return
        self._ear = Ear(
            self._database.driver_connection,
            myself=self._database.instance,
            heard=self._heard,
            deaf=commits.look_soon,
        )
        self._listener = asyncio.create_task(self._ear.run(), name="journal listener")

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
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))
        if self._commits is not None:
            await self._commits.close()
        await self._database.close()
        if self._owner is not None:
            self._owner.release()

    # ---- the receiving side

    def accept(
        self, delivery: VerifiedDelivery, event: Event, *, waiting_until: datetime | None = None
    ) -> asyncio.Future[Receipt]:
        """Commit a new event, or find the one it repeats (see the contract)."""
        data = event_text.encode(event)
        arrival = arriving.Arrival(
            event_id=EventId(arriving.new_id()),
            delivery=delivery,
            event=event,
            event_data=data,
            node=self._holder.node,
            waiting_until=clocks.moved(waiting_until, self._database.ahead),
        )
        return self._begin(ACCEPT, arrival, size_bytes=len(delivery.body) + len(data))

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
        claimed = await self._submit(CLAIM, claiming.Claim(self._holder, lanes))
        return clocks.claimed_here(claimed, self._database.ahead)

    async def settle(self, settlement: Settlement) -> Settled:
        """Record an attempt and the entry's next state, if the lease is still ours."""
        size = len(settlement.outcome.reply or "") + len(settlement.outcome.error or "")
        theirs = clocks.settlement_there(settlement, self._database.ahead)
        ending = settling.Ending(self._holder, theirs)
        return await self._submit(SETTLE, ending, size_bytes=size)

    async def wait_for_work(self, until: datetime | None) -> None:
        """Sleep until there may be something new to claim, or until the given instant."""
        await self._sleep_until(self._work, until)

    async def renew(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Extend our leases; returns those that were already lost."""
        return await self._submit(RENEW, claiming.Held(self._holder, entries))

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give entries back unfinished, at no cost to their schedule."""
        # Whatever comes of it, we do not work on them any more.
        self._leased.difference_update(entry.id for entry in entries)
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
        if self._database.is_sqlite or self._commits is None:
            return 0
        recovery = recovering.Recovery(
            up_since=self._commits.up_since, lease_seconds=self._holder.lease_seconds
        )
        await self._submit(GIVE_BACK_LEFTOVERS, recovering.Leftovers(self._holder, self._leased))
        return (await self._submit(RECOVER, recovery)).given_back

    def take_lost_for_good(self) -> list[LostForGood]:
        """What died of its losses since the last call."""
        taken, self._lost_for_good = self._lost_for_good, []
        return taken

    async def backlog(self) -> Backlog:
        """Counts for the status pages."""
        async with self._reading() as connection:
            backlog = await connection.run_sync(reading.backlog)
        ahead = self._database.ahead
        oldest = {agent: since - ahead for agent, since in backlog.oldest_ready_at.items()}
        return Backlog(backlog.entries, oldest)

    async def purge(self) -> int:
        """Delete one small batch of what is past its retention; returns how many rows went."""
        return await self._submit(PURGE, self._keep)

    # ---- how

    async def _submit(
        self, step: Step[ItemT, ResultT], item: ItemT, *, size_bytes: int = 0
    ) -> ResultT:
        return await self._begin(step, item, size_bytes=size_bytes)

    def _begin(
        self, step: Step[ItemT, ResultT], item: ItemT, *, size_bytes: int = 0
    ) -> asyncio.Future[ResultT]:
        if self._commits is None:
            raise JournalUnavailable("the journal is not open")
        return self._commits.submit(step, item, size_bytes=size_bytes)

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

    def _committed(self, step: Step[Any, Any], item: object, result: object) -> None:
        if step.name in BRING_WORK:
            self._work.set()
        if isinstance(result, Claimed):
            self._leased.update(entry.id for entry in result.entries)
        if isinstance(result, recovering.Recovered):
            self._lost_for_good += result.dead
        if isinstance(item, settling.Ending):
            entry = item.settlement.entry
            self._leased.discard(entry.id)
            if entry.kind is EntryKind.AGENT:
                self._wake_callers([entry.event_id])

    def _changed(self) -> None:
        """Another process wrote: whoever sleeps here looks again."""
        self._heard(News(work=True, all_replies=True))

    def _heard(self, news: News) -> None:
        if news.work:
            self._work.set()
        self._wake_callers(list(self._replies) if news.all_replies else news.replies)

    def _wake_callers(self, event_ids: Iterable[EventId]) -> None:
        for event_id in event_ids:
            for news in self._replies.get(event_id, ()):
                news.set()
