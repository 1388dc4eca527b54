"""A release: the next version in every place that says it, the day in the changelog, everything
built and checked, then one commit. Nothing is uploaded or pushed, and where something fails the
files are as they were.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from .building import PROJECT, build, hash_lines

VERSION: Final = re.compile(r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)")
MODULE: Final = Path("berinia_webhookd/__init__.py")
CHANGELOG: Final = Path("CHANGELOG.md")
UNRELEASED: Final = "## Unreleased\n"
# Where the name of the file to install stands; a line that goes back names an older one.
GUIDES: Final = ("README.md", "docs/*.md", "contrib/**/*.md")
_BACK: Final = "--allow-downgrades"


class Refused(Exception):
    """A release that is not to be made; says why."""


def release(version: str, project: Path = PROJECT, *, packages: bool = True) -> list[Path]:
    """Make the release. Without `packages` what is built is left out, for tests.

    Raises:
        Refused: nothing was changed.
        subprocess.CalledProcessError: something could not be built; nothing was changed either.
    """
    before = current(project)
    require_sensible(version, before, project)
    made: list[Path] = []
    try:
        bump(version, before, project)
        if packages:
            made = packed(project)
    except BaseException:
        git(project, "reset", "--quiet", "--hard", "HEAD")
        raise
    git(project, "commit", "--quiet", "--message", f"Release {version}")
    sys.stdout.write(
        f"Version {version} is committed and in dist/. What is left, once you have looked at it:\n"
        f"  git push && git tag v{version} && git push origin v{version}\n"
        f"  twine upload dist/berinia_webhookd-{version}{{-py3-none-any.whl,.tar.gz}}\n"
        "and to take it back: git reset --hard HEAD^\n"
    )
    return made


def current(project: Path) -> str:
    """The version as it is."""
    (found,) = re.findall(r'^__version__ = "(.+)"$', (project / MODULE).read_text(), re.MULTILINE)
    return str(found)


def require_sensible(version: str, before: str, project: Path) -> None:
    """Look before anything is changed.

    Raises:
        Refused: it must not be made.
    """
    if not VERSION.fullmatch(version):
        raise Refused("give the version as three numbers: make release VERSION=1.2.3")
    if numbers(version) <= numbers(before):
        raise Refused(f"{version} is not after {before}, which is the present version")
    if git(project, "status", "--porcelain"):
        raise Refused("the work tree has changes: commit them first, a release has none of its own")
    if not news(project).strip():
        raise Refused("CHANGELOG.md says nothing under Unreleased")
    if git(project, "tag", "--list", f"v{version}"):
        raise Refused(f"there is a tag v{version} already")


def numbers(version: str) -> tuple[int, ...]:
    """What versions are compared by."""
    return tuple(map(int, version.split(".")))


def news(project: Path) -> str:
    """What the changelog says of what is not released."""
    after = (project / CHANGELOG).read_text().partition(UNRELEASED)[2]
    return after.partition("\n## ")[0]


def bump(version: str, before: str, project: Path) -> None:
    """Write the version and the day everywhere, and make what is made from it."""
    replace(project / MODULE, f'__version__ = "{before}"', f'__version__ = "{version}"')
    today = datetime.now(UTC).date().isoformat()
    replace(project / CHANGELOG, UNRELEASED, f"{UNRELEASED}\n## {version} ({today})\n")
    named = re.compile(rf"(berinia[_-]webhookd[_-]){re.escape(before)}(?=[-_])")
    for pattern in GUIDES:
        for guide in project.glob(pattern):
            lines = guide.read_text().splitlines(keepends=True)
            new = [one if _BACK in one else named.sub(rf"\g<1>{version}", one) for one in lines]
            if new != lines:
                guide.write_text("".join(new))
    subprocess.run([sys.executable, "-m", "tests.tools.manual"], cwd=project, check=True)
    git(project, "add", "--update")


def replace(file: Path, old: str, new: str) -> None:
    """Replace what stands in a file once."""
    text = file.read_text()
    if text.count(old) != 1:
        raise Refused(f"{file.name} has {old.strip()!r} {text.count(old)} times, not once")
    file.write_text(text.replace(old, new))


def packed(project: Path) -> list[Path]:
    """Everything that is released, from what is to be committed."""
    dist = project / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    made = build(git(project, "write-tree").strip(), dist)
    subprocess.run(["make", "--no-print-directory", "deb"], cwd=project, check=True)
    packages = sorted(dist.glob("*.deb"))
    with (dist / "SHA256SUMS").open("a") as hashes:
        hashes.writelines(hash_lines(packages))
    return [*made, *packages]


def git(project: Path, *words: str) -> str:
    """What a command of git prints."""
    done = subprocess.run(
        ["git", *words], cwd=project, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
