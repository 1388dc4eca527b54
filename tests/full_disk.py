"""Disks that take no more: a small one of its own, or a limit on the size of files."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .absent import absent


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process can grow meanwhile (`EFBIG`, where a full disk says `ENOSPC`)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass
class Disk:
    """A file system, and how to fill and free it."""

    folder: Path

    def fill(self) -> None:
        """Leave no byte; again, if something was deleted meanwhile."""
        with (self.folder / "other").open("ab", buffering=0) as other:
            try:
                while other.write(b"x" * 4096):
                    pass
            except OSError:
                return

    def free(self) -> None:
        """Somebody cleans up."""
        (self.folder / "other").unlink()


@contextmanager
def small_disk(folder: Path, size_bytes: int, *, mode: int = 0o700) -> Iterator[Disk]:
    """A file system in a new folder."""
    folder.mkdir(mode=mode)
    options = f"size={size_bytes},mode={mode:04o}"
    with _mounted(folder, "-t", "tmpfs", "-o", options, "tmpfs"):
        yield Disk(folder)


@contextmanager
def mounted(what: Path, place: Path) -> Iterator[None]:
    """A file or folder that can be reached at a second place."""
    place.mkdir() if what.is_dir() else place.touch()
    with _mounted(place, "--bind", str(what)):
        yield


@contextmanager
def overlay(folder: Path) -> Iterator[Path]:
    """An overlay in a new folder whose layers lie on two file systems, as a live system or a
    container has it: files have another device than their folder.
    """
    with small_disk(folder, 1024 * 1024):
        lower = folder.with_name(f"{folder.name}-lower")
        (lower / "state").mkdir(parents=True)
        upper, work, place = (folder / name for name in ("upper", "work", "place"))
        for made in (upper, work, place):
            made.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        with _mounted(place, "-t", "overlay", "-o", options, "overlay"):
            yield place


@contextmanager
def _mounted(place: Path, *how: str) -> Iterator[None]:
    done = subprocess.run(["mount", *how, str(place)], capture_output=True, check=False)
    if done.returncode:
        absent("this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
