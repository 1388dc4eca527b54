"""The machine a benchmark ran on, and how its cores are shared out."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Of an environment of their own (see setup.cfg), inside that of the benchmark.
PEERS_PYTHON = Path(sys.prefix) / "peers" / "bin" / "python"
# Whose versions say what was compared.
LIBRARIES = ("aiohttp", "asyncpg", "uvloop", "twilio")
THEIR_LIBRARIES = ("fastapi", "uvicorn", "slowapi", "procrastinate", "psycopg", "celery", "redis")
QUIET_SECONDS = 0.04  # between two flushes: the disk has gone idle meanwhile


@dataclass(frozen=True)
class Cores:
    """One core for what is measured, another for who measures it."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise SystemExit("the benchmark needs two cores: one for the server, one for the load")
        return cls(server=allowed[0], load=allowed[1])


def describe(folder: Path) -> dict[str, Any]:
    """Names the machine: processor, memory, kernel, versions, and what `folder` lies on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "berinia-webhookd": version("berinia-webhookd"),
        "libraries": {name: version(name) for name in LIBRARIES} | _their_libraries(),
        "file_system": _file_system(folder),
        "flush_hot_ms": flush_ms(folder, times=100),
        "flush_cold_ms": flush_ms(folder, times=50, pause_seconds=QUIET_SECONDS),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _their_libraries() -> dict[str, str]:
    if not PEERS_PYTHON.exists():
        return {}
    ask = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"
    done = subprocess.run(
        [PEERS_PYTHON, "-c", ask, *THEIR_LIBRARIES], capture_output=True, text=True, check=True
    )
    return dict(zip(THEIR_LIBRARIES, done.stdout.split(), strict=True))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    found = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def flush_ms(folder: Path, *, times: int, pause_seconds: float = 0.0) -> float:
    """How long appending 4 KiB and flushing it to disk takes, the floor of a commit (median): one
    after the other, which is a hot flush, or with pauses, as when a request comes alone: cold.
    """
    file = folder / "flush"
    taken = []
    with file.open("wb", buffering=0) as out:
        for _ in range(times):
            time.sleep(pause_seconds)
            started = time.perf_counter()
            out.write(b"\0" * 4096)
            os.fdatasync(out.fileno())
            taken.append(time.perf_counter() - started)
    file.unlink()
    return round(statistics.median(taken) * 1000, 3)
