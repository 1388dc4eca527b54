"""Whether the daemon can write its logs, and whether they grow without end."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.tools.doctor.subject import Subject
from berinia_webhookd.tools.folder_check import MOST_FILES_SEEN, foreign_logs, our_logs

_SAY: Final = "logs"
MIB: Final = 1024 * 1024
LARGE_BYTES: Final = 1024 * MIB
LOGROTATE: Final = Path("/etc/logrotate.d/berinia-webhookd")
_OTHERS: Final = 0o077
_OWNER_WRITES: Final = stat.S_IWUSR | stat.S_IXUSR


async def folder(subject: Subject) -> AsyncIterator[Finding]:
    """The unified log folder."""
    place = subject.logs
    if not place.exists():
        yield _missing(subject, place)
        return
    files = _files(place, our_logs(subject.settings))
    findings = [
        *_of_writing(subject, place, files),
        *_of_reading(place, files),
        *_of_growth(files),
        *(note(_SAY, text) for text in foreign_logs(subject.settings, place)),
    ]
    for finding in findings:
        yield finding
    if not findings:
        size = sum(found.st_size for found in files.values())
        yield ok(_SAY, f"{place}: {len(files)} files, {size / MIB:.1f} MiB")


def _missing(subject: Subject, place: Path) -> Finding:
    if subject.running is None:
        return note(_SAY, f"{place} is not there yet; `serve` makes it")
    return wrong(
        _SAY,
        f"{place} is not there, although the daemon runs",
        f"install -d -m 700 -o {subject.user} {place}",
        why="the daemon cannot say what it does; it goes on receiving",
    )


def _files(place: Path, ours: re.Pattern[str]) -> dict[Path, os.stat_result]:
    """Our own files; none where this user may not look."""
    found = {}
    try:
        with os.scandir(place) as entries:
            for entry in islice(entries, MOST_FILES_SEEN):
                if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found[Path(entry.path)] = entry.stat(follow_symlinks=False)
    except OSError:
        return {}
    return found


def _of_writing(
    subject: Subject, place: Path, files: dict[Path, os.stat_result]
) -> Iterator[Finding]:
    if subject.running is None or subject.user == 0:
        return
    here = place.stat()
    why = "lines are lost; receiving goes on without them"
    if here.st_uid != subject.user or here.st_mode & _OWNER_WRITES != _OWNER_WRITES:
        mend = f"chown {subject.user} {place}; chmod 700 {place}"
        yield wrong(_SAY, f"{place} cannot be written by the daemon's user", mend, why=why)
    foreign = [
        path
        for path, found in files.items()
        if path.suffix == ".log" and path.name != "system.log" and found.st_uid != subject.user
    ]
    if foreign:
        names = " ".join(map(str, foreign))
        yield wrong(
            _SAY,
            f"{foreign[0]} belongs to another user than the daemon's",
            f"chown {subject.user} {names}",
            why=why,
        )


def _of_reading(place: Path, files: dict[Path, os.stat_result]) -> Iterator[Finding]:
    if place.stat().st_mode & _OTHERS and any(
        found.st_mode & _OTHERS for path, found in files.items() if path.suffix == ".log"
    ):
        yield warning(
            _SAY,
            f"{place} and files in it are open to other users",
            f"chmod 700 {place}; chmod 600 {place}/*.log",
            why="the logs say what happened to whom",
        )


def _of_growth(files: dict[Path, os.stat_result]) -> Iterator[Finding]:
    if not files:
        return
    largest = max(files, key=lambda path: files[path].st_size)
    size = files[largest].st_size
    if size > LARGE_BYTES:
        rotated = "logrotate -d " + str(LOGROTATE)
        install = f"cp contrib/logrotate/berinia-webhookd {LOGROTATE}"
        yield warning(
            _SAY,
            f"{largest} has grown to {size // MIB} MiB",
            rotated if LOGROTATE.exists() else install,
            why="nobody rotates it; it will fill the disk of the journal as well",
        )
