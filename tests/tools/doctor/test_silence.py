"""Channels on which nothing comes any more, as the daemon's metrics say it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import generate_latest

from berinia_webhookd.findings import Finding, Level
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.status.findings.channels import silence
from berinia_webhookd.status.findings.missed import missed
from berinia_webhookd.tools.doctor.installation import find
from tests.end_to_end.daemon import Daemon

Look = Callable[[dict[str, int]], Awaitable[list[Finding]]]


@pytest.fixture
def look(stopped: Daemon, aiohttp_server: Callable[..., Awaitable[TestServer]]) -> Look:
    """What is found where a daemon says so of its channels: 1 is silent."""

    async def look(channels: dict[str, int]) -> list[Finding]:
        metrics = Metrics()
        for name, silent in channels.items():
            metrics.channel_silent.labels(channel=name).set(silent)
            metrics.last_accepted_seconds.labels(channel=name).set(37_800)

        async def page(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(metrics.registry))

        application = web.Application()
        application.router.add_get("/metrics", page)
        server = await aiohttp_server(application)
        installation = find(stopped.config, stopped.environment, stopped.folder).installation
        running = replace(installation, process=1, address=f"127.0.0.1:{server.port}")
        return [finding async for finding in silence(running)]

    return look


async def test_a_silent_channel_is_a_warning(look: Look) -> None:
    """With the line to enter in its provider's console."""
    (finding,) = await look({"sms": 1, "email": 0, "gone": 1})
    assert finding.level is Level.WARNING
    assert finding.what == (
        "sms: nothing accepted for 10 h 30 min, far beyond its habit of this weekday and hour"
    )
    assert finding.fix[0] == "send it a message yourself"
    assert "/webhook/sms-response" in finding.fix[1]


async def test_channels_that_are_not_silent(look: Look) -> None:
    """One line for all; nothing where nothing is known yet."""
    (finding,) = await look({"sms": 0, "email": 0})
    assert finding.level is Level.OK
    assert await look({}) == []


def log(daemon: Daemon, *lines: dict[str, object]) -> None:
    logs = find(daemon.config, daemon.environment, daemon.folder).installation.logs
    logs.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat()
    text = "".join(json.dumps({"timestamp": now, **line}) + "\n" for line in lines)
    (logs / "webhook.log").write_text(text)


async def found_missed(daemon: Daemon) -> list[Finding]:
    installation = find(daemon.config, daemon.environment, daemon.folder).installation
    return [finding async for finding in missed(installation)]


async def test_what_a_reconciliation_found_missing_is_a_warning(stopped: Daemon) -> None:
    """Until it is taken in; with the lines that mend what keeps it away."""
    line: dict[str, object] = {"event": "events.missed", "channel": "sms", "missing": 2}
    log(stopped, line)
    (finding,) = await found_missed(stopped)
    assert finding.level is Level.WARNING
    assert finding.what.startswith("sms: 2 messages of Twilio never came")
    assert "/webhook/sms-response" in finding.fix[0]
    assert "reconcile sms" in finding.fix[1]
    log(stopped, line, {"event": "event.accepted", "channel": "sms", "reconciled": True})
    assert await found_missed(stopped) == []


async def test_what_came_by_itself_is_missing_no_more(stopped: Daemon) -> None:
    """As soon as a reconciliation of the same time finds nothing missing; one of another time, or
    up to an earlier one, says nothing about it.
    """
    eight, nine, ten = (f"2026-11-24T{hour}:00:00+00:00" for hour in ("08", "09", "10"))
    line: dict[str, object] = {"event": "events.missed", "channel": "sms", "missing": 2}
    missing = {**line, "since": nine, "until": nine}
    complete: dict[str, object] = {"event": "events.complete", "channel": "sms"}
    cases: list[tuple[dict[str, object], int]] = [
        ({**complete, "since": eight, "until": ten}, 0),
        ({**complete, "since": eight, "until": ten, "channel": "email"}, 1),
        ({**complete, "since": ten, "until": ten}, 1),
        ({**complete, "since": eight, "until": eight}, 1),
        ({**complete, "since": "0001-01-01T00:00:00", "until": None}, 1),
    ]
    for told, left in cases:
        log(stopped, missing, told)
        assert len(await found_missed(stopped)) == left
    log(stopped, line, {**complete, "since": eight, "until": ten})
    assert len(await found_missed(stopped)) == 1  # when they were is not known
