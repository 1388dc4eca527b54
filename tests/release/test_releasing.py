"""Making a release, in a clone that is thrown away."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from .building import PROJECT, released_at
from .releasing import Refused, current, git, news, release

NEXT = "98.7.6"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The last commit of this project, with news for a release."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", PROJECT, folder], check=True)
    for name, value in (("user.name", "Nobody"), ("user.email", "nobody@example.com")):
        git(folder, "config", name, value)
    changelog = folder / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace("## Unreleased\n", "## Unreleased\n\n- Something new.\n", 1)
    )
    git(folder, "commit", "--quiet", "--all", "--message", "Say what is new")
    return folder


def test_a_release_is_one_commit_that_says_its_version_everywhere(clone: Path) -> None:
    """The module, the changelog with the day, manual pages and the lines that install it."""
    before = current(clone)
    begun = datetime.now(UTC).date()
    release(NEXT, clone, packages=False)
    assert current(clone) == NEXT
    assert git(clone, "log", "-1", "--format=%s").strip() == f"Release {NEXT}"
    assert git(clone, "status", "--porcelain") == ""
    changelog = (clone / "CHANGELOG.md").read_text()
    (day,) = re.findall(rf"^## {re.escape(NEXT)} \((.+)\)$", changelog, re.MULTILINE)
    assert begun.isoformat() <= day <= datetime.now(UTC).date().isoformat()
    assert news(clone).strip() == ""
    assert changelog.index("## Unreleased") < changelog.index(f"## {NEXT}")
    assert "- Something new." in changelog.partition(f"## {NEXT}")[2]
    assert datetime.fromtimestamp(released_at(changelog), UTC).date().isoformat() == day
    for page in (clone / "contrib/man").glob("*.1"):
        assert f"berinia-webhookd {NEXT}" in page.read_text()
    installs = re.findall(
        r"^.*install.*berinia[_-]webhookd[_-]([\d.]+)[_-].*$", _guides(clone), re.MULTILINE
    )
    assert NEXT in installs
    kept = re.findall(
        r"--allow-downgrades \S*berinia-webhookd_([\d.]+)_", _guides(clone), re.MULTILINE
    )
    assert before != NEXT
    assert kept
    assert NEXT not in kept  # the way back leads to an older one


def _guides(clone: Path) -> str:
    return "\n".join(one.read_text() for one in (clone / "README.md", *clone.glob("docs/*.md")))


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.2", "three numbers"),
        ("v1.2.3", "three numbers"),
        ("1.02.3", "three numbers"),
        ("", "three numbers"),
        ("0.0.1", "is not after"),
    ],
)
def test_a_version_that_is_none_or_comes_before_is_refused(
    clone: Path, version: str, reason: str
) -> None:
    """With nothing changed."""
    with pytest.raises(Refused, match=reason):
        release(version, clone, packages=False)
    assert git(clone, "status", "--porcelain") == ""


def test_what_is_not_committed_or_says_nothing_new_is_refused(clone: Path) -> None:
    """A release holds nothing that nobody has seen, and something that somebody wants."""
    release(NEXT, clone, packages=False)
    with pytest.raises(Refused, match="is not after"):
        release(NEXT, clone, packages=False)
    with pytest.raises(Refused, match="nothing under Unreleased"):
        release("99.0.0", clone, packages=False)
    (clone / "new").touch()
    with pytest.raises(Refused, match="work tree has changes"):
        release("99.0.0", clone, packages=False)


def test_where_something_cannot_be_built_nothing_is_changed(clone: Path) -> None:
    """No commit, and every file as it was."""
    pins = clone / "contrib/build-requirements.txt"
    pins.write_text(re.sub(r"sha256:\w{64}", f"sha256:{'0' * 64}", pins.read_text()))
    git(clone, "commit", "--quiet", "--all", "--message", "Break the pins")
    commit = git(clone, "rev-parse", "HEAD")
    with pytest.raises(subprocess.CalledProcessError):
        release(NEXT, clone)
    assert git(clone, "rev-parse", "HEAD") == commit
    assert git(clone, "status", "--porcelain") == ""
    assert current(clone) != NEXT
