"""Hiding people in what agents say, without keeping callers waiting."""

from __future__ import annotations

import asyncio
import threading
from collections import UserDict
from collections.abc import ValuesView
from typing import Any

from berinia_webhookd.model import Entry, Outcome, OutcomeKind
from berinia_webhookd.outbound.event_mask import LONG_BYTES, EventMask
from tests.outbound.agent_world import PATIENCE_SECONDS, make_entry


class _Watched(UserDict[str, Any]):
    """Fields that know which threads looked through them, and let them go on when they may."""

    def __init__(self, **fields: str) -> None:
        super().__init__(fields)
        self.threads: set[int] = set()
        self.looked = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def values(self) -> ValuesView[Any]:
        self.threads.add(threading.get_ident())
        self.looked.set()
        assert self.may_go_on.wait(PATIENCE_SECONDS)
        return super().values()


def _entry(size_bytes: int) -> tuple[Entry, _Watched]:
    fields = _Watched(Body="Rendez-vous chez Madame Dupont")
    return make_entry("Friendly", raw=fields)._replace(size_bytes=size_bytes), fields


async def test_a_long_event_is_made_ready_beside_the_event_loop() -> None:
    """Its thousands of lines take longer than an answer should wait; then it hides as ever."""
    entry, fields = _entry(LONG_BYTES + 1)
    mask = EventMask(entry, lambda: True)
    await mask.prepare()
    assert fields.threads
    assert threading.get_ident() not in fields.threads
    assert "Dupont" not in mask("seen: Rendez-vous chez Madame Dupont")


async def test_nobody_waits_for_the_mask_of_another_event() -> None:
    """What an agent says of a short event is hidden while a long one is made ready."""
    entry, fields = _entry(LONG_BYTES + 1)
    fields.may_go_on.clear()
    preparing = asyncio.create_task(EventMask(entry, lambda: True).prepare())
    assert await asyncio.to_thread(fields.looked.wait, PATIENCE_SECONDS)
    short, _ = _entry(LONG_BYTES)
    assert "Dupont" not in EventMask(short, lambda: True)("seen: Rendez-vous chez Madame Dupont")
    assert not preparing.done()
    fields.may_go_on.set()
    await preparing


async def test_a_short_event_is_made_ready_when_something_is_said() -> None:
    """An agent that says nothing costs nothing."""
    entry, fields = _entry(LONG_BYTES)
    mask = EventMask(entry, lambda: True)
    await mask.prepare()
    assert not fields.threads
    assert "Dupont" not in mask("seen: Rendez-vous chez Madame Dupont")


async def test_where_nobody_is_hidden_nothing_is_made_ready() -> None:
    """`logs.personal_data = "full"` shows what agents say as it is."""
    entry, fields = _entry(LONG_BYTES + 1)
    mask = EventMask(entry, lambda: False)
    await mask.prepare()
    assert not fields.threads
    assert mask("Madame Dupont") == "Madame Dupont"


async def test_an_error_is_hidden_beside_the_event_loop_too() -> None:
    """Also where the agent is reached by HTTP and nothing was prepared."""
    entry, fields = _entry(LONG_BYTES + 1)
    failed = Outcome(OutcomeKind.ERROR, error="no: Rendez-vous chez Madame Dupont")
    hidden = await EventMask(entry, lambda: True).outcome(failed)
    assert threading.get_ident() not in fields.threads
    assert hidden.error is not None
    assert "Dupont" not in hidden.error
