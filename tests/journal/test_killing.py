"""What a process leaves behind that is killed in the middle of its work."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import Filters

from .batch_writer import EVENTS
from .world import PostgresqlWorld, World

ROOT = Path(__file__).parents[2]
ANSWERED = 100


async def kill_while_writing(url: str) -> set[str]:
    """Return the numbers of the deliveries that were answered before the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.journal.batch_writer", url),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    answered = {(await process.stdout.readline()).decode().strip() for _ in range(ANSWERED)}
    process.kill()
    rest, _ = await process.communicate()
    assert process.returncode == -9
    return answered.union(rest.decode().split("\n")[:-1])


async def test_a_delivery_is_there_as_a_whole_or_not_at_all(closed_world: World) -> None:
    """Whatever was answered is there; of every delivery that is there, all events are, the item
    that could not be read is kept, and the others go on to their agents.
    """
    url = closed_world.url
    if isinstance(closed_world, PostgresqlWorld):
        url = closed_world.server.url(await closed_world.server.new_database())
    answered = await kill_while_writing(url)
    assert len(answered) >= ANSWERED
    await closed_world.open(url)
    heard: Counter[str] = Counter()
    while entries := await closed_world.claim():
        heard.update(entry.event.body.partition(".")[0] for entry in entries)
        await asyncio.gather(*map(closed_world.settle, entries))
    assert set(heard.values()) == {EVENTS}
    assert answered <= set(heard)
    async with Operations(url) as desk:
        rejected = await desk.list_events(Filters(state="rejected"), limit=10_000)
    assert len(rejected) == len(heard)
