"""Spans, by OpenTelemetry's exporter in memory. A whole daemon: end_to_end/test_tracing.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from berinia_webhookd.app import tracing_of
from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.cli import root
from berinia_webhookd.config.load import load
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.model import AgentName, Entry, Member, Outcome, OutcomeKind
from berinia_webhookd.outbound.contract import Begin, Transport, begin_freely
from berinia_webhookd.tracing import Tracing

from .outbound.agent_world import make_entry

AGENT = AgentName("Agent")


class Noting:
    """A transport that notes what it gets, and ends as it is told."""

    capacity = 3

    def __init__(self) -> None:
        self.got: list[Entry] = []
        self.ends: Callable[[], Outcome] = lambda: Outcome(OutcomeKind.SUCCESS)

    async def load(self, agent: AgentName) -> None:
        """Take any."""

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        self.got.append(entry)
        return self.ends()

    async def close(self) -> None:
        """Nothing is open."""


class Directory:
    """Leads to one transport."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def of(self, agent: AgentName) -> Transport:
        return self.transport

    def goes_on(self, agent: AgentName) -> bool:
        return agent == AGENT


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    tracing = Tracing(SimpleSpanProcessor(exporter), "web1")
    yield tracing
    tracing.close()


def settings(folder: Path, text: str) -> Settings:
    file = folder / "berinia.toml"
    file.write_text(text)
    file.chmod(0o600)
    return load(kinds=KINDS, environ={}, working_folder=folder, config_file=file).settings


async def test_an_attempt_that_fails_is_an_error_without_its_words(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    """Its kind is in the span; what the agent said may name people."""
    noting = Noting()
    noting.ends = lambda: Outcome(OutcomeKind.EXCEPTION, error="KeyError: +33639980001")
    transport = tracing.transports(Directory(noting)).of(AGENT)
    await transport.attempt(make_entry(AGENT), timeout_seconds=1)
    (span,) = exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "exception")
    assert "33639980001" not in span.to_json()


async def test_a_bug_of_ours_ends_its_span(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    """And goes on to the attempt boundary."""
    noting = Noting()

    def broken() -> Outcome:
        raise RuntimeError("+33639980001")

    noting.ends = broken
    transport = tracing.transports(Directory(noting)).of(AGENT)
    with pytest.raises(RuntimeError):
        await transport.attempt(make_entry(AGENT), timeout_seconds=1)
    (span,) = exporter.get_finished_spans()
    assert "33639980001" not in span.to_json()


async def test_a_burst_is_linked_to_the_traces_of_its_messages(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    """Its attempt is in the trace of the last one."""
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    first, second, last = (make_entry(AGENT, traceparent=one) for one in (given, None, None))
    members = tuple(Member(one.event_id, one.event) for one in (first, second))
    noting = Noting()
    transport = tracing.transports(Directory(noting)).of(AGENT)
    await transport.attempt(last._replace(members=members), timeout_seconds=1)
    (span,) = exporter.get_finished_spans()
    assert [f"{one.context.trace_id:032x}" for one in span.links] == [
        "4bf92f3577b34da6a3ce929d0e0e4736",
        second.event_id.replace("-", ""),
    ]
    assert f"{span.context.trace_id:032x}" == last.event_id.replace("-", "")
    (got,) = noting.got
    assert got.traceparent.split("-")[2] == f"{span.context.span_id:016x}"
    assert got.members == members


def test_a_transport_stays_the_same(tracing: Tracing) -> None:
    """The dispatcher counts by it how much runs."""
    noting = Noting()
    traced = tracing.transports(Directory(noting))
    assert traced.of(AGENT) is traced.of(AgentName("Other"))
    assert traced.of(AGENT).capacity == noting.capacity
    assert traced.goes_on(AGENT)
    assert not traced.goes_on(AgentName("Other"))


async def test_opentelemetrys_own_switch_leaves_traces_alone(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OTEL_SDK_DISABLED nothing is recorded, and the request's trace goes on to the agent."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    noting = Noting()
    tracing = Tracing(SimpleSpanProcessor(exporter), "web1")
    entry = make_entry(AGENT)
    await tracing.transports(Directory(noting)).of(AGENT).attempt(entry, timeout_seconds=1)
    assert not exporter.get_finished_spans()
    assert noting.got[0].traceparent == entry.traceparent
    tracing.close()


def test_nothing_is_built_or_imported_while_it_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is on and OpenTelemetry is not installed, the line says what to install."""
    monkeypatch.delitem(sys.modules, "berinia_webhookd.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert tracing_of(settings(tmp_path, "")) is None
    with pytest.raises(CannotStart) as refused:
        tracing_of(settings(tmp_path, 'tracing.url = "http://127.0.0.1:4318"'))
    assert "opentelemetry.sdk.trace is missing" in str(refused.value)
    assert "pip install opentelemetry-sdk" in (refused.value.hint or "")


def test_check_config_says_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `serve` would, which does not start then."""
    monkeypatch.delitem(sys.modules, "berinia_webhookd.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings(tmp_path, 'tracing.url = "http://127.0.0.1:4318"')
    command = ["--config", str(tmp_path / "berinia.toml"), "check-config", "--offline", "--json"]
    environment = {"STATE_DIRECTORY": str(tmp_path)}
    result = CliRunner().invoke(root, command, env=environment)
    (found,) = [
        one for one in json.loads(result.stdout)["findings"] if one["subject"] == "tracing.url"
    ]
    assert (result.exit_code, found["level"]) == (1, "wrong")
    assert "opentelemetry.sdk.trace is missing" in found["what"]
