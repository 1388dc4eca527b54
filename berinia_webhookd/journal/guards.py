"""Guards, which hold entries that could start: held entries stay ready, and opt-outs pass. Guards
count in the transactions that claim and settle; their limits come with the claim requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from berinia_webhookd.config.values import Rate
from berinia_webhookd.journal import loops, order
from berinia_webhookd.journal.contract import (
    MOST_FAILURES,
    TOLD_FAILURES,
    Budget,
    Guard,
    HeldBack,
    Hold,
)
from berinia_webhookd.journal.database import SECOND, Row, Transaction
from berinia_webhookd.journal.order import Startable
from berinia_webhookd.model import AgentName, Entry, EntryKind, EventId, Outcome

LONGEST_TRY_PAUSE: Final = 60 * SECOND
MOMENT: Final = SECOND // 20
NO_BUDGET: Final = Budget()
REPLY: Final = EntryKind.REPLY.value


def try_pause(tries: int) -> int:
    """Return the pause of a failing agent after this many tries: 1, 2, 4 … 60 seconds."""
    return min(SECOND << min(tries, 6), LONGEST_TRY_PAUSE)


# ---- what may be leased


@dataclass(slots=True)
class Passing:
    """The entries of one agent that guards let pass."""

    found: dict[int, Startable]  # by place
    opens_in: list[int] = field(default_factory=list)  # microseconds, where that is known
    holds: list[Hold] = field(default_factory=list)


async def passing(
    transaction: Transaction, budgets: Mapping[AgentName, Budget], known: Row, most: int
) -> Passing:
    """Return the entries of an agent that may start now; `known` is its row of `next_startable`."""
    agent = known["agent"]
    budget = budgets.get(agent, NO_BUDGET)
    if budget.daily_cost is not None and (known["cost"] or 0.0) >= budget.daily_cost:
        return await _spent(transaction, agent, budget.daily_cost, known, most)
    if known["spent"]:
        await transaction.execute("unspent", agent=agent)
    if (known["failures"] or 0) >= MOST_FAILURES:
        return await _failing(transaction, agent, known, most)
    return Passing(await order.startable(transaction, known["kind"], agent, most))


async def _opt_outs(transaction: Transaction, agent: str, most: int) -> dict[int, Startable]:
    rows = await transaction.execute("startable_opt_outs", agent=agent, most=most)
    return order.by_place(rows)


async def _first(transaction: Transaction, agent: str) -> dict[int, Startable]:
    """The oldest entry of an agent that may start."""
    found = await order.startable(transaction, EntryKind.AGENT.value, agent, 1)
    return {place: found[place] for place in sorted(found)[:1]}


async def _spent(
    transaction: Transaction, agent: str, daily_cost: float, known: Row, most: int
) -> Passing:
    """Hold an agent whose daily budget is spent, until the next day."""
    through = Passing(await _opt_outs(transaction, agent, most), [known["day_left"]])
    first = await _first(transaction, agent)
    if first.keys() - through.found.keys() and await transaction.execute("note_spent", agent=agent):
        why = f"its results of today cost {known['cost']:g}, and its daily_cost is {daily_cost:g}"
        seconds = known["day_left"] / SECOND
        through.holds.append(Hold(Guard.BUDGET, AgentName(agent), why, seconds))
    return through


async def _failing(transaction: Transaction, agent: str, known: Row, most: int) -> Passing:
    """Let one entry of an agent that fails be tried, once its pause is over."""
    through = Passing(await _opt_outs(transaction, agent, most))
    left = try_pause(known["tries"]) - (known["failed_ago"] or 0)
    if left > 0:
        through.opens_in.append(left)
        return through
    first = await _first(transaction, agent)
    if first and await transaction.execute("begin_try", agent=agent, tries=known["tries"]):
        through.found |= first
    return through


# ---- what of that is held after all


@dataclass(slots=True)
class Examined:
    """Entries that are not leased, although they could start."""

    places: set[int] = field(default_factory=set)
    holds: list[Hold] = field(default_factory=list)
    opens_in: list[int] = field(default_factory=list)  # microseconds, until temporary holds end

    def later(self, place: int) -> None:
        """Postpone the examination of an entry for a moment."""
        self.places.add(place)
        self.opens_in.append(MOMENT)


@dataclass(frozen=True, slots=True)
class _Stop:
    """The reason of a hold on an entry, and its duration in microseconds if it is temporary."""

    guard: Guard
    why: str
    lasts: int | None = None


async def examine(
    transaction: Transaction, rows: Mapping[int, Startable], budgets: Mapping[AgentName, Budget]
) -> Examined:
    """Hold entries, given by place, that are about to be leased, if they look like a loop or their
    person's budget is spent. A burst that was tried goes on.
    """
    examined, stops = Examined(), dict[int, _Stop]()
    looped: list[int] = []
    bounded: defaultdict[AgentName, list[int]] = defaultdict(list)
    for place, row in rows.items():
        tried = row.gather_by is not None and row.quiet_at is None
        if row.kind == REPLY or tried:
            continue
        budget = budgets.get(row.agent, NO_BUDGET)
        if budget.loops and row.doubtful:
            looped.append(place)
        if budget.per_sender:
            bounded[row.agent].append(place)
    for agent, places in sorted(bounded.items()):
        stops |= await _over(transaction, agent, places, budgets[agent].per_sender, examined)
    if looped:
        for place, why in await loops.loops_of(transaction, looped):
            stops[place] = _Stop(Guard.LOOP, why)
    if stops:
        await _stop(transaction, stops, examined)
    return examined


async def _over(
    transaction: Transaction,
    agent: str,
    places: Sequence[int],
    rates: Sequence[Rate],
    examined: Examined,
) -> dict[int, _Stop]:
    """Find entries over a budget; for one person, one node checks one entry at a time."""
    if transaction.shared:
        free = {place for (place,) in await transaction.execute("free_people", places=places)}
        for place in set(places) - free:
            examined.later(place)
        places = sorted(free)
    stops: dict[int, _Stop] = {}
    longest: dict[int, int] = {}
    for rate in rates:
        about = {"places": places, "before": rate.count - 1, "span": round(rate.seconds * SECOND)}
        why = f"{agent} ran for this person as often as {rate} allows"
        seen: set[str] = set()
        for row in await transaction.execute("over_budget", **about):
            place, lasts = row["place"], row["frees_in"]
            if row["sender"] in seen:
                examined.later(place)
            elif lasts is not None and lasts > longest.get(place, 0):
                longest[place] = lasts
                stops[place] = _Stop(Guard.BUDGET, why, lasts)
            seen.add(row["sender"])
    return stops


async def _stop(transaction: Transaction, stops: Mapping[int, _Stop], examined: Examined) -> None:
    """Hold entries whose conversations are not locked; others are postponed."""
    rows = await transaction.execute("entries_at", places=sorted(stops))
    free = {row["conversation"] for row in rows}
    if transaction.shared:
        wanted = sorted(free - transaction.held)
        locked = await transaction.execute("free_conversations", ids=wanted)
        transaction.held.update(id_ for (id_,) in locked)
        free &= transaction.held
    for row in rows:
        if row["conversation"] not in free:
            examined.later(row["place"])
            continue
        stop = stops[row["place"]]
        seconds = None if stop.lasts is None else stop.lasts / SECOND
        await order.hold_entries(transaction, [row], f"{stop.guard}: {stop.why}", seconds)
        examined.places.add(row["place"])
        examined.opens_in += [] if stop.lasts is None else [stop.lasts]
        examined.holds.append(
            Hold(
                stop.guard,
                AgentName(row["agent"]),
                stop.why,
                seconds,
                channel=row["channel"],
                event_id=EventId(row["id"]),
            )
        )


async def note_runs(
    transaction: Transaction, entries: Sequence[Entry], budgets: Mapping[AgentName, Budget]
) -> None:
    """Record the runs of agents that have a budget for each person."""
    bounded = {agent for agent, budget in budgets.items() if budget.per_sender}
    if places := [entry.id for entry in entries if entry.agent in bounded]:
        await transaction.execute("note_runs", places=places)


@dataclass(frozen=True, slots=True)
class HeldAgent:
    """An agent that a guard holds as a whole."""

    agent: AgentName
    guard: Guard
    why: str

    @property
    def said(self) -> str:
        """The text of the hold, in the form stored on held entries."""
        return f"{self.guard}: {self.why}"


async def held_agents(transaction: Transaction) -> dict[str, HeldAgent]:
    """Return the held agents, with their guards."""
    rows = await transaction.execute("held_agents", most_failures=MOST_FAILURES)
    return {row["agent"]: _held_agent(row) for row in rows}


async def held(transaction: Transaction) -> dict[str, HeldBack]:
    """Return the numbers of holds, by guard and for `paused`."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in await transaction.execute("count_held"):
        found[row["reason"].partition(":")[0]].append(row)
    for one in (await held_agents(transaction)).values():
        found[one.guard] += await transaction.execute("held_for_agent", agent=one.agent)
    return {
        reason: HeldBack(conversations, max(row["age"] or 0 for row in rows) / SECOND)
        for reason, rows in sorted(found.items())
        if (conversations := sum(row["total"] for row in rows))
    }


async def failing_agents(transaction: Transaction) -> dict[str, int]:
    """Return the failed attempts in a row of agents, if these are enough to report."""
    rows = await transaction.execute("held_agents", most_failures=TOLD_FAILURES)
    return {row["agent"]: row["failures"] for row in rows if row["failures"] >= TOLD_FAILURES}


def _held_agent(row: Row) -> HeldAgent:
    if row["spent"]:
        why = f"its results of today cost {row['cost']:g}, all of its daily_cost, until 00:00 UTC"
        return HeldAgent(AgentName(row["agent"]), Guard.BUDGET, why)
    why = (
        f"it failed on its last {row['failures']} attempts, and is tried with one entry at a time,"
        " the oldest"
    )
    return HeldAgent(AgentName(row["agent"]), Guard.BREAKER, why)


# ---- what is counted


async def note_outcomes(
    transaction: Transaction,
    outcomes: Sequence[tuple[AgentName, Outcome]],
    failing: Mapping[AgentName, int],
) -> dict[AgentName, int]:
    """Count failures in a row, and costs; `failing` says how many failures there were before.
    Returns by agent the number of failures to report; 0 if it works again.
    """
    tallies = {agent: _Tally() for agent, _ in outcomes}
    for agent, outcome in outcomes:
        tallies[agent].add(outcome)
    recovered = [agent for agent in sorted(failing) if agent in tallies and tallies[agent].works]
    told: dict[AgentName, int] = {}
    if recovered:
        await transaction.execute("works_again", agents=recovered)
        told = {agent: 0 for agent in recovered if failing[agent] >= TOLD_FAILURES}
    rows = [
        {"agent": agent, "failures": tally.failures, "cost": tally.cost}
        for agent, tally in sorted(tallies.items())
        if tally.failures or tally.cost
    ]
    for agent, failures in await transaction.many("note_attempts", rows):
        before = failures - tallies[agent].failures
        if any(before < number <= failures for number in (TOLD_FAILURES, MOST_FAILURES)):
            told[agent] = failures
    return told


@dataclass(slots=True)
class _Tally:
    """Counts of one agent's attempts, in order."""

    works: bool = False
    failures: int = 0  # failures since its last success
    cost: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.cost += outcome.cost or 0.0
        if outcome.agent_works:
            self.works, self.failures = True, 0
        elif outcome.agent_works is False:
            self.failures += 1
