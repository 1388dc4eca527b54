"""The machine under it: room on the disks, and a clock that is right."""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berinia_webhookd.channels.contract import SignedRequest
from berinia_webhookd.channels.provider import Provider
from berinia_webhookd.clock import now
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.journal.engine import sqlite_path
from berinia_webhookd.status.health import LEAST_FREE_BYTES, folders_of
from berinia_webhookd.tools.doctor.probe import Sender
from berinia_webhookd.tools.doctor.signatures import providers
from berinia_webhookd.tools.doctor.subject import Subject
from berinia_webhookd.tools.posting import Target
from berinia_webhookd.tools.terminal import duration

_DISK: Final = "disk"
_CLOCK: Final = "clock"
MIB: Final = 1024 * 1024
LITTLE_BYTES: Final = 1024 * MIB
LITTLE_SHARE: Final = 0.05
LEAST_FREE_FILES: Final = 1000
MOST_SKEW_SECONDS: Final = 30.0
SYNCHRONISED: Final = Path("/run/systemd/timesync/synchronized")
_TIMEX_BYTES: Final = 512  # more than any kernel's struct timex
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised


@dataclass(frozen=True, slots=True)
class Room:
    """What is left on a folder's disk."""

    free_bytes: int
    all_bytes: int
    free_files: int | None  # None: this file system has no such limit


def room(folder: Path) -> Room:
    """As the daemon's user has it.

    Raises:
        OSError: the folder cannot be reached.
    """
    found = os.statvfs(folder)
    return Room(
        free_bytes=found.f_bavail * found.f_frsize,
        all_bytes=found.f_blocks * found.f_frsize,
        free_files=found.f_favail if found.f_files else None,
    )


async def disk(subject: Subject) -> AsyncIterator[Finding]:
    """The disks of journal and logs."""
    path = sqlite_path(subject.journal_url)
    folders = {subject.logs, *(folders_of(subject.settings) if path is None else (path.parent,))}
    for finding in disk_findings(sorted(folders)):
        yield finding


def disk_findings(folders: list[Path], measure: Callable[[Path], Room] = room) -> Iterator[Finding]:
    """One for each folder that is there."""
    for folder in folders:
        try:
            left = measure(folder)
        except FileNotFoundError:
            continue  # made when first needed
        yield _of_room(folder, left)


def _of_room(folder: Path, left: Room) -> Finding:
    make_room = (f"df -h {folder}", f"see what is large: du -xh {folder} | sort -h | tail")
    text = f"{folder}: {left.free_bytes // MIB} MiB left"
    if left.free_bytes < LEAST_FREE_BYTES:
        why = "with a full disk nothing can be accepted: providers get 503"
        return wrong(_DISK, text, *make_room, why=why)
    if left.free_files is not None and left.free_files < LEAST_FREE_FILES:
        return wrong(
            _DISK,
            f"{folder}: only {left.free_files} more files can be made there",
            f"df -i {folder}",
            why="without inodes no file can be made, however much room there is",
        )
    if left.free_bytes < min(LITTLE_BYTES, LITTLE_SHARE * left.all_bytes):
        return warning(_DISK, text, *make_room, why="it will be full before long")
    return ok(_DISK, text)


async def clock(subject: Subject) -> AsyncIterator[Finding]:
    """Whether the time is right: some signatures carry it, and retries go by it."""
    why = why_it_matters(providers(subject))
    yield of_synchronisation(is_synchronised(), why)
    for url in subject.settings.server.public_url[:1]:
        sent = now()
        reply = await Sender(Target.from_text(url)).post(SignedRequest("/", {}, b""))
        if reply.date is not None:
            yield _of_skew(url, (reply.date - sent).total_seconds(), why)


def is_synchronised() -> bool | None:
    """Whether something keeps the clock right; None where the kernel does not say."""
    if SYNCHRONISED.exists():
        return True
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    state = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: only look
    return None if state < 0 else bool(state != _TIME_ERROR)


def why_it_matters(providers: Iterable[Provider]) -> str:
    """What a wrong clock does, by what the providers sign."""
    names = [provider.name for provider in providers if provider.signs_time]
    if not names:
        return "retries, retention and the logs go by it"
    return (
        f"signatures of {' and '.join(names)} carry the time: 5 minutes behind, and every message "
        "is refused"
    )


def of_synchronisation(synchronised: bool | None, why: str) -> Finding:
    """The finding on what keeps the clock right."""
    if synchronised is None:
        return note(_CLOCK, "the kernel does not say whether the clock is synchronised")
    if synchronised:
        return ok(_CLOCK, "is synchronised")
    return warning(
        _CLOCK,
        "is not synchronised with a time server",
        "timedatectl set-ntp true",
        "timedatectl timesync-status, or chronyc tracking",
        why=why,
    )


def _of_skew(url: str, seconds: float, why: str) -> Finding:
    if abs(seconds) <= MOST_SKEW_SECONDS:
        return ok(_CLOCK, f"agrees with {url}")
    direction = "behind" if seconds > 0 else "ahead of"
    return wrong(
        _CLOCK,
        f"is {duration(abs(seconds))} {direction} that of {url}",
        "timedatectl set-ntp true, on both machines",
        why=why,
    )
