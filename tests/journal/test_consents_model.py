"""The register of consents against a model of it, whatever people say and when, and whatever
befalls them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.model import Event, OptOut

from .world import SqliteWorld, an_event

KEY = ConsentsKey("k" * 32)
PEOPLE = ["+33639980001", "+33639980002"]
people = st.sampled_from(PEOPLE)


class Model:
    """What each person said last, by the plain reading of the rule: all that was heard is sorted by
    its time, a STOP of unknown time stands where it came, and the last one counts.
    """

    def __init__(self) -> None:
        self.heard: dict[str, list[tuple[datetime, OptOut]]] = {one: [] for one in PEOPLE}

    def says(self, person: str, word: OptOut, at: datetime, *, doubtful: bool = False) -> None:
        if doubtful and word is OptOut.START and self.state(person) == "opted_out":
            return  # nobody knows whether it was said before the STOP
        self.heard[person].append((at, word))

    def state(self, person: str) -> str | None:
        if not self.heard[person]:
            return None
        _, word = max(self.heard[person], key=lambda said: said[0])
        return "opted_out" if word is OptOut.STOP else "opted_in"


class Register(RuleBasedStateMachine):
    """One journal, whose people are erased, purged and killed at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.world = SqliteWorld(Path(self.folder.name))
        self.model = Model()
        self.do(self.world.open(consents_key=KEY))

    def do(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        for journal in self.world.journals:
            self.do(journal.close())
        self.loop.close()
        self.folder.cleanup()

    def tick(self) -> datetime:
        """No two words are said at once."""
        self.world.clock.move(1)
        return self.world.clock.now

    @rule(person=people, word=st.sampled_from([OptOut.STOP, OptOut.START]))
    def says(self, person: str, word: OptOut) -> None:
        self.model.says(person, word, self.tick())
        self.do(self.world.accept(sender=person, opt_out=word))

    @rule(
        person=people,
        word=st.sampled_from([OptOut.STOP, OptOut.START]),
        ago=st.integers(1, 30).map(lambda n: n + 0.5),
    )
    def said_before(self, person: str, word: OptOut, ago: float) -> None:
        at = self.tick() - timedelta(seconds=ago)
        assume(all(at != then for then, _ in self.model.heard[person]))
        self.model.says(person, word, at)
        self.do(self.world.accept(sender=person, opt_out=word, said_at=at))

    @rule(person=people, word=st.sampled_from([OptOut.STOP, OptOut.START]))
    def said_once(self, person: str, word: OptOut) -> None:
        self.model.says(person, word, self.tick(), doubtful=True)
        self.do(self.world.accept(sender=person, opt_out=word, time_unknown=True))

    @rule(person=people)
    def says_yes(self, person: str) -> None:
        at, out = self.tick(), self.model.state(person) == "opted_out"
        if out:
            self.model.says(person, OptOut.START, at)
        event: Event = an_event(sender=person)
        yes = event._replace(as_start=event._replace(opt_out=OptOut.START))
        receipt = self.do(self.world.accept_event(yes))
        assert (receipt.consent is not None) == out

    @rule(person=people)
    def erased(self, person: str) -> None:
        async def erase() -> None:
            async with Operations(self.world.url, clock=self.world.clock, key=KEY) as desk:
                await desk.erase(person)

        self.do(erase())
        assert person[1:].encode() not in self.world.file.read_bytes()

    @rule()
    def purged(self) -> None:
        async def purge() -> None:
            for entry in await self.world.claim():
                await self.world.settle(entry)
            self.world.clock.move(31 * 86_400)
            while await self.world.journal.purge():
                pass

        self.do(purge())

    @rule()
    def restarted(self) -> None:
        self.do(self.world.reopen(consents_key=KEY))

    @rule(person=people)
    def writes(self, person: str) -> None:
        """Each attempt of this person that can begin is told how things stand."""
        self.tick()
        self.do(self.world.accept(sender=person))
        for entry in self.do(self.world.claim()):
            told = None if entry.consent is None else entry.consent.state.value
            assert told == self.model.state(entry.event.sender)
            self.do(self.world.settle(entry))

    @invariant()
    def the_register_says_so(self) -> None:
        async def look() -> dict[str, str | None]:
            async with Operations(self.world.url, clock=self.world.clock, key=KEY) as desk:
                found = {one: await desk.consents_of(one) for one in PEOPLE}
            return {one: rows[0].state if rows else None for one, rows in found.items()}

        assert self.do(look()) == {one: self.model.state(one) for one in PEOPLE}


Register.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
TestRegister = Register.TestCase
