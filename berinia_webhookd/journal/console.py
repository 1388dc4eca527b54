"""What the web console asks of a journal, beside what commands do: overviews, the groups of what is
dead, whole requests, and who is logged in. Nothing here takes the writer's turn to read.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from berinia_webhookd import json_text
from berinia_webhookd.journal import guards, queries, replay, sessions
from berinia_webhookd.journal.contract import MissingAgent
from berinia_webhookd.journal.database import DAY, Transaction, in_batches, instant
from berinia_webhookd.journal.deliveries import restored
from berinia_webhookd.journal.operations import BATCH, REPLAY, Operations
from berinia_webhookd.journal.replay import Changed
from berinia_webhookd.journal.sessions import Person
from berinia_webhookd.model import EntryState, EventId, VerifiedDelivery

HOURS: Final = 24
MOST_DEAD: Final = 20_000  # entries that are put into groups
NEWEST_DELIVERIES: Final = 50_000  # in which a channel's last one is looked for
NEWEST_ENTRIES: Final = 500  # in which an agent's last failure is looked for
LONGEST_LINE: Final = 200


@dataclass(frozen=True, slots=True)
class ChannelTraffic:
    """When a channel's last message came, and how many came in each of the last 24 hours."""

    last_at: datetime | None
    by_hour: tuple[int, ...]  # the oldest first


@dataclass(frozen=True, slots=True)
class AgentState:
    """How an agent stands."""

    running: int
    open: int  # ready and waiting
    oldest_at: datetime | None
    missing: MissingAgent | None  # why it cannot be loaded
    failures: int  # attempts that failed since one that did not
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """How a journal stands now."""

    states: Mapping[str, int]
    rejected: int
    channels: Mapping[str, ChannelTraffic]
    agents: Mapping[str, AgentState]
    held: Mapping[str, int]  # conversations, by reason


@dataclass(slots=True)
class DeadGroup:
    """Entries of one agent that died of the same error."""

    agent: str
    kind: str  # of the event: message, receipt, other
    outcome: str | None  # of the last attempt; None where there was none
    error: str  # its first line
    first_at: datetime | None = None
    last_at: datetime | None = None
    places: list[int] = field(default_factory=list)
    may_have_acted: int = 0
    newest: str = ""  # the id of its newest event

    @property
    def key(self) -> str:
        """Return what makes it this group, and tells nothing of it."""
        parts = (self.agent, self.kind, self.outcome or "", self.error)
        return hashlib.sha256(json_text.encode(parts)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Dead:
    """What is dead, in groups."""

    groups: tuple[DeadGroup, ...]
    last: int  # the newest place that was looked at: what dies later is not meant
    complete: bool  # whether all of it was looked at

    def group(self, key: str) -> DeadGroup | None:
        """Return the group of a key."""
        return next((one for one in self.groups if one.key == key), None)


@dataclass(frozen=True, slots=True)
class Action:
    """Who did what."""

    number: int
    at: datetime
    who: str
    way: str
    what: str
    about: Mapping[str, Any]


class ConsoleJournal(Operations):
    """One journal as the console has it."""

    async def overview(self, channels: Sequence[str], agents: Iterable[str]) -> Overview:
        """Return how things stand, for these channels and agents and whatever else there is."""
        return await self._read(_overview, channels, agents)

    async def counts(self) -> dict[str, int]:
        """Return how many entries are in each state, and how many deliveries were rejected."""
        return await self._read(_counts)

    async def dead(self, last: int = queries.ALL) -> Dead:
        """Return what is dead up to a place, in groups, the largest first."""
        return await self._read(_dead, last)

    async def replay_places(
        self, places: Sequence[int], *, dry_run: bool = False, once_again: bool = False
    ) -> list[Changed]:
        """Replay what is still dead at these places."""
        results: list[Changed] = []
        about = self._about_replay(dry_run=dry_run, once_again=once_again)
        how = {"dry_run": dry_run, "once_again": once_again}
        for some in in_batches(places, BATCH):
            results += await self._act(REPLAY, about, replay.replay_entries, some, **how)
        return results

    async def actions(self, *, before: int = queries.ALL, limit: int = 50) -> list[Action]:
        """Return who did what, the newest first."""
        return await self._read(_recent_actions, before, limit)

    async def delivery(self, id_: str, *, rejected: bool) -> VerifiedDelivery | None:
        """Return the request an event came with, or a rejected one; None once it is erased."""
        if rejected:
            return await self._read(_rejected_delivery, id_)
        return await self._read(queries.delivery_of, EventId(id_))

    async def event_of_digests(self, digests: Sequence[bytes]) -> str | None:
        """Return the id of the newest event that is known by one of these."""
        return await self._read(_event_of_digests, digests)

    # ---- who is logged in

    async def add_link(self, secret: str, person: Person) -> None:
        """Let somebody log in by a link, once, within five minutes."""
        await self._write(sessions.add_link, secret, person)

    async def log_in(self, link: str, secret: str) -> Person | None:
        """Take a link for a login; None where it is used, too old, or nobody's."""
        if not await self._read(sessions.is_link, link):
            return None  # nothing is written for whoever guesses
        return await self._write(sessions.log_in, link, secret)

    async def log_out(self, secret: str) -> None:
        """End a login."""
        await self._write(sessions.log_out, secret)

    async def end_sessions(self, name: str) -> int:
        """End everything that somebody has; returns how many logins and links that were."""
        return await self._write(sessions.end_all, name)

    async def person_of(self, secret: str) -> Person | None:
        """Return whose login it is."""
        return await self._read(sessions.person_of, secret)


async def _counts(transaction: Transaction) -> dict[str, int]:
    totals = Counter(dict.fromkeys(EntryState, 0))
    for row in await transaction.execute("count_by_state"):
        totals[EntryState(row["state"])] += row["total"]
    ((rejected,),) = await transaction.execute("count_rejected")
    return {**{state.value: total for state, total in totals.items()}, "rejected": rejected}


async def _overview(
    transaction: Transaction, channels: Sequence[str], agents: Iterable[str]
) -> Overview:
    counts = await transaction.execute("count_by_state")
    states = await _counts(transaction)
    rejected = states.pop("rejected")
    held = await guards.held(transaction)
    return Overview(
        states=states,
        rejected=rejected,
        channels=await _traffic(transaction, channels),
        agents=await _agents(transaction, counts, agents),
        held={reason: of.conversations for reason, of in held.items()},
    )


async def _traffic(transaction: Transaction, channels: Sequence[str]) -> dict[str, ChannelTraffic]:
    ((now,),) = await transaction.execute("present")
    since = now - DAY
    first = await queries.first_from(transaction, instant(since) - timedelta(hours=1))
    by_hour: defaultdict[str, list[int]] = defaultdict(lambda: [0] * HOURS)
    for row in await transaction.execute("received_by_hour", first=first, since=since):
        by_hour[row["channel"]][min(row["hour"], HOURS - 1)] += row["total"]
    ((last,),) = await transaction.execute("last_number")
    found: dict[str, ChannelTraffic] = {}
    for channel in dict.fromkeys([*channels, *sorted(by_hour)]):
        about = {"channel": channel, "first": last - NEWEST_DELIVERIES}
        rows = await transaction.execute("latest_of_channel", **about)
        last_at = instant(rows[0]["received_at"]) if rows else None
        found[channel] = ChannelTraffic(last_at, tuple(by_hour[channel]))
    return found


async def _agents(
    transaction: Transaction, counts: Sequence[Any], agents: Iterable[str]
) -> dict[str, AgentState]:
    running, open_ = Counter[str](), Counter[str]()
    for row in counts:
        running[row["agent"]] += row["total"] * (row["state"] == EntryState.RUNNING)
        open_[row["agent"]] += row["total"] * (
            row["state"] in {EntryState.READY, EntryState.WAITING}
        )
    oldest: dict[str, datetime] = {}
    for agent, at in await transaction.execute("oldest_open"):
        oldest[agent] = min(instant(at), oldest.get(agent, instant(at)))
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
    """Return the line of an error that says what happened: of a traceback, the last one."""
    lines = (error or "").strip().splitlines() or [""]
    line = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return line[:LONGEST_LINE]


async def _dead(transaction: Transaction, last: int) -> Dead:
    rows = await transaction.execute("dead_with_errors", last=last, most=MOST_DEAD)
    groups: dict[str, DeadGroup] = {}
    for row in rows:  # the newest first
        died = DeadGroup(row["agent"], row["kind"], row["outcome"], first_line(row["error"]))
        group = groups.setdefault(died.key, died)
        at = None if row["finished_at"] is None else instant(row["finished_at"])
        group.first_at = at or group.first_at
        group.last_at = group.last_at or at
        group.newest = group.newest or row["id"]
        group.places.append(row["place"])
        group.may_have_acted += row["began_at"] is not None
    for group in groups.values():
        group.places.reverse()
    ordered = sorted(groups.values(), key=lambda group: -len(group.places))
    newest = rows[0]["place"] if rows else 0
    return Dead(tuple(ordered), newest, complete=len(rows) < MOST_DEAD)


async def _recent_actions(transaction: Transaction, before: int, limit: int) -> list[Action]:
    rows = await transaction.execute("recent_actions", before=before, most=limit)
    return [
        Action(
            row["number"],
            instant(row["at"]),
            row["who"],
            row["way"],
            row["what"],
            json_text.decode(row["about"]) if row["about"] else {},
        )
        for row in rows
    ]


async def _rejected_delivery(transaction: Transaction, id_: str) -> VerifiedDelivery | None:
    rows = await transaction.execute("rejected_delivery_in_full", id=id_)
    return restored(rows[0]) if rows else None


async def _event_of_digests(transaction: Transaction, digests: Sequence[bytes]) -> str | None:
    rows = await transaction.execute("event_of_digests", digests=digests)
    return str(rows[0]["id"]) if rows else None
