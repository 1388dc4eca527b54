"""`make run`, as a newcomer calls it: what is said where it does not begin at once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.daemon import PATIENCE_SECONDS

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--file", str(MAKEFILE), "--directory", str(folder), *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(("status", "told"), [(4, True), (3, False)])
def test_a_port_that_is_taken_names_the_way_of_make(
    tmp_path: Path, status: int, told: bool
) -> None:
    """The program's own line names `--port`, which is nothing that make takes."""
    program = tmp_path / ".venv" / "bin" / "berinia-webhookd"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nexit {status}\n")
    program.chmod(0o755)
    for name in ("setup.cfg", "pyproject.toml", ".venv/installed"):
        (tmp_path / name).touch()
    done = run(tmp_path, "run")
    assert f"Error {status}" in done.stderr
    assert ("make run PORT=8017" in done.stderr) is told


def test_an_installation_says_that_it_takes_a_while(tmp_path: Path) -> None:
    """Before pip is silent for a minute."""
    for name in ("setup.cfg", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    (tmp_path / "python").chmod(0o755)
    done = run(tmp_path, "run", f"PYTHON={tmp_path}/python")
    assert done.stdout.startswith("python") or "Installing into .venv/" in done.stdout
    assert "Installing into .venv/" in done.stdout
