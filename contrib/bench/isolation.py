"""How long providers wait for their answers while every agent misbehaves, beside calm agents. The
daemon and its agents are not pinned. The callers stand for providers, whose machines our agents do
not slow down: they have the core that agents leave alone, which the daemon uses most.
"""

from __future__ import annotations

import shutil
import sys

from bench import Bench, Result, median, say
from daemon import Installation
from load import HERE, OpenLoop
from processes import running

RATE = 50  # events a second, far more than hostile agents can take
RUNS = 3
SECONDS = 15
AGENTS = {"calm": "hostile_agent:calm", "hostile": "hostile_agent:handle"}


def measure(bench: Bench) -> Result:
    """Medians of answers, by what agents do; they take turns."""
    runs: dict[str, list[Result]] = {name: [] for name in AGENTS}
    for _ in range(min(bench.runs, RUNS)):
        for name, target in AGENTS.items():
            result = _one_run(bench, target)
            runs[name].append(result)
            say(
                f"  {name:8} agents  p50 {result['p50_ms']:.2f} ms  p99 {result['p99_ms']:.2f} ms"
                f"  {result['hosts_ended']} agent hosts ended"
            )
    return {
        "rate": RATE,
        **{
            name: {
                key: median(result[key] for result in results)
                for key in ("p50_ms", "p99_ms", "longest_answer_ms", "hosts_ended")
            }
            for name, results in runs.items()
        },
    }


def _one_run(bench: Bench, target: str) -> Result:
    folder = bench.new_folder("isolation")
    daemon = Installation(folder, _settings(target))
    messages = bench.other_messages(RATE * SECONDS + 1)
    with running(daemon.start(core=None, dispatch=True)) as server:
        result = OpenLoop(
            server.port,
            messages,
            rate=RATE,
            seconds=SECONDS,
            core=bench.cores.server,
            sleeps=True,
        ).result()
    daemon.must_hold(result["offered"])
    ended = daemon.agent_log_lines("agent_host.killed")
    shutil.rmtree(folder)
    return result | {"hosts_ended": ended}


def _settings(target: str) -> str:
    return (
        f'agents.ResponseListenerAgent.target = "python:{target}"\n'
        "agents.ResponseListenerAgent.timeout_seconds = 1\n"
        "agents.ResponseListenerAgent.retry_schedule_seconds = [3600]\n"
        f'agents.path = "{HERE}"\nagents.python = "{sys.executable}"'
    )
