"""Puts the tables of the figures that are kept into pages, so that none is ever typed by hand.

Usage: python contrib/bench/pages.py [--figures FILE] [PAGE…]

A page says where by a pair of lines, `<!-- bench: NAME -->` and `<!-- bench end -->`; what stands
between them is replaced. Without arguments: docs/performance.json, README.md and
docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import picture
from bench import Result, say
from report import PARTS, summary, tables

PROJECT = Path(__file__).parents[2]
FIGURES = PROJECT / "docs" / "performance.json"
PICTURE = PROJECT / "docs" / "performance.png"
PAGES = (PROJECT / "README.md", PROJECT / "docs" / "performance.md")
_PLACE = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- bench end -->)", re.DOTALL)


def fill(results: Result, pages: Sequence[Path] = PAGES) -> None:
    """Fills every place of every page; one that nothing was measured for says so."""
    made = {table.name: table.markdown() for table in tables(results)}
    made.setdefault("absent", "Everything was there.")
    short = summary(results)
    if short is not None:
        made[short.name] = short.markdown()
    for page in pages:
        if set(results) >= picture.MEASURED:
            place = os.path.relpath(PICTURE, page.parent)
            made["picture"] = (
                f"![Rate and CPU beside the peers, and how long answers take]({place})"
            )
        page.write_text(_PLACE.sub(lambda place: _filled(place, made), page.read_text()))


def _filled(place: re.Match[str], made: dict[str, str]) -> str:
    begin, name, end = place.groups()
    option = f" BENCH='--only {name} --write'" if name in PARTS else ""
    missing = f"Not measured yet: `make bench{option}` does it."
    return f"{begin}{made.get(name, missing)}\n{end}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python contrib/bench/pages.py", description=__doc__)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, metavar="PAGE")
    options = parser.parse_args()
    fill(json.loads(options.figures.read_text()), options.pages)
    say(f"filled from {options.figures.name}: {', '.join(page.name for page in options.pages)}")


if __name__ == "__main__":
    main()
