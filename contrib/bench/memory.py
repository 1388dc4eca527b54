"""Whether memory stays flat: events at an even rate through a Python agent, for as long as wanted.

Usage: python contrib/bench/memory.py [--minutes 60] [--rate 100] [--folder /var/tmp]

Prints the resident memory of the daemon and of its children, twenty times. Exit code 1: the daemon
is more than a tenth larger at the end than after the first quarter, or an answer of 2xx has no
event, or an event was not dispatched.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from bench import say
from daemon import Installation
from dispatching import python_agent
from load import OpenLoop
from messages import write_messages
from processes import running

LOOKS = 20
MOST_GROWTH = 1.1
DRAIN_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python contrib/bench/memory.py", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=100, help="events a second")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-", dir=options.folder) as name:
        _watch(Path(name), options.minutes * 60, options.rate)


def _watch(folder: Path, seconds: float, rate: float) -> None:
    messages = write_messages(folder / "messages", int(seconds * rate) + 1, first=1)
    daemon = Installation(folder / "daemon", python_agent())
    sizes: list[float] = []
    with running(daemon.start(core=None, dispatch=True)) as server:
        callers = OpenLoop(
            server.port, messages, rate=rate, seconds=seconds, core=None, even=True, sleeps=True
        )
        for look in range(1, LOOKS + 1):
            time.sleep(seconds / LOOKS)
            sizes.append(server.resident_mib())
            children = server.resident_mib(children=True) - sizes[-1]
            say(
                f"{seconds / LOOKS * look / 60:5.1f} min  {daemon.entries('done'):9,} dispatched"
                f"  daemon {sizes[-1]:6.1f} MiB  agents {children:6.1f} MiB"
            )
        result = callers.result()
        daemon.must_hold(result["accepted"])
        deadline = time.monotonic() + DRAIN_SECONDS
        while daemon.entries("done") < result["accepted"] and time.monotonic() < deadline:
            time.sleep(0.1)
        done = daemon.entries("done")
    growth = sizes[-1] / sizes[LOOKS // 4 - 1]
    say(
        f"{result['accepted']:,} accepted of {result['offered']:,}, {done:,} dispatched;"
        f" {growth:.3f} of the memory after the first quarter"
    )
    if done < result["accepted"] or growth > MOST_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
