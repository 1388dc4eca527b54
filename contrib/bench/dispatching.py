"""Events per second through an agent that does nothing, while receiving goes on. Nothing is pinned:
agent hosts have the cores that a real machine gives them.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from bench import Bench, Result, medians, say
from daemon import LOG_AGENT, Installation
from load import HERE, OpenLoop, full_load
from processes import Server, free_port, running, wait_until

RECEIVING_RATE = 200  # a second, meanwhile
# The first ones are not counted: agent hosts start on first use.
WARM_UP_EVENTS = 200
PYTHON, HTTP = "Python", "HTTP"


def measure(bench: Bench) -> Result:
    """A Python agent."""
    return _through(bench, PYTHON)


def measure_http(bench: Bench) -> Result:
    """An agent that is asked over HTTP."""
    return _through(bench, HTTP)


def python_agent() -> str:
    """Settings for the agent that does nothing."""
    return (
        'agents.ResponseListenerAgent.target = "python:noop_agent:handle"\n'
        f'agents.path = "{HERE}"\nagents.python = "{sys.executable}"'
    )


def _through(bench: Bench, kind: str) -> Result:
    backlog = Installation(bench.new_folder("backlog"), LOG_AGENT)
    with running(backlog.start(core=bench.cores.server, dispatch=False)) as server:
        full = full_load(
            server, bench.messages, core=bench.cores.load, seconds=bench.seconds, connections=32
        )
    backlog.must_hold(full["accepted"], repeated=full["repeated"])
    taken = bench.take_turns([kind], partial(_one_run, bench, backlog))
    shutil.rmtree(backlog.folder)
    return medians(taken[kind]) | {"receiving_rate": RECEIVING_RATE}


def _one_run(bench: Bench, backlog: Installation, kind: str) -> Result:
    """With a copy of a journal in which events wait, so that all runs have the same to do."""
    folder = bench.new_folder("dispatching")
    waiting = backlog.count("events")
    seconds = bench.seconds * 2  # longer than is looked at
    with ExitStack() as stack:
        settings = python_agent()
        if kind == HTTP:
            agent = stack.enter_context(running(_http_agent(bench)))
            settings = f'agents.ResponseListenerAgent.target = "http://127.0.0.1:{agent.port}/"'
        daemon = Installation(folder, settings)
        backlog.copy_journal(daemon)
        server = stack.enter_context(running(daemon.start(core=None, dispatch=True)))
        callers = OpenLoop(
            server.port,
            bench.other_messages(RECEIVING_RATE * seconds),
            rate=RECEIVING_RATE,
            seconds=seconds,
            core=None,
            sleeps=True,
        )
        result = watch(daemon, waiting, bench.seconds, {"cpu_us": server.cpu_seconds})
        received = callers.result()
    daemon.must_hold(received["accepted"], before=waiting)
    shutil.rmtree(folder)
    say(
        f"  {kind:6} agent  {result['rate']:7.0f}/s  {result['cpu_us']:.0f} µs CPU an event"
        f"  receiving {RECEIVING_RATE}/s meanwhile: p99 {received['p99_ms']:.1f} ms"
    )
    return result | {"receiving_p99_ms": received["p99_ms"]}


def _http_agent(bench: Bench) -> Server:
    port = free_port()
    return Server(
        [sys.executable, str(HERE / "http_agent.py"), str(port)],
        port,
        core=None,
        output=bench.new_folder("http-agent"),
    )


def watch(
    daemon: Installation,
    backlog: int,
    seconds: float,
    clocks: Mapping[str, Callable[[], float]],
    *,
    before: int = 0,
) -> Result:
    """The rate from the end of the warm-up until the backlog or the time is over, and how far each
    of these clocks, in seconds, went meanwhile: in microseconds an event. So many were done before.
    """
    wait_until(lambda: daemon.entries("done") - before >= min(WARM_UP_EVENTS, backlog // 10))
    first = daemon.entries("done")
    used = {name: clock() for name, clock in clocks.items()}
    started = time.monotonic()
    while (done := daemon.entries("done")) - before < backlog * 0.95:
        if time.monotonic() > started + seconds:
            break
        time.sleep(0.02)
    taken = time.monotonic() - started
    many = max(1, done - first)
    return {
        "events": many,
        "rate": round(many / taken, 1),
        **{name: round((clock() - used[name]) / many * 1e6, 1) for name, clock in clocks.items()},
    }
