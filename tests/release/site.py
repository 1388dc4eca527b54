"""Makes the documentation a site with a search, in `build/site/`: `python -m tests.release.site`.

The pages are those of `docs/` and those that stand elsewhere in the repository, as they are; what
they link to besides is beside them. A link that leads nowhere ends it with status 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

from .building import PROGRAMS, PROJECT

CONFIG: Final = "site.toml"
FOLDERS: Final = ("docs", "contrib")
PAGES: Final = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE")
LINK: Final = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def lay_out(project: Path, place: Path) -> None:
    """Lay the repository's pages out, the README as the first one."""
    shutil.rmtree(place, ignore_errors=True)
    for name in FOLDERS:
        out = shutil.ignore_patterns("__pycache__", CONFIG)
        shutil.copytree(project / name, place / name, ignore=out)
    for name in PAGES:
        shutil.copy(project / name, place / name)
    (place / "README.md").rename(place / "index.md")
    for page in place.rglob("*.md"):
        page.write_text(LINK.sub(partial(_on_the_site, page=page, place=place), page.read_text()))


def _on_the_site(link: re.Match[str], *, page: Path, place: Path) -> str:
    """The same link on the site: the README is its first page, a folder the page in it."""
    target, anchor = link[1], link[2] or ""
    if ":" in target:
        return link[0]
    there = (page.parent / target).resolve()
    if there.is_dir():
        target = f"{target.rstrip('/')}/README.md"
    elif there == place / "README.md":
        target = f"{target.removesuffix('README.md')}index.md"
    return f"]({target}{anchor})"


def make_site(project: Path, place: Path) -> int:
    """Build it below a folder; returns the exit status."""
    lay_out(project, place / "pages")
    shutil.copy(project / "docs" / CONFIG, place / "zensical.toml")
    command = ["zensical", "build", "--clean", "--strict", "--config-file", "zensical.toml"]
    environ = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [PROGRAMS / command[0], *command[1:]], cwd=place, env=environ, check=False
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(make_site(PROJECT, PROJECT / "build"))
