"""Measures berinia-webhookd beside its peers, in one run and in turns.

Usage: python contrib/bench [--long] [--only PART,…] [--runs N] [--seconds N] [--write]

Prints tables with ratios, and what is not there and why. A whole run, or one with --write, also
keeps the figures of the parts that it measured in docs/performance.json, and makes
docs/performance.png and the tables of the pages from all that is kept there. Exit code 1: a part
could not be measured.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import answering
import channels
import console
import dispatching
import footprint
import isolation
import keeping
import nodes
import pages
import picture
import receiving
import scaling
import stages
from absent import Absent
from bench import Bench, Result, say
from machine import Cores, describe
from report import tables

Part = Callable[[Bench], Result]
SHORT: dict[str, Part] = {
    "receiving": receiving.measure,
    "keeping": keeping.measure,
    "stages": stages.measure,
    "channels": channels.measure,
    "answering": answering.measure,
    "dispatching": dispatching.measure,
    "nodes": nodes.measure,
    "footprint": footprint.measure,
}
LONG: dict[str, Part] = {
    "crowd": receiving.measure_crowd,
    "nginx": receiving.measure_behind_nginx,
    "overload": answering.measure_overload,
    "http-agent": dispatching.measure_http,
    "nodes-dispatching": nodes.measure_dispatching,
    "isolation": isolation.measure,
    "console": console.measure,
    "scaling": scaling.measure,
    "hour": footprint.measure_hour,
}
PARTS = SHORT | LONG
PROGRAMS = ("wrk", "taskset", "findmnt")  # that nothing can be measured without
ENOUGH_RUNS = 5
BUSY = 0.5  # load average before the start, from which figures are doubtful


def main() -> None:
    options = _options()
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}; make bench installs them")
    # What was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as name:
        results = _measure(options, Path(name))
    for table in tables(results):
        say(table.plain())
    say(f"\n{time.monotonic() - started:.0f} s in all")
    if options.output is not None:
        _keep(results, options.output)
    elif options.write or (options.only is None and options.runs >= ENOUGH_RUNS):
        pages.fill(_keep(results, pages.FIGURES.parent))
    if any(part in missing for part, missing in results["absent"].items()):
        raise SystemExit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python contrib/bench", description=__doc__)
    parser.add_argument(
        "--long", action="store_true", help=f"measure what takes longer: {', '.join(LONG)}"
    )
    parser.add_argument(
        "--only", type=_parts, metavar="PART,…", help=f"of {', '.join(PARTS)}, in place of all"
    )
    parser.add_argument("--runs", type=int, default=ENOUGH_RUNS, help="of each")
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument(
        "--received", type=int, default=100_000, help="events after which memory is looked at"
    )
    parser.add_argument("--events", type=int, default=10_000_000, help="in the long journal")
    parser.add_argument("--minutes", type=float, default=60, help="that memory must stay flat")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # on a disk, where /tmp may be memory
        help="where journals are kept meanwhile; must be on a disk",
    )
    parser.add_argument(
        "--write", action="store_true", help="keep what was measured, parts as well"
    )
    parser.add_argument("--output", type=Path, help="keep it in that folder, and fill no page")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",")]
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return chosen


def _measure(options: argparse.Namespace, folder: Path) -> Result:
    machine = describe(folder)
    if machine["load_before"] > BUSY:
        say(f"note: the machine is busy (load {machine['load_before']}); the figures will show it")
    if machine["file_system"] == "tmpfs":
        raise SystemExit(f"{options.folder} is in memory: give a --folder on a disk")
    results: Result = {"machine": machine, "taken": {}, "absent": {}}
    bench = Bench(
        folder=folder,
        cores=Cores.of_this_machine(),
        runs=options.runs,
        seconds=options.seconds,
        received=options.received,
        events=options.events,
        minutes=options.minutes,
    )
    with bench:
        for part in options.only or (LONG if options.long else SHORT):
            began = time.monotonic()
            say(f"\n{part}")
            bench.absent.clear()
            try:
                results[part] = PARTS[part](bench)
            except (Absent, SystemExit) as reason:  # the other parts may be worth having
                bench.leave_out(part, reason)
            results["absent"][part] = dict(bench.absent)
            results["taken"][part] = {
                "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
                "version": machine["berinia-webhookd"],
                "runs": options.runs,
                "seconds": options.seconds,
            }
            say(f"  {time.monotonic() - began:.0f} s")
    return results


def _keep(results: Result, folder: Path) -> Result:
    """Beside the parts that were measured another time, if they are kept there; gives all."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / pages.FIGURES.name
    kept: Result = json.loads(figures.read_text()) if figures.exists() else {}
    for part in results["absent"]:
        kept.pop(part, None)
    by_part = {name: kept.get(name, {}) | results[name] for name in ("taken", "absent")}
    kept |= results | by_part
    # Lists of figures on one line each.
    text = json.dumps(kept, indent=2, ensure_ascii=False)
    figures.write_text(re.sub(r"\[[^][{}]*\]", lambda found: _on_one_line(found[0]), text) + "\n")
    if set(kept) >= picture.MEASURED:
        picture.draw(kept, folder / pages.PICTURE.name)
    say(f"kept in {folder}")
    return kept


def _on_one_line(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).replace("[ ", "[").replace(" ]", "]")


if __name__ == "__main__":
    main()
