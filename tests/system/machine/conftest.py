"""Fixtures: the package, an image of Debian 12 without it, and machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from berinia_webhookd import __version__
from tests.absent import absent

from .machine import PROJECT, Machine

SOURCES = ("berinia_webhookd", "contrib", "docs", "setup.cfg", "pyproject.toml")
TEXTS = ("README.md", "LICENSE", "CHANGELOG.md")
# What is there before: what the package depends on, and what the guides speak of.
INCLUDED = "systemd,systemd-sysv,dbus,python3,logrotate,nginx-light,nftables,postgresql"
LATER = "99.0.0"


@dataclass(frozen=True)
class Packages:
    """Two versions of it, by the names that they have inside a machine."""

    folder: Path
    current: str
    later: str


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A folder for what is made once a run, on disk and gone afterwards."""
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        absent("only root can boot a machine, with Debian's systemd-container")
    folder = Path(tempfile.mkdtemp(prefix="berinia-machines-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def packages(workshop: Path) -> Packages:
    """As `make deb` makes it, and the same with a later version."""
    copy = workshop / "checkout"
    copy.mkdir()
    for name in SOURCES[:3]:
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*SOURCES[3:], *TEXTS):
        shutil.copy(PROJECT / name, copy)
    # Size matters to nobody here.
    quick = {"DPKG_DEB_COMPRESSOR_TYPE": "gzip", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
    made = subprocess.run(
        [copy / "contrib/debian/build"],
        env=os.environ | quick,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    [current] = (copy / "dist").glob("*.deb")
    return Packages(current.parent, f"/mnt/{current.name}", f"/mnt/{later_version(current).name}")


def later_version(package: Path) -> Path:
    """Pack the same again, with another version in its control file and in its program."""
    tree = package.with_suffix("")
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    [program] = tree.glob("opt/berinia-webhookd/lib/*/site-packages/berinia_webhookd/__init__.py")
    for file, line in (
        (tree / "DEBIAN/control", "Version: {}\n"),
        (program, '__version__ = "{}"\n'),
    ):
        before = line.format(__version__)
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, line.format(LATER)))
    later = package.with_name(package.name.replace(__version__, LATER))
    subprocess.run(["dpkg-deb", "-Znone", "--build", tree, later], check=True, capture_output=True)
    shutil.rmtree(tree)
    return later


@pytest.fixture(scope="session")
def image(workshop: Path) -> Path:
    """Debian 12 with what the package depends on, and not the package."""
    root = workshop / "image"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={INCLUDED}", "bookworm"]
    made = subprocess.run([*command, root], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return root


@pytest.fixture
def boot(workshop: Path, image: Path, packages: Packages) -> Iterator[Callable[[], Machine]]:
    """Boots a machine, which is ended after the test."""
    with ExitStack() as stack:

        def start() -> Machine:
            machine = Machine(image, packages.folder, workshop)
            stack.callback(machine.close)
            return machine.boot()

        yield start


@pytest.fixture
def machine(boot: Callable[[], Machine]) -> Machine:
    return boot()
