"""The order rule against a plain reading of it, over random lives of entries."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berinia_webhookd.config.agent_settings import Gathering
from berinia_webhookd.errors import NotFound
from berinia_webhookd.journal import order
from berinia_webhookd.journal.database import Transaction, open_database
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.pause import Whose
from berinia_webhookd.model import Decoded, Entry, EntryState, OptOut, Pause, VerifiedDelivery

from .world import SqliteWorld, World

PAST = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass
class Kept:
    """One entry as the rule sees it."""

    sender: str
    place: int
    opt_out: bool
    state: str = "ready"
    due_at: datetime | None = None
    hold_until: datetime | None = None
    entry: Entry | None = None
    losses: int = 0
    held_until: datetime | None = None  # by a guard
    event_id: str = ""
    quiet_at: datetime | None = None  # as long as it gathers
    gather_by: datetime | None = None
    member: bool = False  # of a burst: its last one has the attempt
    members: list[Kept] = field(default_factory=list)

    @property
    def burst(self) -> list[Kept]:
        return [*self.members, self]

    @property
    def stands_at(self) -> int:
        return min(e.place for e in self.burst)

    def become(self, **changes: Any) -> None:
        """Members are as the entry whose attempt they share."""
        for one in self.burst:
            for name, value in changes.items():
                setattr(one, name, value)

    def disband(self) -> None:
        for one in self.members:
            one.member = False
        self.members = []


class Rule:
    """Section 7 of the contract, word by word."""

    def __init__(self, gathering: Gathering | None = None) -> None:
        self.entries: dict[str, Kept] = {}
        self.paused_until: dict[str, datetime] = {}
        self.last_place = 0
        self.gathering = gathering

    @property
    def units(self) -> list[Kept]:
        """What has an attempt of its own."""
        return [e for e in self.entries.values() if not e.member]

    def unit_of(self, one: Kept) -> Kept:
        return next(unit for unit in self.units if one in unit.burst)

    def next_place(self) -> int:
        self.last_place += 1
        return self.last_place

    def may_start(self, one: Kept, now: datetime) -> bool:
        if one.state == "waiting":
            assert one.due_at is not None
            if one.due_at > now:
                return False
        elif one.state != "ready" or self.gathers_until(one) > now:
            return False
        if not one.opt_out and self.ends_at(one) > now:
            return False
        others = [e for e in self.units if e.sender == one.sender and e is not one]
        if any(e.state == "running" for e in others):
            return False
        if one.opt_out:  # keeps its place among its like, and waits for nothing else
            others = [e for e in others if e.opt_out]
        return not any(self.holds_back(e, now) for e in others if e.stands_at < one.stands_at)

    def gathers_until(self, head: Kept) -> datetime:
        """When its conversation has been silent for long enough, or it has waited for too long."""
        if head.quiet_at is None or head.gather_by is None or head.held_until is not None:
            return PAST
        quiet = [e.quiet_at for e in self.ready(head.sender) if e.quiet_at is not None]
        return min(head.gather_by, max(quiet))

    def ready(self, sender: str) -> list[Kept]:
        return [e for e in self.entries.values() if e.sender == sender and e.state == "ready"]

    def burst_of(self, head: Kept, now: datetime) -> list[Kept]:
        """What is handed over with it, in the order of places."""
        if head.quiet_at is None:
            return head.burst
        later = [e for e in self.entries.values() if e.place > head.place]
        same = [e for e in later if e.sender == head.sender]
        barriers = [e.place for e in same if e.opt_out and e.state == "ready"]
        barriers += [e.place for e in same if e.state == "waiting" and self.holds_back(e, now)]
        barriers += [e.place for e in same if e.held_until is not None]
        end = min(barriers, default=self.last_place + 1)
        gathered = [e for e in same if e.state == "ready" and e.quiet_at and e.place < end]
        return sorted([head, *gathered], key=lambda e: e.place)

    def ends_at(self, one: Kept) -> datetime:
        """When nothing holds it any more: neither a guard nor a pause of its conversation."""
        return max(one.held_until or PAST, self.paused_until.get(one.sender, PAST))

    def holds_back(self, one: Kept, now: datetime) -> bool:
        if one.state == "waiting":
            assert one.hold_until is not None
            return one.hold_until > now
        return one.state in {"ready", "running"}

    def overtakes(self, one: Kept, other: Kept) -> bool:
        """Whether `one` goes before the other: it is ready, and no retry of its like is awaited."""
        return (
            one.opt_out
            and not other.opt_out
            and one.sender == other.sender
            and one.state == "ready"
            and not any(e.opt_out and e.state == "waiting" for e in self.entries.values())
        )

    def startable_senders(self, now: datetime) -> set[str]:
        return {e.sender for e in self.units if self.may_start(e, now)}


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.sampled_from("ab"), st.booleans()),
        st.tuples(st.just("claim"), st.integers(1, 3)),
        st.tuples(st.just("done"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 3), st.sampled_from([10, 50, 400])),
        st.tuples(st.just("release"), st.integers(0, 3)),
        st.tuples(st.just("give_up"), st.integers(0, 3)),
        st.tuples(st.just("replay"), st.integers(0, 5)),
        st.tuples(st.just("discard"), st.integers(0, 5)),
        st.tuples(st.just("crash")),
        st.tuples(st.just("pause"), st.sampled_from("ab"), st.sampled_from([None, 20, 200])),
        st.tuples(st.just("resume"), st.sampled_from("ab")),
        st.tuples(st.just("guard"), st.integers(0, 5), st.sampled_from([None, 30, 300])),
        st.tuples(st.just("time"), st.sampled_from([5, 40, 100, 500])),
    ),
    max_size=30,
)


GATHERING = Gathering(20, 60)


@pytest.mark.parametrize("gathering", [None, GATHERING])
@given(steps=Steps)
@settings(max_examples=150, deadline=None)
def test_claims_follow_the_rule(steps: list[tuple[Any, ...]], gathering: Gathering | None) -> None:
    """Whatever is claimed may start, with all that is handed over with it, and no conversation that
    could go on is left standing.
    """
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(SqliteWorld(Path(folder)), steps, gathering))


@pytest.mark.parametrize("seed", range(4))
async def test_bursts_follow_the_rule_on_either_engine(closed_world: World, seed: int) -> None:
    """The same with gathering, in longer lives."""
    dice = random.Random(seed)
    steps = [dice.choice(DENSE)(dice) for _ in range(80)]
    await live(closed_world, steps, GATHERING)


DENSE: list[Callable[[random.Random], tuple[Any, ...]]] = [
    *[lambda dice: ("accept", dice.choice("ab"), dice.random() < 0.1)] * 5,
    *[lambda dice: ("time", dice.choice([5, 25, 100]))] * 3,
    *[lambda dice: ("claim", dice.choice([1, 3]))] * 3,
    lambda dice: ("done", dice.randrange(4)),
    lambda dice: ("fail", dice.randrange(4), dice.choice([10, 50, 400])),
    lambda dice: ("release", dice.randrange(4)),
    lambda dice: ("give_up", dice.randrange(4)),
    lambda dice: ("replay", dice.randrange(40)),
    lambda dice: ("discard", dice.randrange(40)),
    lambda _: ("crash",),
]


async def live(
    world: World, steps: list[tuple[Any, ...]], gathering: Gathering | None = None
) -> None:
    rule = Rule(gathering)
    world.options["gathering_of"] = lambda _: gathering
    await world.open()
    try:
        for name, *arguments in steps:
            await globals()[f"do_{name}"](world, rule, *arguments)
        states = Counter(e.state for e in rule.entries.values())
        assert await world.states() == states
    finally:
        await world.journals.pop().close()


def running(rule: Rule, index: int) -> Kept | None:
    found = [e for e in rule.units if e.state == "running"]
    return found[index % len(found)] if found else None


async def do_accept(world: World, rule: Rule, sender: str, opt_out: bool) -> None:
    text = f"{sender}{len(rule.entries)}"
    receipt = await world.accept(text, sender=sender, opt_out=OptOut.STOP if opt_out else None)
    kept = Kept(sender, rule.next_place(), opt_out, event_id=receipt.event_id)
    if rule.gathering is not None and not opt_out:
        kept.quiet_at = world.clock.now + timedelta(seconds=rule.gathering.seconds)
        kept.gather_by = world.clock.now + timedelta(seconds=rule.gathering.most_seconds)
    rule.entries[text] = kept


async def do_claim(world: World, rule: Rule, limit: int) -> None:
    now = world.clock.now
    could = rule.startable_senders(now)
    claimed = await world.claimed(limit)
    for entry in claimed.entries:
        kept, *_ = burst = [rule.entries[one.event.body] for one in entry.messages]
        unit = kept if kept.quiet_at is not None else burst[-1]
        assert rule.may_start(unit, now)
        assert burst == rule.burst_of(unit, now)
        assert not any(rule.overtakes(e, kept) for e in rule.entries.values())
        last = burst.pop()
        for one in burst:
            one.member = True
        last.members, last.entry = burst, entry
        last.become(state="running", held_until=None)
    assert len(claimed.entries) == min(limit, len(could))
    if len(could) <= limit:
        upcoming = [
            at
            for e in rule.entries.values()
            for at in (
                *((e.due_at, e.hold_until) if e.state == "waiting" else ()),
                *((rule.ends_at(e),) if e.state in {"ready", "waiting"} else ()),
            )
            if at is not None and now < at < NEVER
        ]
        upcoming += [rule.gathers_until(e) for e in rule.entries.values() if gathers(e)]
        first = next(
            (at for at in sorted(upcoming) if at > now and rule.startable_senders(at)), None
        )
        expected = None if first is None else (first - now).total_seconds()
        assert claimed.next_due_seconds == expected


def gathers(kept: Kept) -> bool:
    return kept.state == "ready" and kept.quiet_at is not None


async def do_done(world: World, rule: Rule, index: int) -> None:
    if (kept := running(rule, index)) and kept.entry:
        assert (await world.settle(kept.entry)).kept
        kept.become(state="done", quiet_at=None)


async def do_fail(world: World, rule: Rule, index: int, retry_in: float) -> None:
    if (kept := running(rule, index)) and kept.entry:
        assert (await world.fail(kept.entry, retry_in=retry_in, hold=100)).kept
        kept.become(
            state="waiting",
            quiet_at=None,
            due_at=world.clock.now + timedelta(seconds=retry_in),
            hold_until=kept.hold_until or world.clock.now + timedelta(seconds=100),
        )


async def do_give_up(world: World, rule: Rule, index: int) -> None:
    if (kept := running(rule, index)) and kept.entry:
        assert (await world.settle(kept.entry, state=EntryState.DEAD)).kept
        kept.become(state="dead", quiet_at=None)


async def do_replay(world: World, rule: Rule, index: int) -> None:
    """An operator makes an entry ready again, behind all others and with a new schedule."""
    if not rule.entries:
        return
    kept = list(rule.entries.values())[index % len(rule.entries)]
    burst = rule.unit_of(kept).burst
    async with Operations(world.url, clock=world.clock) as operations:
        changed = await operations.replay([kept.event_id], decode=nothing_to_decode)
    assert [one.id for one in changed] == [one.event_id for one in burst]
    refused = kept.state in {"ready", "running"}
    assert {bool(one.refused) for one in changed} == {refused}
    if not refused:
        rule.unit_of(kept).disband()
        for one in burst:
            one.state, one.place, one.losses = "ready", rule.next_place(), 0
            one.due_at = one.hold_until = one.held_until = None
            one.quiet_at = one.gather_by and world.clock.now


def nothing_to_decode(_: VerifiedDelivery) -> Decoded:
    raise AssertionError("no delivery was rejected")


async def do_discard(world: World, rule: Rule, index: int) -> None:
    """An operator gives an entry up; what waited behind it goes on."""
    if not rule.entries:
        return
    kept = list(rule.entries.values())[index % len(rule.entries)]
    unit = rule.unit_of(kept)
    async with Operations(world.url, clock=world.clock) as operations:
        changed = await operations.discard([kept.event_id])
    assert [one.id for one in changed] == [one.event_id for one in unit.burst]
    refused = kept.state in {"running", "done", "discarded"}
    assert {bool(one.refused) for one in changed} == {refused}
    if not refused:
        unit.become(state="discarded")


async def do_release(world: World, rule: Rule, index: int) -> None:
    if (kept := running(rule, index)) and kept.entry:
        await world.journal.release([kept.entry])
        kept.become(state="ready")
        if kept.quiet_at is not None:
            kept.disband()


async def do_crash(world: World, rule: Rule) -> None:
    await world.crash()
    for kept in rule.units:
        if kept.state == "running":
            losses = kept.losses + 1
            kept.become(losses=losses, state="ready" if losses < 5 else "dead", quiet_at=None)


async def do_pause(world: World, rule: Rule, sender: str, seconds: float | None) -> None:
    """Somebody pauses a conversation, if there is one: never for less than it is paused for."""
    async with Operations(world.url, clock=world.clock) as operations:
        with contextlib.suppress(NotFound):
            await operations.pause(Whose(sender), Pause("me", seconds=seconds))
    if any(kept.sender == sender for kept in rule.entries.values()):
        until = end_of(world, seconds)
        rule.paused_until[sender] = max(until, rule.paused_until.get(sender, PAST))


async def do_resume(world: World, rule: Rule, sender: str) -> None:
    """Ends the pause, and lets go of what guards hold."""
    async with Operations(world.url, clock=world.clock) as operations:
        with contextlib.suppress(NotFound):
            await operations.resume(Whose(sender))
    rule.paused_until.pop(sender, None)
    for kept in rule.entries.values():
        if kept.sender == sender:
            kept.held_until = None


async def do_guard(world: World, rule: Rule, index: int, seconds: float | None) -> None:
    """A guard holds an entry that is ready or waits."""
    could = [e for e in rule.units if e.state in {"ready", "waiting"} and not e.opt_out]
    if not could:
        return
    kept = could[index % len(could)]

    async def hold(transaction: Transaction) -> None:
        rows = await transaction.execute("entries_of_events", events=[kept.event_id])
        await order.hold_entries(transaction, rows, "budget", seconds)

    database = open_database(world.url, clock=world.clock)
    try:
        await database.write(hold)
    finally:
        await database.close()
    kept.become(state="ready", held_until=end_of(world, seconds), due_at=None)


def end_of(world: World, seconds: float | None) -> datetime:
    return NEVER if seconds is None else world.clock.now + timedelta(seconds=seconds)


async def do_time(world: World, rule: Rule, seconds: float) -> None:
    world.clock.move(seconds)
    await world.journal.renew([e.entry for e in rule.units if e.state == "running" and e.entry])
    await world.journal.recover()
