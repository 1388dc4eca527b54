"""What each stage costs a request, in microseconds of CPU: what the kernel counted for each thread,
shared out by what py-spy saw that thread do.

A sample belongs to the innermost module of the daemon on the stack, so that a library's time is
that of the stage which called it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

from absent import BY_MAKE, Absent
from bench import Bench, Result, say
from daemon import Installation
from load import as_much_as_possible
from processes import running

SAMPLES_PER_SECOND = 250
CONNECTIONS = 32
PY_SPY = Path(sys.prefix) / "bin" / "py-spy"

# The first that a frame, spelled `module.py function`, matches.
_STAGES = (
    ("HTTP: parse the request, write the answer", r"accept/aiohttp_limits\.py"),
    ("request id, log line and metrics of a request", r"accept/request_context\.py"),
    ("signature", r"accept/signature_check\.py|channels/signatures|verify"),
    ("decode and validate", r"channels/|model\.py|urlencoded\.py"),
    ("proxy headers, limits, body, answer", r"accept/|addresses\.py|clock\.py"),
    ("log lines", r"logs/"),
    ("metrics", r"metrics\.py"),
    ("journal, on the event loop", r"journal/|json_text\.py"),
    ("aiohttp and the event loop outside all these", r""),
)
_OURS = re.compile(r"(\S+) \((?:\S*/)?berinia_webhookd/(\S+):\d+\)")
_THREAD = re.compile(r"thread \((\d+)\): ([^;]*)")


def measure(bench: Bench) -> Result:
    """Microseconds by stage, of one run at full load; raises `Absent`."""
    if not PY_SPY.exists():
        raise Absent("no py-spy", BY_MAKE)
    folder = bench.new_folder("stages")
    daemon = Installation(folder)
    samples = folder / "samples"
    messages = bench.messages
    with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
        spy = _watch(server.pid, samples, bench.seconds)
        before = _thread_seconds(server.pid)
        result = as_much_as_possible(
            server.port,
            messages,
            core=bench.cores.load,
            seconds=bench.seconds,
            connections=CONNECTIONS,
        )
        used = {
            thread: seconds - before.get(thread, 0.0)
            for thread, seconds in _thread_seconds(server.pid).items()
        }
        complaint, _ = spy.communicate()
    if not samples.exists():
        raise Absent("py-spy may not look at the daemon, as root it may", complaint.strip())
    shares = _shares(samples.read_text(), server.pid)
    shutil.rmtree(folder)
    return _costs(used, shares, int(result["requests"]))


def _watch(pid: int, samples: Path, seconds: int) -> subprocess.Popen[str]:
    """py-spy, which has begun; or has ended with a complaint."""
    spy = subprocess.Popen(
        [
            *(str(PY_SPY), "record", "--pid", str(pid), "--threads"),
            *("--rate", str(SAMPLES_PER_SECOND), "--duration", str(seconds)),
            *("--format", "raw", "--output", str(samples)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert spy.stdout is not None
    for line in spy.stdout:
        if "Sampling process" in line:
            break
    return spy


def _costs(used: dict[int, float], shares: dict[int, Counter[str]], requests: int) -> Result:
    costs: Counter[str] = Counter()
    for thread, seconds in used.items():
        seen = shares.get(thread)
        if seen:
            for stage, many in seen.items():
                costs[stage] += seconds * many / seen.total()
        elif seconds:
            costs["other threads"] += seconds
    by_cost = {stage: round(cost / requests * 1e6, 1) for stage, cost in costs.most_common()}
    for stage, cost in by_cost.items():
        say(f"  {stage:50} {cost:7.1f} µs")
    return {"stages_us": by_cost, "total_us": round(sum(by_cost.values()), 1)}


def _thread_seconds(pid: int) -> dict[int, float]:
    """CPU time of each thread, which the kernel counts in nanoseconds."""
    return {
        int(task.parent.name): int(task.read_text().split()[0]) / 1e9
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    }


def _shares(samples: str, main_thread: int) -> dict[int, Counter[str]]:
    """Samples by thread and stage. What other threads do is not told apart: they also wait for the
    disk, which py-spy takes for work.
    """
    shares: dict[int, Counter[str]] = defaultdict(Counter)
    for line in samples.splitlines():
        stack, _, many = line.rpartition(" ")
        found = _THREAD.match(stack)
        if found is None:
            continue
        thread = int(found[1])
        stage = _stage(stack) if thread == main_thread else f"all of the thread “{found[2]}”"
        shares[thread][stage] += int(many)
    return shares


def _stage(stack: str) -> str:
    function, module = (_OURS.findall(stack) or [("", "")])[-1]
    frame = f"{module} {function}"
    return next(name for name, pattern in _STAGES if re.search(pattern, frame))
