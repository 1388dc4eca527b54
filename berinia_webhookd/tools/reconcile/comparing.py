"""Compares what a provider holds with the journal, and takes in what is missing: the oldest day
first, and each day in its order. What was taken in is here when the same command is given again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypeVar

from berinia_webhookd.errors import DeliveryRejected, MalformedDelivery
from berinia_webhookd.journal.database import in_batches
from berinia_webhookd.journal.reconcile import BATCH, Rebuilt, Reconciliation, here
from berinia_webhookd.model import ChannelName, Event, Receipts
from berinia_webhookd.tools.reconcile.asking import Waits
from berinia_webhookd.tools.terminal import one_line

LOOKED_UP: Final = 500  # digests asked for at once
BATCH_BYTES: Final = 8 * 1024 * 1024
PENDING_SECONDS: Final = 900.0  # so young, a message may still be on its way
LATE: Final = timedelta(hours=24)
MOST_NAMED: Final = 20
LONGEST_NAME: Final = 300  # whatever a provider calls it

Told = tuple[str, Mapping[str, object]]  # a line of the log


class Listed(Protocol):
    """A message that a provider says it has."""

    @property
    def id(self) -> str:
        """What the provider calls it."""

    @property
    def at(self) -> datetime:
        """Its own time."""

    @property
    def digest(self) -> bytes:
        """Of its event, or what else its source knows it by."""


ListedT = TypeVar("ListedT", bound=Listed)


class Source(Protocol[ListedT]):
    """A provider that is asked."""

    pending_seconds: float  # younger ones may still come by themselves
    takes_pending: bool  # whether they are taken in all the same

    def groups(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[AsyncIterator[Sequence[ListedT]]]:
        """Yield groups of pages: what is of one conversation is in one group, or in their order."""

    async def here(self, journal: Reconciliation, some: Sequence[ListedT]) -> set[bytes]:
        """Return the digests of those that are here, or were."""

    def doubt(self, message: ListedT) -> str | None:
        """Say why it cannot be told whether one that is not found here was, if so."""

    def asks_start(self, event: Event) -> bool:
        """Whether it means START of somebody who has opted out."""

    async def rebuilt(self, message: ListedT, now: datetime) -> Rebuilt:
        """Return a message as its callback would have brought it.

        Raises:
            DeliveryRejected: it cannot be taken in.
        """


class KnownByDigest:
    """A source whose messages have the digests that their callbacks have: none can double."""

    pending_seconds = PENDING_SECONDS
    takes_pending = True

    async def here(self, journal: Reconciliation, some: Sequence[Listed]) -> set[bytes]:
        """See `Source`."""
        return await journal.read(here, [one.digest for one in some])

    def doubt(self, message: Listed) -> str | None:
        """See `Source`."""
        del message
        return None


@dataclass
class Tally:
    """How many there were of each kind, the first of those that need somebody, and what is told of
    each pause before the provider is asked again.
    """

    listed: int = 0
    here: int = 0
    pending: int = 0
    missing: int = 0
    too_old: int = 0
    taken_in: int = 0
    refused: int = 0
    absent_from: datetime | None = None  # the times of those that are missing or too old
    absent_to: datetime | None = None
    complete_to: datetime | None = None  # what is younger may still come by itself
    named: list[str] = field(default_factory=list)
    waits: Waits = field(default=lambda *_: None, kw_only=True)

    def name(self, line: str) -> None:
        """Remember one, unless there are many."""
        if len(self.named) < MOST_NAMED:
            self.named.append(one_line(line, LONGEST_NAME))

    def note_absent(self, at: datetime) -> None:
        """Remember the time of one that is missing or too old."""
        self.absent_from = min(self.absent_from or at, at)
        self.absent_to = max(self.absent_to or at, at)

    def refuse(self, what: str, error: DeliveryRejected) -> None:
        """Count one that cannot be taken in."""
        why = error.in_full if isinstance(error, MalformedDelivery) else str(error)
        self.refused += 1
        self.name(f"not taken in: {what}: {why}")

    @property
    def counts(self) -> Mapping[str, int]:
        """What the log and the alert say."""
        return {
            "listed": self.listed,
            "here": self.here,
            "pending": self.pending,
            "missing": self.missing,
            "too_old": self.too_old,
        }


@dataclass(frozen=True)
class Wanted:
    """What is compared, and what is done about it."""

    channel: ChannelName
    since: datetime
    until: datetime
    now: datetime
    dry_run: bool
    late_ok: bool
    at_once: bool = False  # nothing is left to come by itself


class Comparison:
    """One comparison of a provider with a journal."""

    def __init__(
        self,
        journal: Reconciliation,
        source: Source[Any],
        wanted: Wanted,
        tally: Tally,
        *,
        moved: Callable[[], None],
        tell: Callable[[Iterable[Told]], object],
    ) -> None:
        """`moved` is called now and then, `tell` with lines for the log."""
        self._journal = journal
        self._source = source
        self._wanted = wanted
        self._tally = tally
        self._moved = moved
        self._tell = tell
        pending = 0.0 if wanted.at_once else source.pending_seconds
        self._young = wanted.now - timedelta(seconds=pending)
        tally.complete_to = min(self._young, wanted.until)
        self._old = wanted.now - LATE

    async def run(self) -> None:
        """Compare all, and take in what is missing unless that is only to be counted."""
        async for group in self._source.groups(self._wanted.since, self._wanted.until):
            missing: dict[bytes, Listed | None] = {}  # a page may repeat the end of the one before
            async for page in group:
                for some in in_batches(page, LOOKED_UP):
                    await self._sort_out(some, missing)
                    self._moved()
            found = sorted(filter(None, missing.values()), key=lambda one: one.at)
            async for some in self._rebuilt(found):
                await self._take_in(some)
                self._moved()

    async def _sort_out(self, some: Sequence[Listed], missing: dict[bytes, Listed | None]) -> None:
        here = await self._source.here(self._journal, some)
        tally = self._tally
        tally.listed += len(some)
        for one in some:
            if one.digest in here:
                tally.here += 1
            elif one.at > self._young and (self._wanted.dry_run or not self._source.takes_pending):
                tally.pending += 1
            elif one.at < self._old and not self._wanted.late_ok:
                tally.too_old += 1
                tally.note_absent(one.at)
            elif (doubt := self._source.doubt(one)) is not None:
                tally.refuse(one.id, MalformedDelivery(doubt))
            elif one.digest not in missing:
                tally.missing += 1
                tally.note_absent(one.at)
                tally.name(f"missing: {one.id}, of {one.at.isoformat(' ', 'seconds')}")
                missing[one.digest] = None if self._wanted.dry_run else one

    async def _rebuilt(self, found: Iterable[Listed]) -> AsyncIterator[list[Rebuilt]]:
        """Yield as many as are taken in at once: a hundred, or a few large ones."""
        some: list[Rebuilt] = []
        size = 0
        for one in found:
            try:
                some.append(await self._source.rebuilt(one, self._wanted.now))
            except DeliveryRejected as error:
                self._tally.refuse(one.id, error)
                continue
            size += len(some[-1].delivery.body)
            if len(some) == BATCH or size >= BATCH_BYTES:
                yield some
                some, size = [], 0
        yield some

    async def _take_in(self, some: Sequence[Rebuilt]) -> None:
        receipts = await self._journal.take_in(self._wanted.channel, some, self._source.asks_start)
        new = [one for of in receipts for one in of if not one.duplicate]
        self._tally.taken_in += len(new)
        self._tell(self._lines(receipts))

    def _lines(self, receipts: Iterable[Receipts]) -> Iterable[Told]:
        for receipt in (one for of in receipts for one in of if not one.duplicate):
            fields = {
                "channel": self._wanted.channel,
                "event_id": receipt.event_id,
                "agent": receipt.agent,
                "reconciled": True,
            }
            if receipt.skipped is None:
                yield "event.accepted", fields
            else:
                yield "event.skipped", {**fields, "reason": receipt.skipped}
            if receipt.consent is not None:
                yield "consent.changed", {**fields, "consent": receipt.consent.value}
