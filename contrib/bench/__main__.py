"""Measures berinia-webhookd beside its peers, in one run and in turns.

Usage: python contrib/bench [--only PART,…] [--runs N] [--seconds N] [--output FOLDER]

Prints tables with ratios. A whole run also writes docs/performance.json and docs/performance.png
and fills the tables of the pages; part of one does so only where --output says.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import answering
import console
import declaring
import dispatching
import footprint
import isolation
import nodes
import pages
import picture
import receiving
import scaling
import stages
from bench import Bench, Result, say
from machine import Cores, describe
from peers import OLD_DESIGN_PYTHON
from report import tables

PARTS: dict[str, Callable[[Bench, Result], Result]] = {
    "receiving": lambda bench, _: receiving.measure(bench),
    "stages": lambda bench, _: stages.measure(bench),
    "declaring": lambda bench, _: declaring.measure(bench),
    "answering": lambda bench, results: answering.measure(bench, results.get("receiving")),
    "dispatching": lambda bench, _: dispatching.measure(bench),
    "isolation": lambda bench, _: isolation.measure(bench),
    "console": lambda bench, _: console.measure(bench),
    "footprint": lambda bench, _: footprint.measure(bench),
    "scaling": lambda bench, _: scaling.measure(bench),
    "nodes": lambda bench, _: nodes.measure(bench),
}
# The programs that all or some parts need.
PROGRAMS = ("wrk", "webhook", "taskset", "findmnt")
ENOUGH_RUNS = 5
BUSY = 0.5  # load average before the start, from which figures are doubtful


def main() -> None:
    options = _options()
    _check_programs()
    # What was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as name:
        results = _measure(options, Path(name))
    for table in tables(results):
        say(table.plain())
    say(f"\n{time.monotonic() - started:.0f} s in all")
    if set(options.only) == set(PARTS) and options.runs >= ENOUGH_RUNS:
        _write(results, options.output or pages.FIGURES.parent)
        if options.output is None:
            pages.fill(results)
    elif options.output is not None:
        _write(results, options.output)


def _check_programs() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}; run contrib/bench/install_programs")
    if not OLD_DESIGN_PYTHON.exists():
        raise SystemExit(
            f"missing: {OLD_DESIGN_PYTHON}; make bench makes it, or a virtual environment in "
            f"{OLD_DESIGN_PYTHON.parents[1]} with what contrib/bench/old_design.txt lists"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python contrib/bench", description=__doc__)
    parser.add_argument(
        "--only",
        type=_parts,
        default=list(PARTS),
        metavar="PART,…",
        help=f"of {', '.join(PARTS)}; all if not given",
    )
    parser.add_argument("--runs", type=int, default=ENOUGH_RUNS, help="of each peer")
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--events", type=int, default=1_000_000, help="in the long journal")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # on a disk, where /tmp may be memory
        help="where journals are kept meanwhile; must be on a disk",
    )
    parser.add_argument("--output", type=Path, help="folder for the figures and the picture")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",")]
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return [part for part in PARTS if part in chosen]


def _measure(options: argparse.Namespace, folder: Path) -> Result:
    bench = Bench(
        folder=folder,
        cores=Cores.of_this_machine(),
        runs=options.runs,
        seconds=options.seconds,
        events=options.events,
    )
    machine = describe(folder)
    if machine["load_before"] > BUSY:
        say(f"note: the machine is busy (load {machine['load_before']}); the figures will show it")
    if machine["file_system"] == "tmpfs":
        raise SystemExit(f"{options.folder} is in memory: give a --folder on a disk")
    results: Result = {
        "machine": machine,
        "options": {
            "runs": options.runs,
            "seconds": options.seconds,
            "taken_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        },
    }
    for part in options.only:
        began = time.monotonic()
        say(f"\n{part}")
        results[part] = PARTS[part](bench, results)
        say(f"  {time.monotonic() - began:.0f} s")
    return results


def _write(results: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / pages.FIGURES.name).write_text(_json(results))
    if {"receiving", "answering"} <= set(results):
        picture.draw(results, folder / pages.PICTURE.name)
    say(f"written to {folder}")


def _json(results: Result) -> str:
    """Indented, but lists of figures on one line each."""
    text = json.dumps(results, indent=2, ensure_ascii=False)
    return _joined(text) + "\n"


def _joined(text: str) -> str:
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if inside:
            lines[-1] += (" " if not lines[-1].endswith("[") else "") + line.strip()
            inside = not line.strip().startswith("]")
            if not inside:
                lines[-1] = lines[-1].replace(" ]", "]")
        else:
            lines.append(line)
            inside = line.endswith("[")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
