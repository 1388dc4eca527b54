"""Puts the tables of a run into pages, so that no figure is ever typed by hand.

Usage: python contrib/bench/pages.py

A page says where by a pair of lines, `<!-- bench: NAME -->` and `<!-- bench end -->`; what stands
between them is replaced. The figures are those of docs/performance.json.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from bench import Result, say
from report import summary, tables

PROJECT = Path(__file__).parents[2]
FIGURES = PROJECT / "docs" / "performance.json"
PICTURE = PROJECT / "docs" / "performance.png"
PAGES = (PROJECT / "README.md", PROJECT / "docs" / "performance.md")
_PLACE = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- bench end -->)", re.DOTALL)


def fill(results: Result) -> None:
    """Fills every place of every page; one whose table was not measured stays as it is."""
    made = {table.name: table.markdown() for table in tables(results)}
    short = summary(results)
    if short is not None:
        made[short.name] = short.markdown()
    if PICTURE.exists():
        made["picture"] = "![Throughput beside the peers, and how long answers take]({picture})"
    for page in PAGES:
        if page.exists():
            page.write_text(_filled(page, made))


def _filled(page: Path, made: dict[str, str]) -> str:
    def one(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        if name not in made:
            say(f"{page.name}: {name} was not measured, and stays as it is")
            return place.group()
        filling = made[name].replace("{picture}", os.path.relpath(PICTURE, page.parent))
        return f"{begin}{filling}\n{end}"

    return _PLACE.sub(one, page.read_text())


def main() -> None:
    fill(json.loads(FIGURES.read_text()))
    say(f"filled from {FIGURES.name}: {', '.join(page.name for page in PAGES)}")


if __name__ == "__main__":
    main()
