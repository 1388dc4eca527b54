"""The journal's contract with the other stages: deliveries are on disk before they are accepted,
each event is stored once.

Every method may raise `JournalUnavailable`. Arguments are durations, not instants: the database
adds them to its own clock. Implemented in `journal/store.py`, for SQLite and PostgreSQL; operators'
operations are in `journal/operations.py`.
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
PAUSED: Final = "paused"  # the reason of a hold by a pause; else a guard's name


class Guard(StrEnum):
    """The guard that holds an entry: the entry stays ready, and starts once the hold ends."""

    BUDGET = "budget"  # too many runs for one person, or too much cost in a day
    LOOP = "loop"  # two machines seem to answer each other
    BREAKER = "breaker"  # its agent keeps failing


class ReplayedSignature(Exception):
    """A signature that was already used with another message."""


# Consecutive failed attempts of an agent, over all conversations, that are reported; and after
# which the breaker tries one entry at a time.
TOLD_FAILURES: Final = 3
MOST_FAILURES: Final = 5


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget of an agent, and the settings of its other guards."""

    daily_cost: float | None = None  # the most cost of its results in one day, UTC
    per_sender: tuple[Rate, ...] = ()  # the most runs for each person
    loops: bool = True  # whether suspected loops are held


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A request of a dispatcher for up to `limit` entries of a kind for any of these agents."""

    kind: EntryKind
    agents: frozenset[AgentName] | None  # None: any
    limit: int
    budgets: Mapping[AgentName, Budget] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hold:
    """A new hold of a guard: on an entry with its queue, or on all entries of an agent."""

    guard: Guard
    agent: AgentName
    why: str
    seconds: float | None  # until it ends; None: until it is released
    channel: str | None = None  # None: a hold on an agent
    event_id: EventId | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The leased entries, the time until the next one falls due, and the new holds of guards."""

    entries: Sequence[Entry]
    next_due_seconds: float | None
    holds: Sequence[Hold] = ()


@dataclass(frozen=True, slots=True)
class LostForGood:
    """An entry that is dead because the processes that ran it ended repeatedly; or once, for an
    at-most-once agent.
    """

    event_id: EventId
    channel: str
    agent: AgentName
    attempt: int
    kind: str
    may_have_acted: bool  # an attempt of an at-most-once agent had begun


class ReplyRoute(StrEnum):
    """The way of an agent's reply into the chat; decided in one transaction."""

    NONE = "none"  # no reply, or a channel without replies
    INLINE = "inline"  # a caller is waiting for it
    LATE = "late"  # posted to late_reply_url, as an entry of its own
    UNDELIVERABLE = "undeliverable"  # see `UNDELIVERABLE_WHY`


@dataclass(frozen=True, slots=True)
class FailureReply:
    """The reply to the sender when the entry failed for good and the agent gave none."""

    text: str
    late: bool  # whether it can be posted without a waiting caller


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of an attempt to record; durations count from now."""

    entry: Entry
    outcome: Outcome
    took_seconds: float
    state: EntryState  # done, dead, waiting or ready
    due_in_seconds: float | None = None  # waiting only
    # How long its failures hold back its queue, counted from the first failure.
    hold_seconds: float | None = None
    retries: int = 0
    # `late` says that a reply without a waiting caller can be posted; the journal decides in the
    # same transaction. An entry that is not done has only `failure_reply`, if it is dead.
    late: bool = False
    failure_reply: FailureReply | None = None
    may_have_acted: bool = False  # dead, but its at-most-once agent may have acted


@dataclass(frozen=True, slots=True)
class Settled:
    """The result of a settlement; `kept` is False if a lost lease prevented recording it."""

    kept: bool
    reply: ReplyRoute = ReplyRoute.NONE
    # The agent's failed attempts in a row, if that is to be reported: it reached one of the two
    # numbers above, or (0) the agent works again.
    failures: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The stored reply of an event's agent; `failed` says the agent returned it as an error. None
    as text means that the event shared an attempt, and the reply went to another message.
    """

    text: str | None
    failed: bool


@dataclass(frozen=True, slots=True)
class HeldBack:
    """The holds of one guard."""

    conversations: int
    oldest_seconds: float  # age of the oldest held message


@dataclass(frozen=True, slots=True)
class Backlog:
    """The counts of entries for `/metrics`, `/health` and the systemd status line."""

    entries: Mapping[EntryState, int]
    oldest_ready_seconds: Mapping[AgentName, float]
    held: Mapping[str, HeldBack] = field(default_factory=dict)  # by guard, and `paused`


@dataclass(frozen=True, slots=True)
class Received:
    """The deliveries accepted on a channel in a period."""

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
    may_have_acted: dict[str, int]  # by agent: dead ones that may have acted
    received_last_hour: int
    received_last_day: int
    finished_last_hour: int
    # By agent: attempts failed in a row, three or more. By guard, and `paused`: the holds.
    failing_agents: dict[str, int] = field(default_factory=dict)
    held: dict[str, HeldBack] = field(default_factory=dict)
    agents_with_costs: tuple[str, ...] = ()  # agents whose results had a cost on the last noted day


@dataclass(frozen=True, slots=True)
class FileState:
    """The state of a SQLite file."""

    damage: str | None  # the finding of `PRAGMA quick_check`, or None
    complete: bool  # whether the check finished in the time
    refusal: str | None  # why it cannot be written; None: it can


@dataclass(frozen=True, slots=True)
class MissingAgent:
    """An agent that a node could not load, or not as its code is now."""

    agent: str
    node: str
    reason: str
    since: datetime

    @property
    def goes_on(self) -> bool:
        """Whether the old code still runs."""
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
        """Commit all new events of a delivery, or none; known events get the receipt of the first
        time. Returns only when the data is flushed.

        With `wait_seconds` a caller waits for the reply (see `stop_waiting`).

        Raises:
            ReplayedSignature: `delivery.replay_key` was used with another message.
        """

    async def reject(self, delivery: VerifiedDelivery, reason: Mapping[str, object]) -> None:
        """Store a verified delivery that fails validation: once per signature or body, capped."""

    async def pause(self, requests: Sequence[PauseRequest]) -> int:
        """Pause conversations; returns how many were not paused, or for a shorter time. Running
        entries go on, and a longer pause is never shortened.
        """

    async def wait_for_reply(self, event_id: EventId, seconds: float) -> Reply | None:
        """Return the inline (or already stored) reply as soon as there is one; None at the timeout,
        or if the event ended without a reply.
        """

    async def stop_waiting(self, event_id: EventId, *, hung_up: bool) -> Reply | None:
        """Note that the caller timed out or hung up. Returns a reply that was decided inline
        meanwhile. With `hung_up` a reply that was decided inline and not delivered becomes a late
        one.
        """


class Outbox(Protocol):
    """The dispatching side."""

    async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
        """Lease the entries that may start now, in the order of places and by the order rule."""

    async def begin(self, entry: Entry) -> bool:
        """Record that an at-most-once agent is about to be called, if the lease is still ours;
        returns whether it is. From then on the entry is never made ready automatically.
        """

    def settle(self, settlement: Settlement) -> asyncio.Future[Settled]:
        """Record an attempt and the entry's next state, if the lease is still ours, or was lost
        after an at-most-once attempt had begun, which no other process repeats.
        """

    async def wait_for_work(self, seconds: float | None) -> None:
        """Sleep until there may be something new to claim (an arrival, an outcome, another process'
        change), or until the timeout.
        """

    async def renew(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Extend our leases; returns those that were already lost."""

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give entries back unfinished, without counting a retry (when stopping)."""

    async def agents_waiting(self) -> frozenset[AgentName]:
        """Agents that have open entries."""

    async def note_unavailable(self, agent: AgentName, reason: str | None) -> None:
        """Store why an agent cannot be loaded (None: it can), for `events show`."""

    async def delivery_of(self, event_id: EventId) -> VerifiedDelivery | None:
        """The raw delivery of an event, for its attachments; None once erased or purged."""


class Inspection(Protocol):
    """Read access for commands and status pages."""

    async def stats(self) -> Statistics:
        """Count entries by state, with ages and rates."""

    async def last_received_at(self) -> datetime | None:
        """Return when the newest delivery came, by the clock of the machine that took it."""

    async def missing_agents(self) -> list[MissingAgent]:
        """Return the agents that could not be loaded, with the reason of each node."""

    async def last_error_of(self, agent: str) -> str | None:
        """Return the agent's last error among its newest messages."""

    async def server_settings(self, *names: str) -> dict[str, str]:
        """Return settings of the PostgreSQL server; none on SQLite."""
