"""Alerts: at most one of a kind in a while, nothing forgotten, and no harm when they fail."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from berinia_webhookd.config.settings import AlertSettings
from berinia_webhookd.journal.contract import Guard, Hold, Settlement
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, EntryState, EventId, Outcome, OutcomeKind
from berinia_webhookd.outbound.alert_delivery import post, run_command
from berinia_webhookd.outbound.alert_kinds import ADVICE, AlertKind
from berinia_webhookd.outbound.alerts import (
    Alerts,
    daemon_conditions,
    rejected_deliveries,
)

from .agent_world import MARK, make_entry, marked_processes, until, until_gone


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Receiver:
    """Where alerts are posted in these tests."""

    url: str = ""
    status: int = 200
    hold: asyncio.Event | None = None
    alerts: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.alerts.append(await request.json())
        if self.hold is not None:
            await self.hold.wait()
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    def kinds(self) -> list[str]:
        return [alert["kind"] for alert in self.alerts]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/alerts/s3cret", receiver.take)
    async with TestServer(application) as server:
        receiver.url = str(server.make_url("/alerts/s3cret"))
        yield receiver


@asynccontextmanager
async def running(receiver: Receiver, **options: Any) -> AsyncIterator[Alerts]:
    options = {"conditions": {}, "check_seconds": 0.01, **options}
    alerts = Alerts(AlertSettings(None, receiver.url), node="here", clock=now, **options)
    task = asyncio.create_task(alerts.run())
    yield alerts
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_dead_entry_is_told_without_a_word_of_it(receiver: Receiver) -> None:
    """The alert says which event and where to look; neither parties nor text, nor the error."""
    entry = make_entry("ResponseListenerAgent", "a private matter")
    async with running(receiver) as alerts:
        outcome = Outcome(OutcomeKind.EXCEPTION, error="KeyError: '+33639980001'")
        alerts.entry_dead(Settlement(entry, outcome, 0.0, EntryState.DEAD))
        await until(lambda: bool(receiver.alerts))
    (alert,) = receiver.alerts
    datetime.fromisoformat(alert.pop("at"))
    assert alert == {
        "service": "berinia-webhookd",
        "node": "here",
        "kind": "entry_dead",
        "summary": "ResponseListenerAgent failed on an event (exception), "
        "and it is not tried again",
        "count": 1,
        "look": "berinia-webhookd events list --state dead",
        "fix": ADVICE[AlertKind.ENTRY_DEAD].fix,
        "guide": "The agent fails: messages are dead",
        "agent": "ResponseListenerAgent",
        "channel": "sms",
        "event_id": entry.event_id,
    }


async def test_at_most_one_of_a_kind_and_the_rest_counted(receiver: Receiver) -> None:
    """What happens during the pause is one alert after it; other kinds do not wait for it."""
    async with running(receiver, pause_seconds=1.0) as alerts:
        alerts.sound(AlertKind.ENTRY_DEAD, "first")
        await until(lambda: len(receiver.alerts) == 1)
        for number in range(1000):
            alerts.sound(AlertKind.ENTRY_DEAD, f"number {number}")
        alerts.sound(AlertKind.DISK_LOW, "the disk")
        await until(lambda: len(receiver.alerts) == 3)
        alerts.sound(AlertKind.DISK_LOW, "again")
        await until(lambda: len(receiver.alerts) == 4)
    told = [(alert["kind"], alert["summary"], alert["count"]) for alert in receiver.alerts]
    assert told == [
        ("entry_dead", "first", 1),
        ("disk_low", "the disk", 1),
        ("entry_dead", "number 999", 1000),
        ("disk_low", "again", 1),
    ]


async def test_a_condition_is_told_when_it_begins(receiver: Receiver) -> None:
    """Once for as long as it holds, again for each new thing it holds for."""
    holds: dict[str, str] = {}
    looks = 0

    async def condition() -> Mapping[str, str]:
        nonlocal looks
        looks += 1
        return dict(holds)

    async def look_twice() -> None:
        seen = looks
        await until(lambda: looks >= seen + 2)

    conditions = {AlertKind.AGENT_UNAVAILABLE: condition}
    async with running(receiver, conditions=conditions, pause_seconds=0) as _:
        await look_twice()
        assert receiver.alerts == []
        holds["One"] = "One cannot be loaded"
        await look_twice()
        holds["Two"] = "Two cannot be loaded"
        holds["Three"] = "Three cannot be loaded"
        await look_twice()
        holds.clear()
        await look_twice()
        holds["One"] = "One cannot be loaded, again"
        await until(lambda: len(receiver.alerts) == 3)
    assert [alert["summary"] for alert in receiver.alerts] == [
        "One cannot be loaded",
        "Three cannot be loaded; Two cannot be loaded",
        "One cannot be loaded, again",
    ]


async def test_one_rejected_delivery_is_told() -> None:
    """Each within five minutes belongs to the same alert; a later one is told anew."""
    metrics, time = Metrics(), 0.0
    condition = rejected_deliveries(metrics, lambda: time)
    email = metrics.rejected_total.labels(channel="email")
    assert await condition() == {}
    email.inc()
    assert await condition() == {
        "email": "a verified delivery to email could not be read, and is kept"
    }
    email.inc()
    assert "2 verified deliveries" in (await condition())["email"]
    time += 400
    assert await condition() == {}


REFUSED = (
    "resemble its provider's are refused for their signature, and none was accepted since the "
    "first of them"
)


async def test_the_conditions_of_a_daemon() -> None:
    """Each holds while what it is about is wrong, and says so in a sentence without its cause."""
    outdated = dict[AgentName, str]()
    up, missing, full, locked = True, dict[AgentName, str](), None, False
    metrics = Metrics()
    held: dict[str, str] = {}
    quiet: dict[str, str] = {}

    async def disk() -> str | None:
        return full

    async def held_for_days() -> dict[str, str]:
        return held

    async def silent() -> dict[str, str]:
        return quiet

    conditions = daemon_conditions(
        metrics=metrics,
        journal_up=lambda: up,
        unavailable=lambda: missing,
        outdated=lambda: outdated,
        disk=disk,
        loopback_locked=lambda: locked,
        held_for_days=held_for_days,
        channel_silent=silent,
    )

    async def holding() -> dict[str, list[str]]:
        looks = {kind.value: await look() for kind, look in conditions.items()}
        return {kind: list(said.values()) for kind, said in looks.items() if said}

    metrics.signature_failures_total.labels(channel="sms").inc(100)  # strangers, all of them
    refused = metrics.provider_refused.labels(channel="sms")
    refused.set(0)
    assert await holding() == {}
    refused.inc()
    up, full = False, "/var/lib has 3 MiB left"
    missing[AgentName("MetaAgent")] = "KeyError: 'secret'"
    outdated[AgentName("Other")] = "KeyError: 'secret'"
    quiet["sms"] = "nothing has been accepted on sms since yesterday"
    held["loop 1"] = "3 conversations are held (loop), the oldest for 1 day"
    assert await holding() == {
        "signatures_refused": [f"requests to sms that {REFUSED}"],
        "conversation_held": [held["loop 1"]],
        "channel_silent": [quiet["sms"]],
        "journal_degraded": ["the journal cannot be written, so providers are answered 503"],
        "agent_unavailable": [
            "MetaAgent cannot be loaded, so its messages wait",
            "the new code of Other cannot be loaded, so Other goes on with the code before",
        ],
        "disk_low": ["/var/lib has 3 MiB left"],
    }


@pytest.mark.parametrize(
    ("status", "error"), [(500, "HTTP 500"), (302, "HTTP 302"), (404, "HTTP 404")]
)
async def test_an_alert_that_is_refused_is_a_line_in_the_log(
    receiver: Receiver, status: int, error: str
) -> None:
    """The log names the setting and never the URL; the next alert is tried as ever."""
    receiver.status = status
    with capture_logs() as lines:
        async with running(receiver, pause_seconds=0) as alerts:
            alerts.sound(AlertKind.DISK_LOW, "first")
            await until(lambda: any(line["event"] == "alert.failed" for line in lines))
            receiver.status = 200
            alerts.sound(AlertKind.DISK_LOW, "second")
            await until(lambda: any(line["event"] == "alert.sent" for line in lines))
    failed, sent = lines
    assert failed == {
        "event": "alert.failed",
        "log_level": "warning",
        "kind": "disk_low",
        "setting": "alerts.url",
        "error": error,
    }
    assert sent["setting"] == "alerts.url"


async def test_nobody_there_and_no_answer(receiver: Receiver, nobodys_port: int) -> None:
    """A receiver that is away or silent is given up after a bounded time."""
    assert await post(f"http://127.0.0.1:{nobodys_port}/", b"{}") == "ClientConnectorError"
    receiver.hold = asyncio.Event()
    assert await post(receiver.url, b"{}", limit_seconds=0.2) == "no answer within 0.2 s"
    receiver.hold.set()


async def test_nothing_is_looked_at_where_nobody_is_told(receiver: Receiver) -> None:
    """Conditions are looked at once a reload names somebody, who is told what holds then."""
    looks = 0

    async def condition() -> Mapping[str, str]:
        nonlocal looks
        looks += 1
        return {"": "full"}

    async with running(receiver, conditions={AlertKind.DISK_LOW: condition}) as alerts:
        alerts.reconfigure(AlertSettings(None, None))
        await asyncio.sleep(0)  # the first look is due
        assert not looks
        alerts.reconfigure(AlertSettings(None, receiver.url))
        await until(lambda: bool(receiver.alerts))
    assert [alert["summary"] for alert in receiver.alerts] == ["full"]


async def test_nothing_is_kept_where_nobody_listens(receiver: Receiver) -> None:
    """Without a command and a URL nothing waits to be told later."""
    async with running(receiver) as alerts:
        alerts.reconfigure(AlertSettings(None, None))
        alerts.sound(AlertKind.ENTRY_DEAD, "unheard")
        alerts.reconfigure(AlertSettings(None, receiver.url))
        alerts.sound(AlertKind.DISK_LOW, "heard")
        await until(lambda: bool(receiver.alerts))
    assert receiver.kinds() == ["disk_low"]


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


async def test_a_command_reads_the_alert_and_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON is on its standard input; what only the daemon may know is not around it."""
    monkeypatch.setenv("TWILIO_TOKEN", "0" * 32)
    monkeypatch.setenv("BERINIA_WEBHOOKD_LOGS__PASSWORD", "s3cret")
    file = tmp_path / "with a blank.json"
    code = f"""
import json, os, sys
json.dump([json.load(sys.stdin), dict(os.environ)], open({str(file)!r}, "w"))
print("out" * 100_000)
"""
    assert await run_command(python(code), b'{"kind": "disk_low"}') is None
    document, environment = json.loads(file.read_text())
    assert document == {"kind": "disk_low"}
    assert "PATH" in environment
    assert not [name for name in environment if "TWILIO" in name or "WEBHOOKD" in name]


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        ("/does/not/exist", "cannot be run: No such file or directory"),
        ("/", "cannot be run: Permission denied"),
        ("'unfinished", "cannot be run: No closing quotation"),
        ("false", "ended with status 1"),
        (
            python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
            "ended with status -15",
        ),
        (python("import sys; sys.stdin.close()"), None),
        ("true", None),
    ],
)
async def test_a_command_that_fails_says_how(command: str, failure: str | None) -> None:
    """A command need not read what it is given, but has to end well."""
    assert await run_command(command, b"{}" * 200_000) == failure


async def test_a_command_that_hangs_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its time is bounded."""
    mark = str(tmp_path)
    monkeypatch.setenv(MARK, mark)
    command = shlex.join(["sh", "-c", "sleep 3600 & sleep 3600"])
    running = asyncio.create_task(run_command(command, b"{}", limit_seconds=5))
    await until(lambda: len(marked_processes(mark)) == 3)
    assert await running == "not finished within 5 s, so it was killed"
    await until_gone(mark)


async def test_a_command_ends_with_the_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Stopping does not wait for it."""
    mark = str(tmp_path)
    monkeypatch.setenv(MARK, mark)
    running = asyncio.create_task(run_command("sleep 3600", b"{}"))
    await until(lambda: len(marked_processes(mark)) == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(mark)


async def test_what_a_guard_holds_is_told(receiver: Receiver) -> None:
    """An entry with its conversation, or all of an agent; nobody's number or text."""
    agent = AgentName("MetaAgent")
    entry = Hold(Guard.LOOP, agent, "the same text came", None, "sms", EventId("0190"))
    async with running(receiver) as alerts:
        alerts.held(entry)
        await until(lambda: bool(receiver.alerts))
    (told,) = receiver.alerts
    assert told["kind"] == "conversation_held"
    assert told["summary"] == (
        "MetaAgent gets, in a conversation on sms, nothing but opt-outs: the same text came"
    )
    assert (told["reason"], told["event_id"]) == ("loop", "0190")


async def test_an_agent_that_keeps_failing_is_told(receiver: Receiver) -> None:
    """How often, how, and what becomes of the rest."""
    entry = make_entry("MetaAgent")
    crash = Outcome(OutcomeKind.CRASH, error="secret")
    settlement = Settlement(entry, crash, took_seconds=1, state=EntryState.DEAD)
    async with running(receiver) as alerts:
        alerts.agent_failing(settlement, 5)
        await until(lambda: bool(receiver.alerts))
    (told,) = receiver.alerts
    assert told["kind"] == "agent_failing"
    assert told["summary"].startswith("MetaAgent failed on its last 5 attempts (crash); one entry")
