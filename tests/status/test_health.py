"""`GET /health`, `GET /metrics` and `GET /`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
import structlog

from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Backlog
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Caller, EntryState
from berinia_webhookd.status.backlog import BacklogReader
from berinia_webhookd.status.greeting import greeting
from berinia_webhookd.status.health import (
    HealthPage,
    agents_check,
    disk_check,
    dispatcher_check,
    journal_check,
)
from berinia_webhookd.status.metrics_page import MetricsPage
from berinia_webhookd.supervision import SLOWEST_TURN_SECONDS

from .conftest import FakeUpkeep, Get, caller

ALLOWED = (ip_network("127.0.0.1"), ip_network("10.1.0.0/16"))
AGENT = AgentName("MetaAgent")

READERS = [
    (caller(), True),
    (caller(host="localhost"), True),
    (caller(host="[::1]:8001"), True),
    (caller("10.1.2.3", forwarded=True), True),
    (caller("10.1.2.3", peer_trusted=False, host="metrics.example.com"), True),
    (caller("10.2.2.3", forwarded=True), False),
    (caller("10.2.2.3", peer_trusted=False), False),
    (caller(None, forwarded=True), False),
    (caller(forwarded=True), False),
    (caller(host="app.example.com"), False),
    (caller(host="127.0.0.1.example.com"), False),
    (caller(host=""), False),
    (caller(None, host="localhost"), True),
    (caller(None, host="app.example.com"), False),
    (caller(None, peer_trusted=False), False),
]


async def test_everybody_may_greet(get: Get) -> None:
    """`GET /` names the service."""
    status, body, _ = await get(greeting)
    assert (status, body) == (200, {"status": "ok", "service": "berinia-webhookd"})


async def test_healthy(get: Get, tmp_path: Path) -> None:
    """200 while every check is content."""
    backlog = BacklogReader(FakeUpkeep())
    checks = {
        "journal": journal_check(backlog, lambda: True),
        "agents": agents_check(backlog, lambda: [AGENT]),
        "disk": disk_check([tmp_path, tmp_path / "absent"], least_free_bytes=1),
    }
    status, body, _ = await get(HealthPage(checks, ALLOWED).handle)
    assert (status, body) == (200, {"status": "healthy"})


@pytest.mark.parametrize(("by", "allowed"), READERS)
async def test_reasons_are_for_those_allowed(get: Get, by: Caller, allowed: bool) -> None:
    """503 for everybody, the reasons only for those who may read the metrics."""
    upkeep = FakeUpkeep(failure=JournalUnavailable("postgresql://secret"))
    page = HealthPage({"journal": journal_check(BacklogReader(upkeep), lambda: True)}, ALLOWED)
    status, body, _ = await get(page.handle, by=by)
    assert status == 503
    assert body["status"] == "unhealthy"
    assert body.get("reasons") == ({"journal": "the journal does not answer"} if allowed else None)


async def test_a_journal_that_can_only_be_read_is_a_reason() -> None:
    """Messages are refused then, though everything can be looked at."""
    check = journal_check(BacklogReader(FakeUpkeep()), lambda: False)
    assert await check() == "the journal cannot be written"


async def test_the_log_says_when_it_begins_and_ends(get: Get) -> None:
    """One line when a check begins to complain, one when it ceases, none in between."""
    complaint: list[str | None] = ["stopped", "stopped", None, None]

    async def check() -> str | None:
        return complaint.pop(0)

    page = HealthPage({"dispatcher": check}, ALLOWED)
    with structlog.testing.capture_logs() as lines:
        for _ in range(4):
            await page.reasons()
    assert [line["event"] for line in lines] == ["health.unhealthy", "health.healthy"]


@dataclass
class Turning:
    last_turn: float


async def test_a_dispatcher_that_does_not_turn_is_a_reason() -> None:
    """Until it turns again."""
    now = asyncio.get_running_loop().time()
    dispatcher = Turning(now - SLOWEST_TURN_SECONDS - 1)
    check = dispatcher_check(dispatcher)
    assert await check() == "the dispatcher does not turn"
    dispatcher.last_turn = now
    assert await check() is None


@pytest.mark.parametrize(("seconds", "stuck"), [(59, False), (60, True)])
async def test_an_agent_is_a_reason_once_messages_wait_for_it(seconds: int, stuck: bool) -> None:
    """An agent that cannot be loaded counts when messages have waited a minute for it."""
    upkeep = FakeUpkeep(Backlog({}, {AGENT: seconds, AgentName("Other"): seconds}))
    check = agents_check(BacklogReader(upkeep), lambda: [AGENT])
    assert await check() == ("cannot be loaded: MetaAgent" if stuck else None)


async def test_a_full_disk_is_a_reason(tmp_path: Path) -> None:
    """The folder is named."""
    reason = await disk_check([tmp_path], least_free_bytes=2**62)()
    assert reason is not None
    assert str(tmp_path) in reason


async def test_the_journal_is_asked_once_for_many_readers() -> None:
    """Readers within a second share one question, also when the answer is an error."""
    for upkeep in (FakeUpkeep(), FakeUpkeep(failure=JournalUnavailable("away"))):
        reader = BacklogReader(upkeep)
        await asyncio.gather(*(reader.read() for _ in range(20)), return_exceptions=True)
        assert upkeep.asked == 1


@pytest.mark.parametrize(("by", "allowed"), READERS)
async def test_metrics_are_for_those_allowed(get: Get, by: Caller, allowed: bool) -> None:
    """Prometheus text for the allowed addresses, 403 for all others."""
    page = MetricsPage(Metrics(), BacklogReader(FakeUpkeep()), ALLOWED)
    status, _, headers = await get(page.handle, by=by)
    assert status == (200 if allowed else 403)
    if allowed:
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_gauges_mirror_the_journal() -> None:
    """Entries by state, the age of what waits longest, and whether the journal is there."""
    upkeep = FakeUpkeep(Backlog({EntryState.READY: 3}, {AGENT: 90}))
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    await MetricsPage(metrics, BacklogReader(upkeep), ALLOWED).refresh()
    assert value("berinia_webhookd_entries", {"state": "ready"}) == 3
    assert value("berinia_webhookd_entries", {"state": "dead"}) == 0
    assert value("berinia_webhookd_oldest_ready_seconds", {"agent": "MetaAgent"}) == 90
    assert value("berinia_webhookd_journal_up") == 1
    away = FakeUpkeep(failure=JournalUnavailable("away"))
    await MetricsPage(metrics, BacklogReader(away), ALLOWED).refresh()
    assert value("berinia_webhookd_journal_up") == 0
    gone = FakeUpkeep()
    await MetricsPage(metrics, BacklogReader(gone), ALLOWED).refresh()
    assert value("berinia_webhookd_oldest_ready_seconds", {"agent": "MetaAgent"}) is None
