"""Events per second through an agent that does nothing, while receiving goes on. Nothing is pinned:
agent hosts have the cores that a real machine gives them.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from bench import Bench, Result, say
from daemon import Installation
from load import HERE, OpenLoop, as_much_as_possible
from processes import Server, free_port, running

RECEIVING_RATE = 200  # a second, meanwhile
LONGEST_SECONDS = 6.0
# The first ones are not counted: agent hosts start on first use.
WARM_UP_EVENTS = 200
PATIENCE_SECONDS = 30.0


def measure(bench: Bench) -> Result:
    """By kind of agent."""
    return {
        "python": _through(bench, "Python", python_agent(), None),
        "http": _through(bench, "HTTP", *_http_agent(bench.folder)),
    }


def python_agent() -> str:
    """Settings for the agent that does nothing."""
    return (
        'agents.ResponseListenerAgent.target = "python:noop_agent:handle"\n'
        f'agents.path = "{HERE}"\nagents.python = "{sys.executable}"'
    )


def _http_agent(folder: Path) -> tuple[str, Server]:
    port = free_port()
    server = Server(
        [sys.executable, str(HERE / "http_agent.py"), str(port)],
        port,
        core=None,
        output=folder / "http-agent",
    )
    return f'agents.ResponseListenerAgent.target = "http://127.0.0.1:{port}/"', server


def _through(bench: Bench, kind: str, settings: str, agent: Server | None) -> Result:
    folder = bench.new_folder("dispatching")
    with ExitStack() as stack:
        if agent is not None:
            stack.enter_context(running(agent))
        daemon = Installation(folder, settings)
        backlog = _fill(bench, daemon)
        server = stack.enter_context(running(daemon.start(core=None, dispatch=True)))
        callers = OpenLoop(
            server.port,
            bench.other_messages(int(RECEIVING_RATE * LONGEST_SECONDS)),
            rate=RECEIVING_RATE,
            seconds=LONGEST_SECONDS,
            core=None,
        )
        result = watch(daemon, backlog, {"cpu_us": server.own_cpu_seconds})
        received = callers.result()
    daemon.must_hold(received["accepted"], before=backlog)
    shutil.rmtree(folder)
    result |= {"receiving_rate": RECEIVING_RATE, "receiving_p99_ms": received["p99_ms"]}
    say(
        f"  {kind:6} agent  {result['rate']:7.0f}/s"
        f"  daemon {result['cpu_us']:.0f} µs CPU an event"
        f"  meanwhile received at {RECEIVING_RATE}/s: p99 {received['p99_ms']:.1f} ms"
    )
    return result


def _fill(bench: Bench, daemon: Installation) -> int:
    """Events that wait, received while nothing is dispatched."""
    with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
        result = as_much_as_possible(
            server.port,
            bench.messages,
            core=bench.cores.load,
            seconds=bench.seconds,
            connections=32,
        )
    daemon.must_hold(result["requests"] - result["refused"], repeated=result["repeated"])
    return daemon.count("events")


def watch(daemon: Installation, backlog: int, clocks: Mapping[str, Callable[[], float]]) -> Result:
    """The rate from the end of the warm-up until the backlog or the time is over, and how far each
    of these clocks, in seconds, went meanwhile: in microseconds an event.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (first := daemon.entries("done")) < min(WARM_UP_EVENTS, backlog // 10):
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing is dispatched: see {daemon.folder}")
        time.sleep(0.01)
    used = {name: clock() for name, clock in clocks.items()}
    started = time.monotonic()
    while (done := daemon.entries("done")) < backlog * 0.95:
        if time.monotonic() > started + LONGEST_SECONDS:
            break
        time.sleep(0.02)
    taken = time.monotonic() - started
    many = max(1, done - first)
    return {
        "events": many,
        "rate": round(many / taken, 1),
        **{name: round((clock() - used[name]) / many * 1e6, 1) for name, clock in clocks.items()},
    }
