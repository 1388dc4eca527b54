"""What the journal promises the other stages: on disk before we say yes, and each event once.

Every method may raise `JournalUnavailable`. Durations cross this border, not instants: the database
adds them to its own clock. Implemented once, in `journal/store.py`, for SQLite and PostgreSQL; what
operators do with a journal is in `journal/operations.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from berinia_webhookd.config.values import Rate
from berinia_webhookd.model import (
    AgentName,
    Decoded,
    Entry,
    EntryKind,
    EntryState,
    EventId,
    Outcome,
    Pause,
    PauseRequest,
    Receipts,
    VerifiedDelivery,
)

UNDELIVERABLE_WHY: Final = (
    "its caller waits no longer, and later ones go nowhere: it is a direct message, or "
    "channels.<name>.late_reply_url is not set"
)
NOT_POSTED: Final = "each attempt to post it failed; `attempt.failed` says why"
GOES_ON: Final = "the code before goes on, for the new code cannot be loaded:"
PAUSED: Final = "paused"  # why what stands in such a conversation is held; else a guard's name


class Guard(StrEnum):
    """Why an entry is held: it stays ready, and starts once the hold ends."""

    BUDGET = "budget"  # too many runs for one person, or too much cost in a day
    LOOP = "loop"  # two machines seem to answer each other
    BREAKER = "breaker"  # its agent keeps failing, whoever writes


class ReplayedSignature(Exception):
    """A signature that was already used with another message."""


# So many attempts of an agent that failed one after the other are told; and after so many, over all
# conversations, the breaker has it tried with one entry at a time.
TOLD_FAILURES: Final = 3
MOST_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class Budget:
    """What an agent may use up, and what else its guards are told."""

    daily_cost: float | None = None  # of its results in one day, UTC
    per_sender: tuple[Rate, ...] = ()  # runs for each person
    loops: bool = True  # whether what looks like a loop is held


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a dispatcher can start now: up to `limit` entries of a kind for any of these agents."""

    kind: EntryKind
    agents: frozenset[AgentName] | None  # None: any
    limit: int
    budgets: Mapping[AgentName, Budget] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hold:
    """What a guard has begun to hold back: an entry with its queue, or all that is for an agent."""

    guard: Guard
    agent: AgentName
    why: str
    seconds: float | None  # until it lets go by itself
    channel: str | None = None  # of an entry
    event_id: EventId | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The entries leased, in how long the next one may start that waits for an instant, and what
    guards have begun to hold back.
    """

    entries: Sequence[Entry]
    next_due_seconds: float | None
    holds: Sequence[Hold] = ()


@dataclass(frozen=True, slots=True)
class LostForGood:
    """An entry that is dead because the processes that ran it ended, time and again; or once, where
    its agent must not be called twice.
    """

    event_id: EventId
    channel: str
    agent: AgentName
    attempt: int
    kind: str
    may_have_acted: bool  # an at-most-once agent had begun


class ReplyRoute(StrEnum):
    """How an agent's reply goes back into the chat; decided in one transaction."""

    NONE = "none"  # nothing to say, or a channel without replies
    INLINE = "inline"  # a caller is waiting for it
    LATE = "late"  # posted to late_reply_url, as an entry of its own
    UNDELIVERABLE = "undeliverable"  # see `UNDELIVERABLE_WHY`


@dataclass(frozen=True, slots=True)
class FailureReply:
    """What a person is told when nobody will try again and the agent said nothing."""

    text: str
    late: bool  # whether it can be posted where nobody waits for it


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the journal shall record at the end of an attempt, counted from now."""

    entry: Entry
    outcome: Outcome
    took_seconds: float
    state: EntryState  # done, dead, waiting or ready
    due_in_seconds: float | None = None  # waiting only
    # For how long its failures hold back its conversation; counts from the first of them.
    hold_seconds: float | None = None
    retries: int = 0
    # Where a reply may go: the journal decides in the same transaction. `late` says a reply that
    # nobody waits for can be posted. What is not done has none but this one, if it is dead.
    late: bool = False
    failure_reply: FailureReply | None = None
    may_have_acted: bool = False  # dead, of an at-most-once agent that may have done its work
    pause: Pause | None = None  # the agent hands the conversation over


@dataclass(frozen=True, slots=True)
class Settled:
    """`kept` is False when the lease had been lost: nothing was recorded, another run decides."""

    kept: bool
    reply: ReplyRoute = ReplyRoute.NONE
    # On how many attempts in a row the agent has failed, where that is to be told: it came to one
    # of the two numbers above, or the agent works again.
    failures: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The stored reply of an event's agent; `failed` says the agent returned it as an error. One
    without a text says that the event shared its attempt with others, and none of it is for it.
    """

    text: str | None
    failed: bool


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What one guard holds."""

    conversations: int
    oldest_seconds: float  # for how long the oldest message that it holds has been here


@dataclass(frozen=True, slots=True)
class Backlog:
    """What `/metrics`, `/health` and the systemd status line say about the entries."""

    entries: Mapping[EntryState, int]
    oldest_ready_seconds: Mapping[AgentName, float]
    held: Mapping[str, HeldBack] = field(default_factory=dict)  # by guard, and `paused`


@dataclass(frozen=True, slots=True)
class Received:
    """What was accepted on a channel in some time."""

    count: int  # of deliveries
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Count:
    """How many entries of a kind are in a state."""

    kind: str
    channel: str
    agent: str
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The figures of `events stats`."""

    counts: tuple[Count, ...]
    rejected: int
    oldest_open_at: dict[str, datetime]  # by agent: ready or waiting for a retry
    may_have_acted: dict[str, int]  # by agent: dead ones that must not simply be repeated
    received_last_hour: int
    received_last_day: int
    finished_last_hour: int
    # How many attempts failed since one that did not, three or more; and what is held, by guard,
    # and `paused`.
    failing_agents: dict[str, int] = field(default_factory=dict)
    held: dict[str, HeldBack] = field(default_factory=dict)
    agents_with_costs: tuple[
        str, ...
    ] = ()  # whose results said one on the last day they were noted


@dataclass(frozen=True, slots=True)
class FileState:
    """A SQLite file as it was found."""

    damage: str | None  # what `PRAGMA quick_check` says; None: nothing
    complete: bool  # whether all of it was looked at in the time
    refusal: str | None  # why it takes no writes; None: it does


@dataclass(frozen=True, slots=True)
class MissingAgent:
    """An agent that a node could not load, or not as its code is now."""

    agent: str
    node: str
    reason: str
    since: datetime

    @property
    def goes_on(self) -> bool:
        """Whether it goes on with the code before."""
        return self.reason.startswith(GOES_ON)


class Inbox(Protocol):
    """The receiving side."""

    def accept(
        self,
        delivery: VerifiedDelivery,
        decoded: Decoded,
        *,
        wait_seconds: float | None = None,
    ) -> Awaitable[Receipts]:
        """Commit all that is new of a delivery, or nothing; what was seen before gets the receipt
        of the first time. It begins at once, and is over only when the data is flushed.

        With `wait_seconds` a caller waits so long for the reply (see `stop_waiting`).

        Raises:
            ReplayedSignature: `delivery.replay_key` was used with another message.
        """

    async def reject(self, delivery: VerifiedDelivery, reason: Mapping[str, object]) -> None:
        """Keep a verified delivery that fails validation: once per signature or body, capped."""

    async def pause(self, requests: Sequence[PauseRequest]) -> int:
        """Hold conversations; returns how many of them were not held, or not for so long. What runs
        goes on, and a pause never ends one that lasts longer.
        """

    async def wait_for_reply(self, event_id: EventId, seconds: float) -> Reply | None:
        """Return the inline (or already stored) reply as soon as there is one; None when the time
        is over, or when the event ended without a reply.
        """

    async def stop_waiting(self, event_id: EventId, *, hung_up: bool) -> Reply | None:
        """The caller waits no longer. Returns the reply if it was decided inline in the meantime.

        With `hung_up` a reply already decided inline, and not handed over, becomes a late one.
        """


class Outbox(Protocol):
    """The dispatching side."""

    async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        """Lease what may start now, in the order of places; the order rule holds in here."""

    async def begin(self, entry: Entry) -> bool:
        """Write down that an at-most-once agent is about to be called, if the lease is still ours;
        returns whether it is. From then on the entry is never given back by itself.
        """

    def settle(self, settlement: Settlement) -> asyncio.Future[Settled]:
        """Record an attempt and the entry's next state, if the lease is still ours; or if it was
        ours when it was lost, and the attempt had begun, so that nobody else makes it.
        """

    async def wait_for_work(self, seconds: float | None) -> None:
        """Sleep until there may be something new to claim (an arrival, an outcome, another
        process' change), or until the time is over.
        """

    async def renew(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Extend our leases; returns those that were already lost."""

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give entries back unfinished, at no cost to their schedule (stopping)."""

    async def agents_waiting(self) -> frozenset[AgentName]:
        """Agents that have open entries."""

    async def note_unavailable(self, agent: AgentName, reason: str | None) -> None:
        """Write the reason (or its end) on the agent's ready entries, for `events show`."""

    async def delivery_of(self, event_id: EventId) -> VerifiedDelivery | None:
        """The raw delivery of an event, for its attachments; None once erased or purged."""


class Upkeep(Protocol):
    """What keeps a journal healthy, and what the status pages read."""

    async def recover(self) -> int:
        """Give back what dead processes were running; five losses make an entry dead, and a single
        one where an at-most-once agent had begun.

        On SQLite, where one `serve` owns the file: all that runs, at start. On PostgreSQL: expired
        leases, periodically. Returns how many entries were given back.
        """

    async def backlog(self) -> Backlog:
        """Counts for the status pages."""

    async def purge(self) -> int:
        """Delete one small batch of what is past its retention; returns how many rows went."""

    async def close(self) -> None:
        """Finish the commit under way and close."""


class Inspection(Protocol):
    """What commands and status pages read of a journal that they only look at."""

    async def stats(self) -> Statistics:
        """Count entries by state, with ages and rates."""

    async def last_received_at(self) -> datetime | None:
        """Return when the newest delivery came, by the clock of the machine that took it."""

    async def missing_agents(self) -> list[MissingAgent]:
        """Return the agents that could not be loaded, with the reason of each node."""

    async def last_error_of(self, agent: str) -> str | None:
        """Return what the agent said when it failed last, of its newest messages."""

    async def server_settings(self, *names: str) -> dict[str, str]:
        """Return settings of the PostgreSQL server; none on SQLite."""
