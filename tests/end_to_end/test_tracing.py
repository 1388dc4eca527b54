"""The way of a message in traces: what agents are told, and the spans that a collector gets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ..outbound.agent_world import until
from ..tools.receiver import Receiver, handler_of
from .daemon import Daemon, sample_sms, signed_sms

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE, CALLER = GIVEN.split("-")[1:3]
HANDLE = """
import json, pathlib

SEEN = pathlib.Path(__file__).with_name("seen.jsonl")


def handle(event):
    with SEEN.open("a") as seen:
        seen.write(json.dumps(event) + "\\n")
    return {"status": "error"} if event["data"]["attempt"] == 1 else None
"""
HANDLE_TARGET = 'agents.ResponseListenerAgent.target = "python:recorder:handle"'
RECORDER_TARGET = 'agents.ResponseListenerAgent.target = "python:recorder:Recorder"'


@contextmanager
def receiver(answer: bytes = b"") -> Iterator[Receiver]:
    """A server on a free port."""
    receiver = Receiver(answer=answer)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(receiver)) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def having(daemon: Daemon, target: str, *lines: str) -> Daemon:
    """The daemon with another agent, and further settings."""
    text = daemon.config.read_text()
    assert RECORDER_TARGET in text
    daemon.config.write_text("\n".join([text.replace(RECORDER_TARGET, target), *lines]))
    return daemon


def post(daemon: Daemon, traceparent: str | None, **changes: str) -> None:
    """Send a message; the answer must be 200."""
    body, headers = signed_sms(sample_sms(**changes))
    given = {} if traceparent is None else {"Traceparent": traceparent}
    assert daemon.post_sms(body, {**headers, **given}).status == 200


def spans_of(collector: Receiver) -> list[Any]:
    """Every span so far, in the order of their end."""
    asked = [ExportTraceServiceRequest.FromString(one.body) for one in list(collector.received)]
    return [
        span
        for one in asked
        for resource in one.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def facts(span: Any) -> dict[str, Any]:
    """The attributes of a span."""
    return {
        one.key: one.value.int_value if one.value.HasField("int_value") else one.value.string_value
        for one in span.attributes
    }


def test_an_agent_is_told_the_trace_of_the_request(tmp_path: Path) -> None:
    """As the provider's request has it, on every attempt and after a replay; else the event's."""
    daemon = having(Daemon(tmp_path, agent=HANDLE), HANDLE_TARGET)
    try:
        daemon.start()
        post(daemon, GIVEN, Body="one")
        post(daemon, "00-nothing-of-the-kind-01", Body="two", From="+33639980003")
        post(daemon, None, Body="three", From="+33639980004")
        daemon.wait_for("attempt.succeeded", count=3)
        seen = daemon.wait_until_seen(6)
        told = {one["data"]["body"]: (one["id"], one["data"]["traceparent"]) for one in seen}
        assert told["one"][1] == GIVEN
        for event_id, traceparent in (told["two"], told["three"]):
            assert traceparent.split("-")[1] == event_id.replace("-", "")
        assert {(one["data"]["body"], one["data"]["traceparent"]) for one in seen} == {
            (body, traceparent) for body, (_, traceparent) in told.items()
        }
        daemon.run("events", "replay", told["one"][0])
        assert daemon.wait_until_seen(7)[-1]["data"]["traceparent"] == GIVEN
    finally:
        daemon.close()


def test_an_http_agent_gets_it_as_a_header_too(stopped: Daemon) -> None:
    """So that what it records belongs to the same trace without a line of code."""
    with receiver(b'{"status": "ok"}') as agent:
        target = f'agents.ResponseListenerAgent.target = "http://{agent.address}/agent"'
        daemon = having(stopped, target).start()
        post(daemon, GIVEN)
        daemon.wait_for("attempt.succeeded")
        (got,) = agent.received
        assert got.headers["traceparent"] == GIVEN
        assert json.loads(got.body)["data"]["traceparent"] == GIVEN


def test_spans_of_request_attempts_and_agent_are_one_trace(tmp_path: Path) -> None:
    """Under the caller's span that of the request, under it one for each attempt, and what the
    agent gets is its own attempt's; nobody's number or words are in any of it.
    """
    with receiver() as collector:
        daemon = having(
            Daemon(tmp_path, agent=HANDLE),
            HANDLE_TARGET,
            f'tracing.url = "http://{collector.address}"',
        )
        try:
            daemon.start()
            post(daemon, GIVEN, Body="Rappelez-moi vite")
            body, headers = signed_sms(sample_sms())
            forged = {**headers, "X-Twilio-Signature": "A" * 28, "Traceparent": GIVEN}
            assert daemon.post_sms(body, forged).status == 403
            daemon.wait_for("attempt.succeeded")
            seen = daemon.wait_until_seen(2)
            assert daemon.stop() == 0  # sends what is left
        finally:
            daemon.close()
        assert {one.path for one in collector.received} == {"/v1/traces"}
        request, failed, succeeded = sorted(
            spans_of(collector), key=lambda span: span.start_time_unix_nano
        )
    assert [request.name, failed.name, succeeded.name] == [
        "receive sms",
        "attempt ResponseListenerAgent",
        "attempt ResponseListenerAgent",
    ]
    assert {span.trace_id.hex() for span in (request, failed, succeeded)} == {TRACE}
    assert request.parent_span_id.hex() == CALLER
    assert {failed.parent_span_id, succeeded.parent_span_id} == {request.span_id}
    assert [one["data"]["traceparent"] for one in seen] == [
        f"00-{TRACE}-{span.span_id.hex()}-01" for span in (failed, succeeded)
    ]
    assert facts(request)["http.response.status_code"] == 200
    assert [facts(one)["berinia.outcome"] for one in (failed, succeeded)] == ["error", "success"]
    assert facts(succeeded)["berinia.event_id"] == seen[0]["id"]
    sent = b"".join(one.body for one in collector.received)
    assert b"Rappelez" not in sent
    assert b"33639980001" not in sent


@pytest.mark.parametrize("answers", [False, True])
def test_a_collector_that_is_of_no_use_keeps_nothing_back(stopped: Daemon, answers: bool) -> None:
    """Whether it is gone or refuses everything: messages are answered, agents run, and it stops."""
    with receiver() as collector:
        collector.status = 500
        url = f"http://{collector.address}" if answers else "http://127.0.0.1:1"
        daemon = having(stopped, RECORDER_TARGET, f'tracing.url = "{url}"').start()
        post(daemon, None)
        daemon.wait_for("attempt.succeeded")
        assert daemon.stop() == 0


def test_what_is_in_a_collectors_url_is_in_no_log(stopped: Daemon) -> None:
    """Its path may be a token, as its password is."""
    url = 'tracing.url = "http://user:hush1@127.0.0.1:1/hush2/hush3/"'
    daemon = having(stopped, RECORDER_TARGET, url)
    daemon.start(environment={"OTEL_BSP_SCHEDULE_DELAY": "50"})
    post(daemon, None)
    daemon.wait_for("library")
    assert daemon.stop() == 0
    told = [line for line in daemon.lines if "/…/v1/traces" in line.get("detail", "")]
    assert told
    assert "hush" not in str(daemon.lines)


async def test_a_message_from_before_is_traced_as_its_event(tmp_path: Path) -> None:
    """Where tracing was off when it came, its attempts share the trace of its own."""
    daemon = having(Daemon(tmp_path, agent=HANDLE), HANDLE_TARGET)
    try:
        with receiver() as collector:
            daemon.start("--no-dispatch")
            post(daemon, None)
            assert daemon.stop() == 0
            having_it = f'{daemon.config.read_text()}\ntracing.url = "http://{collector.address}"'
            daemon.config.write_text(having_it)
            daemon.start()
            event = daemon.wait_for("attempt.succeeded")["event_id"]
            assert daemon.stop() == 0
            await until(lambda: len(spans_of(collector)) == 2)
            traces = {span.trace_id.hex() for span in spans_of(collector)}
            assert traces == {event.replace("-", "")}
    finally:
        daemon.close()
