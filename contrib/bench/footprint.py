"""What the daemon takes of a machine: time to be ready, memory, and CPU while nothing comes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from bench import Bench, Result, median, say
from daemon import Installation
from load import as_much_as_possible
from processes import START_SECONDS, free_port, on_core, running

STARTS = 5
IDLE_SECONDS = 20
SETTLE_SECONDS = 2.0


def measure(bench: Bench) -> Result:
    """Without any agent."""
    folder = bench.new_folder("footprint")
    daemon = Installation(folder, "")
    ready = [_ready_seconds(bench, daemon) for _ in range(STARTS)]
    say(f"  ready after {', '.join(f'{seconds:.3f}' for seconds in ready)} s (first: new journal)")
    result = {
        "first_ready_seconds": round(ready[0], 3),
        "ready_seconds": median(ready),
        **_at_rest(bench, daemon),
    }
    say(
        f"  resident {result['idle_resident_mib']:.1f} MiB idle, "
        f"{result['loaded_resident_mib']:.1f} MiB after load; "
        f"idle CPU {result['idle_cpu_percent']:.2f} %"
    )
    shutil.rmtree(folder)
    return result


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


def _at_rest(bench: Bench, daemon: Installation) -> Result:
    with running(daemon.start(core=bench.cores.server, dispatch=True)) as server:
        time.sleep(SETTLE_SECONDS)
        resident, used = server.resident_mib(), server.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        idle = (server.cpu_seconds() - used) / IDLE_SECONDS * 100
        as_much_as_possible(
            server.port,
            bench.messages,
            core=bench.cores.load,
            seconds=bench.seconds,
            connections=256,
        )
        return {
            "idle_resident_mib": round(resident, 1),
            "loaded_resident_mib": round(server.resident_mib(), 1),
            "idle_cpu_percent": round(idle, 3),
        }
