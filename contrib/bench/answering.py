"""How long an answer takes when callers do not wait for each other: at half of capacity, at a rate
that is the same for all, one at a time, and at twice the capacity.

Half of capacity is the rate at which the core is busy half of the time. It is looked for: a request
costs more when few come at once, so that half of the highest rate keeps the core busy far longer.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from bench import Bench, Result, median, medians, say
from daemon import LOG_AGENT, Installation
from load import OpenLoop, full_load, must_be_kept, warm_up
from machine import QUIET_SECONDS, flush_ms
from peers import BARE, DAEMON, peer
from processes import Server, running

NAMES = (BARE, DAEMON)
RATE = 2_000  # requests a second
QUIET_RATE = 25  # requests a second: each is alone
QUIET_RUN_SECONDS = 3
HALF = 0.5  # of a core
NEAR_ENOUGH = 0.03
MOST_TRIALS = 5
TWICE = 2.0
MANY_CONNECTIONS = 4096
# Less than the default, so that a short run can show that it is kept.
ACK_TIMEOUT_SECONDS = 3
OVERLOAD_SECONDS = 10


def measure(bench: Bench) -> Result:
    """By load, then by peer; and what a flush that comes alone took in between."""
    rates = {name: _half_of_capacity(bench, name) for name in NAMES}
    quiet_seconds = max(bench.seconds, QUIET_RUN_SECONDS)
    most = int((max(rates.values()) + RATE) * bench.seconds + QUIET_RATE * quiet_seconds)
    messages = bench.other_messages(most)
    flushes = []

    def one_run(name: str) -> Result:
        flushes.append(flush_ms(bench.folder, times=25, pause_seconds=QUIET_SECONDS))
        loads = (
            ("half", rates[name], bench.seconds),
            ("rate", RATE, bench.seconds),
            ("quiet", QUIET_RATE, quiet_seconds),
        )
        folder, first = bench.new_folder(name), 0
        found: Result = {}
        with closing(peer(name).install(bench, folder)) as receiver:
            with running(receiver.start()) as server:
                answered = warm_up(server.port, bench.first_messages)
                for load, rate, seconds in loads:
                    found[load] = _offered(
                        bench, server, messages, rate=rate, seconds=seconds, skip=first
                    )
                    first += found[load].pop("offered")
                    say(f"  {name:18} {_said(found[load])}")
            accepted = answered + sum(one.pop("accepted") for one in found.values())
            if peer(name).keeps:
                must_be_kept(accepted, len(set(receiver.kept())))
        shutil.rmtree(folder)
        return found

    taken = bench.take_turns(NAMES, one_run)
    return {
        **{
            load: {name: medians([one[load] for one in runs]) for name, runs in taken.items()}
            for load in ("half", "rate", "quiet")
        },
        "flush_cold_ms": median(flushes),
    }


def _offered(
    bench: Bench, server: Server, messages: Path, *, rate: float, seconds: float, skip: int = 0
) -> Result:
    """At an even rate when each is alone; `busy` is the part of the time that a core worked."""
    used = server.cpu_seconds()
    result = OpenLoop(
        server.port,
        messages,
        rate=rate,
        seconds=seconds,
        core=bench.cores.load,
        even=rate == QUIET_RATE,
        skip=skip,
    ).result()
    if result["accepted"] < result["offered"]:
        say(f"  {result['answers']}, {result['failed']} connections lost")
    keys = ("p50_ms", "p99_ms", "longest_answer_ms", "curve_ms", "accepted", "offered")
    busy = (server.cpu_seconds() - used) / seconds
    return {"rate": rate, "busy": busy} | {key: result[key] for key in keys}


def _said(found: Result) -> str:
    return (
        f"{found['rate']:6.0f}/s  busy {found['busy']:4.0%}"
        f"  p50 {found['p50_ms']:6.2f} ms  p99 {found['p99_ms']:6.2f} ms"
    )


def _half_of_capacity(bench: Bench, name: str) -> float:
    """Requests a second at which the core is busy half of the time."""
    folder = bench.new_folder(name)
    with (
        closing(peer(name).install(bench, folder)) as receiver,
        running(receiver.start()) as server,
    ):
        full = full_load(server, bench.messages, core=bench.cores.load, seconds=bench.seconds)
        rate = HALF / full["cpu_us"] * 1e6
        for _ in range(MOST_TRIALS):
            messages = bench.other_messages(int(rate * bench.seconds) + 1)
            found = _offered(bench, server, messages, rate=rate, seconds=bench.seconds)
            say(f"  {name:18} {_said(found)}, a trial")
            if abs(found["busy"] - HALF) < NEAR_ENOUGH:
                break
            rate *= HALF / found["busy"]
    shutil.rmtree(folder)
    return rate


def measure_overload(bench: Bench) -> Result:
    """Twice of what the daemon can take: it must say no, and in time."""
    folder = bench.new_folder("overload")
    settings = f"{LOG_AGENT}\nserver.ack_timeout_seconds = {ACK_TIMEOUT_SECONDS}"
    daemon = Installation(folder, settings)
    seconds = min(OVERLOAD_SECONDS, bench.seconds * 4)
    with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
        full = full_load(server, bench.messages, core=bench.cores.load, seconds=bench.seconds)
    with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
        before, rate = daemon.count("events"), full["rate"] * TWICE
        result = OpenLoop(
            server.port,
            bench.other_messages(int(rate * seconds) + 1),
            rate=rate,
            seconds=seconds,
            core=bench.cores.load,
            connections=MANY_CONNECTIONS,
        ).result()
        resident = server.resident_mib()
    daemon.must_hold(result["accepted"], before=before)
    shutil.rmtree(folder)
    result |= {
        "rate": round(rate, 1),
        "ack_timeout_seconds": ACK_TIMEOUT_SECONDS,
        "resident_mib": round(resident, 1),
    }
    say(
        f"  {rate:.0f}/s: answers {result['answers']}, {result['failed']} connections lost,"
        f" {result['unanswered']} unanswered, longest {result['longest_answer_ms']:.0f} ms"
    )
    return result
