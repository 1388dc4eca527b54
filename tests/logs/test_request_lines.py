"""What every request says follows the configuration as all other lines do."""

from __future__ import annotations

import uvloop

from berinia_webhookd.logs.pipeline import LogOptions
from tests.accept.world import World

from .conftest import Logs


async def test_a_new_level_holds_for_requests_too(logs: Logs) -> None:
    """Silenced by a reload, and back with the next one, over the same connections."""
    files = logs.start(level="info")
    world = World()
    await world.start()
    try:
        for number, level in enumerate(("info", "warning", "info")):
            files.reconfigure(LogOptions(level))
            world.have(world.sms)
            status, _, _ = await world.post(b"id=%d" % number)
            assert status == 200
    finally:
        await world.stop()
    said = [line["event"] for line in logs.lines()]
    assert said == ["event.accepted", "request.finished"] * 2


def test_how_long_a_request_took_is_said_in_parts_of_a_millisecond(logs: Logs) -> None:
    """Also on the daemon's own event loop, whose clock has whole ones: most take less than one."""

    async def visit() -> None:
        world = World()
        await world.start()
        try:
            for number in range(30):
                await world.post(b"id=%d" % number)
        finally:
            await world.stop()

    logs.start(level="info")
    uvloop.run(visit())
    durations = [
        line["duration_ms"] for line in logs.lines() if line["event"] == "request.finished"
    ]
    assert len(durations) == 30
    assert any(duration % 1 for duration in durations)
