"""What is released, made in `dist/` from the files that git has: wheel, source archive, bill of
materials and hashes. Made twice from the same files it is the same byte for byte, so that anybody
can make it anew and compare. It uploads nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
PROGRAMS: Final = Path(sys.executable).parent
REQUIREMENTS: Final = "contrib/requirements.txt"
BUILD_REQUIREMENTS: Final = "contrib/build-requirements.txt"
HASHES: Final = "SHA256SUMS"
MASK: Final = 0o022  # files are as readable as git says, whoever builds
_RELEASED: Final = re.compile(r"^## [\d.]+ \((\d{4}-\d\d-\d\d)\)$", re.MULTILINE)
_EARLIEST: Final = date(1980, 1, 1)  # that a wheel can say


def build(tree: str, target: Path) -> list[Path]:
    """Make everything from a tree of git's, and check it. Returns what is in `target` then.

    Raises:
        subprocess.CalledProcessError: something cannot be made, or is not as PyPI wants it.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        sources = Path(place) / "sources"
        export(tree, sources)
        seconds = released_at((sources / "CHANGELOG.md").read_text())
        environ = {**os.environ, "SOURCE_DATE_EPOCH": str(seconds)}
        made = Path(place) / "made"
        run(
            *("uv", "build", "--quiet", "--python", sys.executable, "--out-dir", made),
            *("--build-constraints", sources / BUILD_REQUIREMENTS, "--require-hashes", sources),
            environ=environ,
        )
        (wheel,), (archive,) = made.glob("*.whl"), made.glob("*.tar.gz")
        archive.write_bytes(normal(archive.read_bytes(), seconds))
        run("twine", "check", "--strict", wheel, archive, environ=environ)
        bill = made / f"{wheel.name.removesuffix('-py3-none-any.whl')}.cdx.json"
        write_bill(bill, made, sources / REQUIREMENTS, environ)
        kept = [archive, bill, wheel]
        (made / HASHES).write_text("".join(hash_lines(kept)))
        return [one.rename(target / one.name) for one in (*kept, made / HASHES)]


def run(program: str, *words: str | Path, environ: dict[str, str]) -> None:
    """Run one of the programs of this environment."""
    subprocess.run([PROGRAMS / program, *words], env=environ, umask=MASK, check=True)


def export(tree: str, folder: Path) -> None:
    """Lay out the files of a tree, with the modes that git knows."""
    archive = ["git", "-c", "tar.umask=0022", "archive", "--format=tar", tree]
    packed = subprocess.run(archive, cwd=PROJECT, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="tar")


def released_at(changelog: str) -> int:
    """The day of the newest release, in seconds since 1970, whoever builds it and when."""
    dates = [date.fromisoformat(one) for one in _RELEASED.findall(changelog)]
    day = max(dates, default=_EARLIEST)
    return int(datetime.combine(day, time(), UTC).timestamp())


def normal(packed: bytes, seconds: int) -> bytes:
    """A source archive without what differs from one making to the next: times, owners, order."""
    made = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(packed)) as before,
        gzip.GzipFile(filename="", fileobj=made, mode="wb", mtime=seconds) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for one in sorted(before.getmembers(), key=lambda one: one.name):
            one.mtime, one.uid, one.gid, one.uname, one.gname = seconds, 0, 0, "", ""
            one.pax_headers = {}
            after.addfile(one, before.extractfile(one) if one.isfile() else None)
    return made.getvalue()


def write_bill(bill: Path, made: Path, requirements: Path, environ: dict[str, str]) -> None:
    """Install the wheel among the packages that are pinned, and write down what is there."""
    venv = made.parent / "venv"
    install = ("uv", "pip", "install", "--quiet", "--python", venv)
    run("uv", "venv", "--quiet", "--python", sys.executable, venv, environ=environ)
    run(*install, "--require-hashes", "--requirement", requirements, environ=environ)
    local = ("--no-deps", "--no-index", "--find-links", made)
    run(*install, *local, "berinia-webhookd", environ=environ)
    run("cyclonedx-py", "environment", "--output-reproducible", "-o", bill, venv, environ=environ)


def hash_lines(files: list[Path]) -> Iterator[str]:
    """Lines as `sha256sum --check` reads them."""
    for file in files:
        yield f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
