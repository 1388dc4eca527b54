"""The journal: one implementation of the contract for SQLite and PostgreSQL.

It commits the steps (`accept`, `claim`, …), and wakes waiting tasks of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any
from uuid import uuid4

import structlog

from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart, CannotStartNow, JournalUnavailable
from berinia_webhookd.journal import (
    claim,
    pause,
    purge,
    queries,
    recover,
    rejected,
    rejected_items,
    replies,
    settle,
    show,
    steps,
)
from berinia_webhookd.journal.accept import Arrival, GatheringOf, no_gathering
from berinia_webhookd.journal.batch import BatchStep, ItemT, ResultT
from berinia_webhookd.journal.consents_key import ConsentsKey, require_fit
from berinia_webhookd.journal.contract import (
    Backlog,
    Claimed,
    ClaimRequest,
    LostForGood,
    Received,
    Reply,
    Settled,
    Settlement,
)
from berinia_webhookd.journal.database import (
    EVERYTHING,
    Changes,
    DatabaseError,
    Step,
    Transaction,
    open_database,
)
from berinia_webhookd.journal.group_commit import GroupCommit
from berinia_webhookd.journal.show import Shown
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import (
    AgentName,
    Decoded,
    Entry,
    EntryId,
    EntryKind,
    EventId,
    PauseRequest,
    Receipts,
    RejectedItem,
    VerifiedDelivery,
)

logger = structlog.get_logger()

CONNECTIONS = 5  # PostgreSQL only: one that writes, one that listens, and readers


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
        patience_seconds: float = 10.0,
        lost_reply: recover.LostReply = lambda _: None,
        consents_key: ConsentsKey | None = None,
        gathering_of: GatheringOf = no_gathering,
    ) -> None:
        """`lost_reply` returns the reply to an event that is lost for good with a process."""
        self._consents_key = consents_key
        self._patience_seconds = patience_seconds
        self._gathering_of = gathering_of
        self._lost_reply = lost_reply
        self._keep = purge.Retention(retention_days, dedupe_days)
        self._rejected_max = rejected_max
        self._holder = claim.Holder(f"{node}/{uuid4()}", node, lease_seconds)
        self._database = open_database(url, clock=clock, pool_size=pool_size)
        self._metrics = metrics
        self._commits: GroupCommit | None = None
        self._listener: asyncio.Task[None] | None = None
        self._leased: set[EntryId] = set()  # leases that this process knows of
        self._lost_for_good: list[LostForGood] = []
        self._work = asyncio.Event()
        self._callers = replies.Callers()

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        clock: Callable[[], datetime],
        metrics: Metrics | None = None,
        lost_reply: recover.LostReply = lambda _: None,
        consents_key: ConsentsKey | None = None,
    ) -> SqlJournal:
        """Return the configured journal."""
        ours = settings.journal
        return cls(
            ours.url.reveal(),
            node=ours.node,
            clock=clock,
            lease_seconds=ours.lease_seconds,
            retention_days=ours.retention_days,
            dedupe_days=ours.dedupe_days,
            rejected_max=ours.rejected_max,
            pool_size=ours.pool_size,
            metrics=metrics,
            patience_seconds=settings.server.ack_timeout_seconds,
            lost_reply=lost_reply,
            consents_key=consents_key,
            gathering_of=cache(settings.agents.gathering_of),  # called for each message
        )

    def reconfigure(self, settings: Settings) -> None:
        """Use these settings from the next commit on."""
        self._gathering_of = cache(settings.agents.gathering_of)
        self._patience_seconds = settings.server.ack_timeout_seconds
        if self._commits is not None:
            self._commits.patience_seconds = self._patience_seconds

    async def open(self) -> None:
        """Lock the file, upgrade its schema, and give back entries of dead processes.

        Raises:
            CannotStartNow: another process holds it or is writing to it, or its disk is full.
            CannotStart: it cannot be written, is no journal, or a newer program excluded this one;
            or the database denies access. An unreachable one is retried.
        """
        try:
            await self._database.own()
            self._commits = GroupCommit(
                self._database,
                committed=self._committed,
                changed=lambda: self._heard(EVERYTHING),
                check=partial(require_fit, key=self._consents_key),
                metrics=self._metrics,
                patience_seconds=self._patience_seconds,
            )
            await self._commits.start()
        except (CannotStart, CannotStartNow):
            await self.close()
            raise
        if not self._database.shared:
            with contextlib.suppress(JournalUnavailable):
                await self._submit(
                    steps.RECOVER, recover.Recovery(everybody=True, reply=self._lost_reply)
                )
        listening = self._database.listen(self._heard, self._commits.look_soon)
        self._listener = asyncio.create_task(listening, name="journal listener")

    @property
    def up(self) -> bool:
        """Whether the last commit or connection worked."""
        return self._commits is not None and self._commits.up

    @property
    def created(self) -> bool:
        """Whether `open` created the journal."""
        return self._database.created

    @property
    def last_turn(self) -> float:
        """The loop time of the writer's last turn; an error counts as a turn."""
        return self._commits.last_turn if self._commits is not None else 0.0

    async def watch(self) -> None:
        """Wait until the journal is closed, in the daemon's task group.

        Raises:
            JournalWriterEnded: its writer ended by itself.
        """
        if self._commits is not None:
            await self._commits.watch()

    async def close(self) -> None:
        """Finish the running and queued commits, and release the file.

        Raises:
            JournalWriterEnded: its writer ended by itself.
        """
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))
        try:
            if self._commits is not None:
                await self._commits.close()
        finally:
            await self._database.close()

    # ---- the receiving side

    def accept(
        self, delivery: VerifiedDelivery, decoded: Decoded, *, wait_seconds: float | None = None
    ) -> asyncio.Future[Receipts]:
        """Commit all new events of a delivery, or none (see the contract)."""
        if not decoded.events:
            return asyncio.ensure_future(self._without_events(delivery, decoded.rejected))
        arrival = Arrival.of(
            delivery,
            decoded,
            node=self._holder.node,
            wait_seconds=wait_seconds,
            key=self._consents_key,
            gathering_of=self._gathering_of,
        )
        return self._submit(steps.ACCEPT, arrival, size_bytes=arrival.size_bytes)

    async def _without_events(
        self, delivery: VerifiedDelivery, items: Sequence[RejectedItem]
    ) -> Receipts:
        """Store the rejected items of a delivery, if any."""
        if items:
            await self.reject(delivery, {"items": rejected_items.as_items(items)})
        return ()

    async def reject(self, delivery: VerifiedDelivery, reason: Mapping[str, object]) -> None:
        """Store a verified delivery that fails validation."""
        rejection = rejected.Rejection(delivery, reason, self._holder.node, self._rejected_max)
        await self._submit(steps.REJECT, rejection, size_bytes=len(delivery.body))

    async def pause(self, requests: Sequence[PauseRequest]) -> int:
        """Pause conversations (see the contract)."""
        changed = await self._submit(steps.PAUSE, requests)
        return len(changed)

    async def wait_for_reply(self, event_id: EventId, seconds: float) -> Reply | None:
        """Return the reply as soon as there is one for a waiting caller; None if there will be
        none.
        """
        until = asyncio.get_running_loop().time() + seconds
        with self._callers.listening(event_id) as changed:
            found = await self._find_reply(event_id)
            if found.reply is not None:
                return found.reply  # also a late one: this is a repeated message
            while not found.over:
                if not await wait_for_event(changed, until - asyncio.get_running_loop().time()):
                    return None
                changed.clear()
                found = await self._find_reply(event_id)
            return found.reply if found.inline else None

    async def stop_waiting(self, event_id: EventId, *, hung_up: bool) -> Reply | None:
        """Note that the caller timed out or hung up (see the contract)."""
        return await self._submit(steps.STOP_WAITING, replies.Departure(event_id, hung_up))

    # ---- the dispatching side

    async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        """Lease the entries that may start now, in the order of places."""
        self._work.clear()  # later changes wake the next claim
        return await self._submit(steps.CLAIM, claim.Claim(self._holder, requests))

    async def begin(self, entry: Entry) -> bool:
        """Record that an at-most-once agent is about to be called, if the lease is ours."""
        return await self._submit(steps.BEGIN, claim.Held(self._holder, [entry]))

    def settle(self, settlement: Settlement) -> asyncio.Future[Settled]:
        """Record an attempt and the entry's next state, if the lease is still ours."""
        size = len(settlement.outcome.reply or "") + len(settlement.outcome.error or "")
        return self._submit(steps.SETTLE, settle.Ended(self._holder, settlement), size_bytes=size)

    async def wait_for_work(self, seconds: float | None) -> None:
        """Sleep until there may be something new to claim, or until the timeout."""
        await wait_for_event(self._work, seconds)

    async def renew(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Extend our leases; returns those that were already lost."""
        return await self._submit(steps.RENEW, claim.Held(self._holder, entries))

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give entries back unfinished, without counting a retry."""
        # Even if this fails, this process does not work on them any more.
        self._leased.difference_update(entry.id for entry in entries)
        await self._submit(steps.RELEASE, claim.Held(self._holder, entries))

    async def agents_waiting(self) -> frozenset[AgentName]:
        """Agents that have open entries."""

        async def look(transaction: Transaction) -> list[str]:
            return await claim.agents_with_open(transaction, EntryKind.AGENT)

        return frozenset(map(AgentName, await self._read(look)))

    async def note_unavailable(self, agent: AgentName, reason: str | None) -> None:
        """Store why an agent cannot be loaded, or (None) that it can."""
        note = purge.Unavailable(agent, self._holder.node, reason)
        await self._submit(steps.NOTE_UNAVAILABLE, note)

    async def delivery_of(self, event_id: EventId) -> VerifiedDelivery | None:
        """The raw delivery of an event, for its attachments; None once erased or purged."""
        return await self._read(partial(queries.delivery_of, id_=event_id))

    # ---- upkeep

    async def recover(self) -> int:
        """Give back entries of dead processes (on SQLite only `open` finds any), and delete expired
        pauses.
        """
        if over := await self._read(pause.over):
            for conversation in await self._submit(steps.END_PAUSES, over):
                logger.info("conversation.resumed", conversation=conversation, by="its time")
        if not self._database.shared or self._commits is None:
            return 0
        recovery = recover.Recovery(
            up_since=self._commits.up_since,
            lease_seconds=self._holder.lease_seconds,
            reply=self._lost_reply,
        )
        await self._submit(steps.GIVE_BACK_LEFTOVERS, recover.Leftovers(self._holder, self._leased))
        return (await self._submit(steps.RECOVER, recovery)).given_back

    def take_lost_for_good(self) -> list[LostForGood]:
        """Return the entries lost for good since the last call."""
        taken, self._lost_for_good = self._lost_for_good, []
        return taken

    async def show(self, event_id: EventId) -> Shown | None:
        """Return the data of one event; None if it is gone."""
        return await self._read(partial(show.show_event, event_id=event_id))

    async def backlog(self) -> Backlog:
        """Return counts for the status pages."""
        return await self._read(queries.backlog)

    async def received_between(
        self, since: datetime, until: datetime, most: int
    ) -> Mapping[str, Received]:
        """Count what was accepted on each channel, of the newest `most` deliveries in this time."""
        return await self._read(
            partial(queries.received_between, since=since, until=until, most=most)
        )

    async def purge(self) -> int:
        """Delete one small batch of rows past their retention; returns how many."""
        return await self._submit(steps.PURGE, self._keep)

    # ---- how

    def _submit(
        self, step: BatchStep[ItemT, ResultT], item: ItemT, *, size_bytes: int = 0
    ) -> asyncio.Future[ResultT]:
        if self._commits is None:
            raise JournalUnavailable("the journal is not open")
        return self._commits.submit(step, item, size_bytes=size_bytes)

    async def _read(self, step: Step[ResultT]) -> ResultT:
        try:
            return await self._database.read(step)
        except DatabaseError as error:
            raise JournalUnavailable("the journal cannot be read") from error

    async def _find_reply(self, event_id: EventId) -> replies.FoundReply:
        return await self._read(partial(replies.reply_to, event_id=event_id))

    def _committed(
        self, step: BatchStep[Any, Any], items: Sequence[Any], results: Sequence[Any]
    ) -> None:
        if step.name in steps.BRING_WORK:
            self._work.set()
        if step is steps.CLAIM:
            self._leased.update(entry.id for claimed in results for entry in claimed.entries)
        elif step is steps.RECOVER:
            self._lost_for_good += (dead for recovered in results for dead in recovered.dead)
        elif step is steps.SETTLE:
            for entry in (ended.settlement.entry for ended in items):
                self._leased.discard(entry.id)
                self._callers.wake_for(entry)

    def _heard(self, changes: Changes) -> None:
        """Wake all waiting tasks, because another process wrote."""
        if changes.work:
            self._work.set()
        self._callers.wake(None if changes.all_replies else changes.replies)
