"""Each part of the benchmark, with counts so small that its figures say nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(2500)]

PROJECT = Path(__file__).parents[2]
BENCH = PROJECT / "contrib" / "bench"
PAGES = ("README.md", "docs/performance.md")
TINY = (
    "--runs",
    "1",
    "--seconds",
    "1",
    "--received",
    "300",
    "--events",
    "2000",
    "--minutes",
    "0.05",
)
PATIENCE_SECONDS = 1200  # of one run
SHORT = (
    *("receiving", "keeping", "stages", "channels", "answering", "dispatching", "nodes"),
    "footprint",
)
LONG = (
    *("crowd", "nginx", "overload", "http-agent", "nodes-dispatching", "isolation", "console"),
    *("scaling", "hour"),
)
KEEPING = (
    *("FastAPI, procrastinate", "FastAPI, Celery, always", "FastAPI, Celery, everysec"),
    "berinia-webhookd",
)


def run(*options: str, path: str | None = None) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, str(BENCH), *TINY, *options],
        env=os.environ | ({} if path is None else {"PATH": path}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with those of both whole runs."""
    folder = tmp_path_factory.mktemp("bench")
    run("--output", str(folder))
    run("--output", str(folder), "--long")
    return folder / "performance.json"


@pytest.fixture(scope="module")
def report(figures: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def test_every_part_was_measured(report: dict[str, Any]) -> None:
    """And nothing was absent, as the project's own files install it."""
    assert {*report["taken"]} == {*SHORT, *LONG}
    assert not any(report["absent"].values())
    assert {*SHORT, *LONG} <= {*report}


@pytest.mark.parametrize("part", ["receiving", "nginx"])
def test_each_peer_answers_and_costs_something(report: dict[str, Any], part: str) -> None:
    """CPU of the server that keeps its messages is part of it, for those that have one."""
    for name, peer in report[part].items():
        assert peer["rate"] > 0, name
        assert peer["cpu_us"] > peer["store_cpu_us"], name
        assert (peer["store_cpu_us"] > 0) is name.startswith("FastAPI,"), name


def test_who_promises_to_keep_keeps_it(report: dict[str, Any]) -> None:
    """The peers make two of a message that comes twice; the daemon makes one."""
    assert tuple(report["keeping"]) == KEEPING
    for name, peer in report["keeping"].items():
        assert peer["accepted"] > 0, name
        assert peer["lost"] == 0, name
        assert peer["statuses_of_two"] == [200, 200], name
        assert peer["kept_of_two"] == (1 if name == "berinia-webhookd" else 2), name


def test_half_of_capacity_is_told_by_cpu(report: dict[str, Any]) -> None:
    """Its rate is one at which the core was looked at; the others are given."""
    for name in ("bare aiohttp", "berinia-webhookd"):
        half, quiet = (report["answering"][load][name] for load in ("half", "quiet"))
        assert 0 < quiet["busy"] < half["busy"], name
        assert report["answering"]["rate"][name]["rate"] == 2000, name
    assert report["answering"]["flush_cold_ms"] > 0


def tables(page: str) -> Iterator[list[list[str]]]:
    """The cells of those that the benchmark fills."""
    for place in page.split("<!-- bench: ")[1:]:
        lines = place.partition("<!-- bench end -->")[0].splitlines()[1:]
        cells = [line.strip("|").split(" | ") for line in lines if line.startswith("|")]
        if cells:
            yield cells


def test_the_pages_are_filled_from_the_figures(figures: Path, tmp_path: Path) -> None:
    """Every place, with tables whose rows are as long as their heads, and the picture."""
    copies = [shutil.copy(PROJECT / page, tmp_path) for page in PAGES]
    subprocess.run(
        [sys.executable, str(BENCH / "pages.py"), "--figures", str(figures), *copies],
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    readme, page = (Path(copy).read_text() for copy in copies)
    for text in (readme, page):
        assert "not measured" not in text.lower()
        assert "performance.png" in text
        for table in tables(text):
            assert len({len(row) for row in table}) == 1, table
    assert all(f"<!-- bench: {part} -->" in page for part in (*SHORT, *LONG))
    assert len([*tables(page)]) == len([*SHORT, *LONG]) + len(["machine", "peers", "targets"])
    assert (figures.parent / "performance.png").stat().st_size > 10_000


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    """With why, and the others are measured."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for program in Path(folder).glob("*"):
            link = programs / program.name
            if program.name != "redis-server" and not link.is_symlink():
                link.symlink_to(program)
    printed = run("--only", "keeping", "--output", str(tmp_path / "out"), path=str(programs))
    found = json.loads((tmp_path / "out" / "performance.json").read_text())
    assert {*found["absent"]["keeping"]} == {"FastAPI, Celery, always", "FastAPI, Celery, everysec"}
    assert {*found["keeping"]} == {"FastAPI, procrastinate", "berinia-webhookd"}
    for why in found["absent"]["keeping"].values():
        assert "redis-server" in why
        assert why in printed
