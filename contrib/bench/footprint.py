"""What the daemon takes of a machine: time to be ready, memory, and CPU while nothing comes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from bench import Bench, Result, median, say
from daemon import LOG_AGENT, Installation
from dispatching import python_agent
from load import OpenLoop, full_load
from processes import START_SECONDS, free_port, on_core, running

IDLE_SECONDS = 20
SETTLE_SECONDS = 2.0
RATE = 500  # events a second, for as long as wanted
LOOKS = 20
MOST_PER_SECOND = 6_000  # while it dispatches as well


def measure(bench: Bench) -> Result:
    """While nothing comes, and after many events, which were dispatched to `log:`."""
    folder = bench.new_folder("footprint")
    daemon = Installation(folder, LOG_AGENT)
    ready = [_ready_seconds(bench, daemon) for _ in range(bench.runs)]
    say(f"  ready after {', '.join(f'{seconds:.3f}' for seconds in ready)} s (first: new journal)")
    with running(daemon.start(core=bench.cores.server, dispatch=True)) as server:
        time.sleep(SETTLE_SECONDS)
        resident, used = server.resident_mib(), server.cpu_seconds()
        idle_seconds = min(IDLE_SECONDS, bench.seconds * 5)
        time.sleep(idle_seconds)
        idle = (server.cpu_seconds() - used) / idle_seconds * 100
        accepted = repeated = 0
        while daemon.count("events") < bench.received:
            result = full_load(
                server,
                bench.other_messages(bench.seconds * MOST_PER_SECOND),
                core=bench.cores.load,
                seconds=bench.seconds,
            )
            accepted, repeated = accepted + result["accepted"], repeated + result["repeated"]
        daemon.wait_until_dispatched(daemon.count("events"))
        loaded = server.resident_mib()
    daemon.must_hold(accepted, repeated=repeated)
    events = daemon.count("events")
    shutil.rmtree(folder)
    say(f"  resident {resident:.1f} MiB idle, {loaded:.1f} MiB after {events:,} events")
    say(f"  idle CPU {idle:.2f} %")
    return {
        "first_ready_seconds": round(ready[0], 3),
        "ready_seconds": median(ready[1:] or ready),
        "idle_resident_mib": round(resident, 1),
        "idle_cpu_percent": round(idle, 3),
        "events": events,
        "loaded_resident_mib": round(loaded, 1),
    }


def _ready_seconds(bench: Bench, daemon: Installation) -> float:
    """From the start of the process to READY=1, which systemd waits for."""
    address = daemon.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(address))
        supervisor.settimeout(START_SECONDS)
        started = time.monotonic()
        process = subprocess.Popen(
            on_core(bench.cores.server, daemon.command(free_port(), dispatch=True)),
            env={**os.environ, **daemon.environment, "NOTIFY_SOCKET": str(address)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"READY=1" not in supervisor.recv(65536).split(b"\n"):
                pass
            return time.monotonic() - started
        finally:
            process.terminate()
            process.wait()
            Path(address).unlink()


def measure_hour(bench: Bench) -> Result:
    """Resident memory, looked at now and then, while events at an even rate go through a Python
    agent; each must have been dispatched in the end.
    """
    seconds = bench.minutes * 60
    folder = bench.new_folder("hour")
    daemon = Installation(folder, python_agent())
    messages = bench.other_messages(int(seconds * RATE) + 1)
    sizes: list[float] = []
    with running(daemon.start(core=None, dispatch=True)) as server:
        callers = OpenLoop(
            server.port, messages, rate=RATE, seconds=seconds, core=None, even=True, sleeps=True
        )
        for look in range(1, LOOKS + 1):
            time.sleep(seconds / LOOKS)
            sizes.append(round(server.resident_mib(), 1))
            children = server.resident_mib(children=True) - sizes[-1]
            say(
                f"  {bench.minutes / LOOKS * look:5.1f} min  {daemon.entries('done'):9,} dispatched"
                f"  daemon {sizes[-1]:6.1f} MiB  agents {children:6.1f} MiB"
            )
        result = callers.result()
        daemon.wait_until_dispatched(result["accepted"])
    daemon.must_hold(result["accepted"])
    shutil.rmtree(folder)
    return {
        "minutes": bench.minutes,
        "rate": RATE,
        "accepted": result["accepted"],
        "offered": result["offered"],
        "resident_mib": sizes,
        "growth": round(sizes[-1] / sizes[LOOKS // 4 - 1], 3),  # since the first quarter
    }
