"""Puts the tables of a run into pages, so that no figure is ever typed by hand.

Usage: python contrib/bench/pages.py

A page says where by a pair of lines, `<!-- bench: NAME -->` and `<!-- bench end -->`; what stands
between them is replaced. The figures are those of docs/performance.json.
"""

from __future__ import annotations

import json
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
    """Fills every place of every page.

    Raises:
        SystemExit: a page has a place for a table that was not measured.
    """
    made = {table.name: table.markdown() for table in tables(results)}
    short = summary(results)
    if short is not None:
        made[short.name] = short.markdown()
    for page in PAGES:
        if page.exists():
            page.write_text(_filled(page.read_text(), made, page.name))


def _filled(text: str, made: dict[str, str], page: str) -> str:
    def one(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        if name not in made:
            raise SystemExit(f"{page} has a place for {name}, which was not measured")
        return f"{begin}{made[name]}\n{end}"

    return _PLACE.sub(one, text)


def main() -> None:
    fill(json.loads(FIGURES.read_text()))
    say(f"filled from {FIGURES.name}: {', '.join(page.name for page in PAGES)}")


if __name__ == "__main__":
    main()
