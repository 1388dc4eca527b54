"""A door from settings, and what a reload changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from berinia_webhookd.accept.door import Door
from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.load import load
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.metrics import Metrics

from .world import GOOD, PAGES, SMS_PATH, FakeChannel, FakeInbox, World


def settings(folder: Path, **environ: str) -> Settings:
    """Defaults, and what these variables say."""
    given = {f"BERINIA_WEBHOOKD_{name}": value for name, value in environ.items()}
    return load(kinds=KINDS, environ={"HOME": str(folder), **given}, working_folder=folder).settings


def door(loaded: Settings, **parts: Any) -> Door:
    return Door.from_settings(
        loaded, inbox=FakeInbox(), metrics=Metrics(), **{"channels": {}, "pages": {}, **parts}
    )


async def test_a_door_has_the_limits_of_the_settings(tmp_path: Path) -> None:
    """The defaults of the public contract."""
    made = door(settings(tmp_path))
    assert made.max_connections == 1024
    assert made.budget.limit_bytes == 256 * 1024**2
    assert (made.ack_timeout_seconds, made.body_timeout_seconds) == (10, 10)


async def test_a_reload_holds_from_the_next_request_on(world: World, tmp_path: Path) -> None:
    """Limits, proxies, channels and pages change without dropping the connection."""
    forwarded = {**GOOD, "X-Forwarded-For": "203.0.113.9"}
    assert (await world.post(headers=forwarded))[0] == 200
    fresh = settings(
        tmp_path,
        SERVER__TRUSTED_PROXIES="10.0.0.1",
        SERVER__MAX_CONNECTIONS="7",
        RATE_LIMIT__VERIFIED_REQUESTS="1",
    )
    moved = FakeChannel("sms", "/moved")
    world.door.reconfigure(fresh, channels={moved.path: moved}, pages=PAGES)
    assert (await world.post(headers=forwarded))[0] == 404
    assert (await world.post(path="/moved", headers=forwarded))[0] == 200
    assert (await world.post(path="/moved", headers=forwarded))[0] == 429
    assert str(moved.seen[0].caller.client) == "127.0.0.1"
    assert world.door.max_connections == 7
    assert SMS_PATH not in world.door.channels
