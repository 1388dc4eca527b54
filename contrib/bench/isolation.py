"""How long providers wait for their answers while every agent misbehaves, beside calm agents. The
daemon and its agents are not pinned. The callers stand for providers, whose machines our agents do
not slow down: they have the core that agents leave alone, which the daemon uses most.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial

from bench import Bench, Result, medians, say
from daemon import Installation
from load import HERE, OpenLoop
from processes import running

RATE = 50  # events a second, far more than hostile agents can take
SECONDS = 15
AGENTS = {"calm": "hostile_agent:calm", "hostile": "hostile_agent:handle"}


def measure(bench: Bench) -> Result:
    """Medians of answers, by what agents do; they take turns."""
    runs = bench.take_turns([*AGENTS], partial(_one_run, bench))
    return {"rate": RATE} | {name: medians(results) for name, results in runs.items()}


def _one_run(bench: Bench, name: str) -> Result:
    folder = bench.new_folder("isolation")
    daemon = Installation(folder, _settings(AGENTS[name]))
    seconds = min(SECONDS, bench.seconds * 5)
    messages = bench.other_messages(RATE * seconds + 1)
    with running(daemon.start(core=None, dispatch=True)) as server:
        result = OpenLoop(
            server.port,
            messages,
            rate=RATE,
            seconds=seconds,
            core=bench.cores.server,
            sleeps=True,
        ).result()
    daemon.must_hold(result["accepted"])
    result["hosts_ended"] = daemon.agent_log_lines("agent_host.killed")
    shutil.rmtree(folder)
    say(
        f"  {name:8} agents  p50 {result['p50_ms']:.2f} ms  p99 {result['p99_ms']:.2f} ms"
        f"  {result['hosts_ended']} agent hosts ended"
    )
    return {key: result[key] for key in ("p50_ms", "p99_ms", "longest_answer_ms", "hosts_ended")}


def _settings(target: str) -> str:
    return (
        f'agents.ResponseListenerAgent.target = "python:{target}"\n'
        "agents.ResponseListenerAgent.timeout_seconds = 1\n"
        "agents.ResponseListenerAgent.retry_schedule_seconds = [3600]\n"
        f'agents.path = "{HERE}"\nagents.python = "{sys.executable}"'
    )
