"""How long an answer takes: at half of capacity, at twice the capacity, and one at a time."""

from __future__ import annotations

import shutil

from bench import Bench, Result, median, say
from daemon import LOG_AGENT, Installation
from load import OpenLoop
from peers import BARE, DAEMON, Peer, peer
from processes import running
from receiving import CONNECTIONS, capacity

HALF, TWICE = 0.5, 2.0
MANY_CONNECTIONS = 4096
# Less than the default, so that a short run can show that it is kept.
ACK_TIMEOUT_SECONDS = 3
OVERLOAD_SECONDS = 10
QUIET_RATE = 25  # requests a second: each is alone


def measure(bench: Bench, received: Result | None) -> Result:
    """Args:
    bench: how.
    received: what `receiving` found, for the capacities; they are measured now if it was left out.
    """
    found = (received or {}).get(str(CONNECTIONS[0]), {})
    rates = {
        name: found[name]["rate"] if found else capacity(bench, name) for name in (BARE, DAEMON)
    }
    return {
        "half": _alternating(bench, {name: rate * HALF for name, rate in rates.items()}),
        "quiet": _alternating(bench, dict.fromkeys(rates, QUIET_RATE), even=True),
        "overload": _overload(bench, rates[DAEMON] * TWICE),
    }


def _alternating(bench: Bench, rates: dict[str, float], *, even: bool = False) -> Result:
    runs: dict[str, list[Result]] = {name: [] for name in rates}
    for _ in range(min(bench.runs, 3)):
        for name, rate in rates.items():
            result = _one_run(bench, peer(name), rate, even=even)
            runs[name].append(result)
            say(
                f"  {name:28} at {rate:6.0f}/s  p50 {result['p50_ms']:6.2f} ms"
                f"  p99 {result['p99_ms']:7.2f} ms  longest {result['longest_answer_ms']:.1f} ms"
            )
    return {
        name: {
            "offered_rate": round(rates[name], 1),
            **{
                key: median(result[key] for result in results)
                for key in ("p50_ms", "p99_ms", "longest_answer_ms")
            },
            "curve_ms": [
                median(points)
                for points in zip(*(result["curve_ms"] for result in results), strict=True)
            ],
        }
        for name, results in runs.items()
    }


def _one_run(bench: Bench, one: Peer, rate: float, *, even: bool) -> Result:
    folder = bench.new_folder(one.name)
    with running(one.start(folder, bench.cores.server)) as server:
        result = OpenLoop(
            server.port,
            bench.messages,
            rate=rate,
            seconds=bench.seconds,
            core=bench.cores.load,
            even=even,
        ).result()
    if one.dispatches is not None:
        Installation(folder).must_hold(result["accepted"])
    shutil.rmtree(folder)
    if result["accepted"] < result["offered"]:
        say(f"  {one.name}: {result['answers']}, {result['failed']} connections lost")
    return result


def _overload(bench: Bench, rate: float) -> Result:
    """Twice of what the daemon can take: it must say no, and in time."""
    folder = bench.new_folder("overload")
    settings = f"{LOG_AGENT}\nserver.ack_timeout_seconds = {ACK_TIMEOUT_SECONDS}"
    daemon = Installation(folder, settings)
    messages = bench.other_messages(int(rate * OVERLOAD_SECONDS) + 1)
    with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
        result = OpenLoop(
            server.port,
            messages,
            rate=rate,
            seconds=OVERLOAD_SECONDS,
            core=bench.cores.load,
            connections=MANY_CONNECTIONS,
        ).result()
        resident = server.resident_mib()
    daemon.must_hold(result["accepted"])
    shutil.rmtree(folder)
    result |= {
        "offered_rate": round(rate, 1),
        "ack_timeout_seconds": ACK_TIMEOUT_SECONDS,
        "accepted_rate": round(result["accepted"] / OVERLOAD_SECONDS, 1),
        "resident_mib": round(resident, 1),
    }
    say(
        f"  twice the capacity, {rate:.0f}/s: answers {result['answers']}, "
        f"{result['failed']} connections lost, {result['unanswered']} unanswered, "
        f"longest {result['longest_answer_ms']:.0f} ms"
    )
    return result
