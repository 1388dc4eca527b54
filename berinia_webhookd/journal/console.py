"""The web console's queries, beside those of commands: overviews, groups of dead entries, whole
requests, and logins. Reading never waits for the writer.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from berinia_webhookd import json_text
from berinia_webhookd.journal import claim, gather, guards, queries, replay, sessions
from berinia_webhookd.journal.contract import MissingAgent, Received
from berinia_webhookd.journal.database import Transaction, as_record, in_batches, instant
from berinia_webhookd.journal.operations import BATCH, REPLAY, Operations
from berinia_webhookd.journal.replay import Changed
from berinia_webhookd.journal.sessions import Person
from berinia_webhookd.model import Entry, EntryState, EventId

MOST_ERRORS: Final = 5000  # the most different errors of dead entries, the commonest first
DEAD_AT_ONCE: Final = 1000
NEWEST_DELIVERIES: Final = 50_000  # deliveries searched for a channel's last one
NEWEST_ENTRIES: Final = 500  # entries searched for an agent's last failure
LONGEST_LINE: Final = 200


@dataclass(frozen=True, slots=True)
class AgentState:
    """The state of an agent."""

    running: int
    open: int  # ready and waiting
    oldest_at: datetime | None
    missing: MissingAgent | None  # the reason why it cannot be loaded
    failures: int  # attempts that failed in a row
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of a journal."""

    states: Mapping[str, int]
    rejected: int
    agents: Mapping[str, AgentState]
    held: Mapping[str, int]  # conversations, by reason


@dataclass(slots=True)
class DeadGroup:
    """Dead entries of one agent with the same error."""

    agent: str
    kind: str  # of the event: message, receipt, other
    outcome: str | None  # of the last attempt; None where there was none
    error: str  # its first line
    first_at: datetime
    last_at: datetime
    newest: str  # the id of an event: the newest of its commonest error
    total: int = 0
    may_have_acted: int = 0

    @property
    def key(self) -> str:
        """Return a digest that identifies the group."""
        parts = (self.agent, self.kind, self.outcome or "", self.error)
        return hashlib.sha256(json_text.encode(parts)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Dead:
    """The dead entries, in groups."""

    groups: tuple[DeadGroup, ...]
    until: int  # entries that die later are not included
    complete: bool  # whether all errors were looked at

    def group(self, key: str) -> DeadGroup | None:
        """Return the group of a key."""
        return next((one for one in self.groups if one.key == key), None)


@dataclass(frozen=True, slots=True)
class Action:
    """A noted action."""

    number: int
    done_at: datetime
    who: str
    way: str
    what: str
    about: Mapping[str, Any]


class ConsoleJournal(Operations):
    """One journal, with the operations of the console."""

    async def places_of(self, group: DeadGroup, until: int) -> list[int]:
        """Return the places of a group's entries that died until an instant, ascending."""
        places: list[int] = []
        after: int | None = 0
        while after is not None:
            after, found = await self.read(_dead_of, group, until, after)
            places += found
        return places

    async def replay_places(self, places: Sequence[int]) -> list[Changed]:
        """Replay the entries still dead at these places, except those that may have acted."""
        results: list[Changed] = []
        about = self._about_replay(dry_run=False, once_again=False)
        for some in in_batches(places, BATCH):
            results += await self._act(REPLAY, about, replay.replay_entries, some, dry_run=False)
        return results

    async def log_in(self, link: str, secret: str) -> Person | None:
        """Exchange a link for a login; None if it is used, too old, or unknown."""
        if not await self.read(sessions.is_link, link):
            return None  # guesses cause no write
        return await self.write(sessions.log_in, link, secret)


async def counts(transaction: Transaction) -> dict[str, int]:
    """Return how many entries are in each state, and how many deliveries were rejected."""
    totals = Counter(dict.fromkeys(EntryState, 0))
    for row in await transaction.execute("count_by_state"):
        totals[EntryState(row["state"])] += row["total"]
    ((rejected,),) = await transaction.execute("count_rejected")
    return {**{state.value: total for state, total in totals.items()}, "rejected": rejected}


async def overview(transaction: Transaction, agents: Iterable[str]) -> Overview:
    """Return the state of the journal, with these agents and those that have open entries."""
    states = await counts(transaction)
    rejected = states.pop("rejected")
    held = await guards.held(transaction)
    return Overview(
        states=states,
        rejected=rejected,
        agents=await _agents(transaction, agents),
        held={reason: of.conversations for reason, of in held.items()},
    )


async def received_by_hour(transaction: Transaction, first: int) -> dict[int, dict[str, Received]]:
    """Return what came in each hour on each channel; hours are numbered since 1970."""
    since = first * queries.HOUR
    number = await queries.first_from(transaction, instant(since) - queries.CLOCK_SLACK)
    found: defaultdict[int, dict[str, Received]] = defaultdict(dict)
    for row in await transaction.execute("received_by_hour", first=number, since=since):
        of_hour = Received(row["total"], instant(row["last_at"]))
        found[row["hour"]][row["channel"]] = of_hour
    return found


async def last_of_channel(transaction: Transaction, channel: str) -> datetime | None:
    """Return when the last delivery of a channel came, if it is among the newest."""
    about = {"channel": channel, "newest": NEWEST_DELIVERIES}
    rows = await transaction.execute("latest_of_channel", **about)
    return instant(rows[0]["received_at"]) if rows else None


async def _agents(transaction: Transaction, agents: Iterable[str]) -> dict[str, AgentState]:
    running, open_ = Counter[str](), Counter[str]()
    for row in await transaction.execute("count_by_state"):
        running[row["agent"]] += row["total"] * (row["state"] == EntryState.RUNNING)
        open_[row["agent"]] += row["total"] * (
            row["state"] in {EntryState.READY, EntryState.WAITING}
        )
    oldest = await queries.oldest_open(transaction)
    missing = {str(one.agent): one for one in await queries.missing_agents(transaction)}
    failing = await guards.failing_agents(transaction)
    failures: dict[str, Any] = {}
    newest = await transaction.execute("newest_entries", most=NEWEST_ENTRIES)
    agent_of = {row["place"]: row["agent"] for row in newest}
    for row in await transaction.execute("failures_of_entries", places=[*agent_of]):
        failures.setdefault(agent_of[row["entry"]], row)
    names = {*agents, *missing, *failing, *(name for name in open_ if open_[name] + running[name])}
    return {
        name: AgentState(
            running=running[name],
            open=open_[name],
            oldest_at=oldest.get(name),
            missing=missing.get(name),
            failures=failing.get(name, 0),
            last_error=first_line(failures[name]["error"]) if name in failures else None,
            last_error_at=instant(failures[name]["ended_at"]) if name in failures else None,
        )
        for name in sorted(names)
    }


def first_line(error: str | None) -> str:
    """Return the first line of an error; of a traceback, the last one."""
    lines = (error or "").strip().splitlines() or [""]
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return line[:LONGEST_LINE]


async def dead(transaction: Transaction, until: int = queries.ALL) -> Dead:
    """Return the entries that died until an instant, or now, in groups, the largest first."""
    ((now,),) = await transaction.execute("present")
    until = min(until, now)
    rows = await transaction.execute("dead_groups", until=until, most=MOST_ERRORS)
    groups: dict[str, DeadGroup] = {}
    for row in rows:
        error, first_at, last_at = row["error"], instant(row["first_at"]), instant(row["last_at"])
        about = (row["agent"], row["kind"], row["outcome"], first_line(error))
        died = DeadGroup(*about, first_at, last_at, row["id"])
        group = groups.setdefault(died.key, died)
        group.first_at, group.last_at = min(first_at, group.first_at), max(last_at, group.last_at)
        group.total += row["total"]
        group.may_have_acted += row["acted"]
    ordered = sorted(groups.values(), key=lambda group: -group.total)
    return Dead(tuple(ordered), until, complete=len(rows) < MOST_ERRORS)


async def _dead_of(
    transaction: Transaction, group: DeadGroup, until: int, after: int
) -> tuple[int | None, list[int]]:
    """The places of some of a group, and where the next ones begin; None: there are no more."""
    about = {"agent": group.agent, "kind": group.kind, "until": until, "after": after}
    rows = await transaction.execute("dead_of_agent", **about, most=DEAD_AT_ONCE)
    wanted = (group.outcome, group.error)
    places = [row["place"] for row in rows if (row["outcome"], first_line(row["error"])) == wanted]
    return rows[-1]["place"] if len(rows) == DEAD_AT_ONCE else None, places


async def recent_actions(
    transaction: Transaction, *, before: int = queries.ALL, limit: int = 50
) -> list[Action]:
    """Return the noted actions, the newest first."""
    rows = await transaction.execute("recent_actions", before=before, most=limit)
    return [
        as_record(Action, row, about=json_text.decode(row["about"]) if row["about"] else {})
        for row in rows
    ]


async def entry_of(transaction: Transaction, event: EventId) -> Entry | None:
    """Return an event's entry as its agent gets it; None if it is erased, or shares the attempts of
    another.
    """
    places = [row["place"] for row in await transaction.execute("given_place", event=event)]
    for row in await transaction.execute("leased", places=places):
        members = (await gather.members_of(transaction, places)).get(row["place"], ())
        known = [one for one in members if one["data"] is not None]
        return gather.with_rows(claim.entry_of(row), known)
    return None


async def event_of_digests(transaction: Transaction, digests: Sequence[bytes]) -> str | None:
    """Return the id of the newest event with one of these digests."""
    rows = await transaction.execute("event_of_digests", digests=digests)
    return str(rows[0]["id"]) if rows else None
