"""`GET /health`, `GET /metrics` and `GET /`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
import structlog

from berinia_webhookd import supervision
from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.clock import now
from berinia_webhookd.config.load import load
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.journal.contract import Backlog, Claimed, ClaimRequest
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Caller, EntryState
from berinia_webhookd.outbound.availability import Availability
from berinia_webhookd.outbound.dispatcher import Dispatcher
from berinia_webhookd.outbound.log_agent import LogAgents
from berinia_webhookd.outbound.retry_policy import RetryPolicies
from berinia_webhookd.outbound.transports import Transports
from berinia_webhookd.status.backlog import BacklogReader
from berinia_webhookd.status.greeting import greeting
from berinia_webhookd.status.health import (
    HealthPage,
    agents_check,
    disk_check,
    dispatcher_check,
    journal_check,
    least_free,
)
from berinia_webhookd.status.metrics_page import MetricsPage

from .conftest import Get, caller

ALLOWED = (ip_network("127.0.0.1"), ip_network("10.1.0.0/16"))
AGENT = AgentName("MetaAgent")

Ask = Callable[[], Awaitable[Backlog]]


def backlog_of(ready: int = 0, oldest: Mapping[AgentName, float] | None = None) -> Ask:
    """A journal with so many entries ready."""

    async def ask() -> Backlog:
        counts = {**dict.fromkeys(EntryState, 0), EntryState.READY: ready}
        return Backlog(counts, oldest or {AGENT: 0.0} if ready else {})

    return ask


def failing(why: str) -> Ask:
    """A journal that cannot be read."""

    async def ask() -> Backlog:
        raise JournalUnavailable(why)

    return ask


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
    backlog = BacklogReader(backlog_of())
    checks = {
        "journal": journal_check(backlog, lambda: True),
        "agents": agents_check(dict, dict),
        "disk": disk_check([tmp_path, tmp_path / "absent"], lambda _: 1),
    }
    status, body, _ = await get(HealthPage(checks, ALLOWED).handle)
    assert (status, body) == (200, {"status": "healthy"})


@pytest.mark.parametrize(("by", "allowed"), READERS)
async def test_reasons_are_for_those_allowed(get: Get, by: Caller, allowed: bool) -> None:
    """503 for everybody, the reasons only for those who may read the metrics."""
    backlog = BacklogReader(failing("postgresql://secret"))
    page = HealthPage({"journal": journal_check(backlog, lambda: True)}, ALLOWED)
    status, body, _ = await get(page.handle, by=by)
    assert status == 503
    assert body["status"] == "unhealthy"
    assert body.get("reasons") == ({"journal": "the journal does not answer"} if allowed else None)


async def test_a_journal_that_can_only_be_read_is_a_reason() -> None:
    """Messages are refused then, though everything can be looked at."""
    check = journal_check(BacklogReader(backlog_of()), lambda: False)
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


async def test_a_dispatcher_that_does_not_turn_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it turns again: here its claim waits for a commit that does not end."""
    monkeypatch.setattr(supervision, "SLOWEST_TURN_SECONDS", 1.0)
    config = tmp_path / "settings.toml"
    config.write_text('agents.MetaAgent.target = "log:"')
    settings = load(kinds=KINDS, environ={}, working_folder=tmp_path, config_file=config).settings
    metrics, gate = Metrics(), asyncio.Event()

    class Held(SqlJournal):
        async def claim(self, requests: Sequence[ClaimRequest]) -> Claimed:
            await gate.wait()
            return await super().claim(requests)

    journal = Held(f"sqlite:///{tmp_path / 'journal.db'}", node="here", clock=now)
    await journal.open()
    transports = Transports(settings.agents, metrics=metrics)
    dispatcher = Dispatcher(
        outbox=journal,
        late_replies=LogAgents(),
        availability=Availability(
            outbox=journal, transports=transports, routed=[AGENT], metrics=metrics
        ),
        policies=RetryPolicies(settings),
        lease_seconds=15,
        metrics=metrics,
    )
    page = HealthPage({"dispatcher": dispatcher_check(dispatcher)}, ALLOWED)
    running = asyncio.create_task(dispatcher.run())
    await until_it_says(page.reasons, {"dispatcher": "the dispatcher is stuck"})
    gate.set()
    await until_it_says(page.reasons, {})
    running.cancel()
    await asyncio.wait([running])
    await transports.close()
    await journal.close()


async def until_it_says(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Ask until the answer is what is wanted."""
    async with asyncio.timeout(60):
        while await ask() != wanted:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.02)


async def test_an_agent_that_is_away_takes_no_receiver_out_of_service(get: Get) -> None:
    """200, with the reason for those who may read it: which agents, and where, said once."""
    where = "meta_agent.py:29: SyntaxError: invalid syntax"
    away = {AgentName("MetaAgent"): where, AgentName("AdminAgent"): where}
    check = agents_check(lambda: away, lambda: {AgentName("Other"): "x.py:1: KeyError: 'x'"})
    page = HealthPage({"agents": check}, ALLOWED)
    with structlog.testing.capture_logs() as lines:
        status, body, _ = await get(page.handle, by=caller())
    assert (status, body["status"]) == (200, "healthy")
    assert body["reasons"]["agents"] == (
        f"AdminAgent, MetaAgent cannot be loaded: {where}; "
        "the new code of Other cannot be loaded: x.py:1: KeyError: 'x'"
    )
    assert lines == []  # the log has it as `agent.unavailable`
    _, body, _ = await get(page.handle, by=caller(host="app.example.com"))
    assert body == {"status": "healthy"}


def test_a_small_disk_may_have_little_left() -> None:
    """Of a volume of 40 MB a tenth is enough: else it would be called full from the beginning."""
    assert least_free(40_000_000) == 4_000_000
    assert least_free(2**40) == 100 * 1024**2


async def test_a_full_disk_is_a_reason(tmp_path: Path) -> None:
    """The folder is named."""
    reason = await disk_check([tmp_path], lambda _: 2**62)()
    assert reason is not None
    assert str(tmp_path) in reason


@pytest.mark.parametrize(("count", "said"), [(0, "0 entries open"), (1, "1 entry open, oldest 0")])
async def test_the_line_of_systemctl_counts_as_people_do(count: int, said: str) -> None:
    """One is no plural."""
    assert (await BacklogReader(backlog_of(count)).in_one_line()).startswith(said)


async def test_the_journal_is_asked_once_for_many_readers() -> None:
    """Readers within a second share one question, also when the answer is an error."""
    for answer in (backlog_of(), failing("unreachable")):
        asked: list[None] = []

        async def ask(answer: Ask = answer, asked: list[None] = asked) -> Backlog:
            asked.append(None)
            return await answer()

        reader = BacklogReader(ask)
        await asyncio.gather(*(reader.read() for _ in range(20)), return_exceptions=True)
        assert len(asked) == 1


@pytest.mark.parametrize(("by", "allowed"), READERS)
async def test_metrics_are_for_those_allowed(get: Get, by: Caller, allowed: bool) -> None:
    """Prometheus text for the allowed addresses, 403 for all others."""
    page = MetricsPage(Metrics(), BacklogReader(backlog_of()), ALLOWED, lambda: True)
    status, _, headers = await get(page.handle, by=by)
    assert status == (200 if allowed else 403)
    if allowed:
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_gauges_mirror_the_journal() -> None:
    """Entries by state, the age of what waits longest, and whether the journal is there."""
    metrics = Metrics()
    backlog = backlog_of(3, {AGENT: 90})
    value = metrics.registry.get_sample_value
    await MetricsPage(metrics, BacklogReader(backlog), ALLOWED, lambda: True).refresh()
    assert value("berinia_webhookd_entries", {"state": "ready"}) == 3
    assert value("berinia_webhookd_entries", {"state": "dead"}) == 0
    assert value("berinia_webhookd_oldest_ready_seconds", {"agent": "MetaAgent"}) == 90
    assert value("berinia_webhookd_journal_up") == 1
    await MetricsPage(metrics, BacklogReader(backlog), ALLOWED, lambda: False).refresh()
    assert value("berinia_webhookd_journal_up") == 0
    unreachable = failing("unreachable")
    await MetricsPage(metrics, BacklogReader(unreachable), ALLOWED, lambda: True).refresh()
    assert value("berinia_webhookd_journal_up") == 0
    await MetricsPage(metrics, BacklogReader(backlog_of()), ALLOWED, lambda: True).refresh()
    assert value("berinia_webhookd_oldest_ready_seconds", {"agent": "MetaAgent"}) is None
