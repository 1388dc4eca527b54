"""Whether the machine has free disk space and a correct clock."""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berinia_webhookd.channels.contract import SignedRequest
from berinia_webhookd.clock import now
from berinia_webhookd.findings import Finding, joined, note, ok, warning, wrong
from berinia_webhookd.status.durations import duration
from berinia_webhookd.status.findings.installation import Installation
from berinia_webhookd.status.findings.probe import Sender
from berinia_webhookd.status.health import LEAST_FREE_BYTES

DISK: Final = "disk"
CLOCK: Final = "clock"
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
    disk: int = 0  # the device


def room(folder: Path) -> Room:
    """Measure what the daemon's user may use.

    Raises:
        OSError: the folder cannot be reached.
    """
    found = os.statvfs(folder)
    return Room(
        free_bytes=found.f_bavail * found.f_frsize,
        all_bytes=found.f_blocks * found.f_frsize,
        free_files=found.f_favail if found.f_files else None,
        disk=folder.stat().st_dev,
    )


async def disk(installation: Installation) -> AsyncIterator[Finding]:
    """Check the disks of journal and logs."""
    file = installation.journal.file
    folders = {installation.logs, *(() if file is None else (file.parent,))}
    for finding in of_disks(sorted(folders)):
        yield finding


def of_disks(folders: list[Path], measure: Callable[[Path], Room] = room) -> Iterator[Finding]:
    """Yield one finding for each disk that one of these folders is on; which exist."""
    on_disk: dict[int, list[Path]] = {}
    rooms: dict[int, Room] = {}
    for folder in folders:
        try:
            left = measure(folder)
        except FileNotFoundError:
            continue  # made when first needed
        rooms[left.disk] = left
        shown = on_disk.setdefault(left.disk, [])
        if not any(folder.is_relative_to(above) for above in shown):
            shown.append(folder)
    for disk, left in rooms.items():
        yield _of_room(" ".join(map(str, on_disk[disk])), left)


def _of_room(folder: str, left: Room) -> Finding:
    make_room = (f"df -h {folder}", f"see what is large: `du -xh {folder} | sort -h | tail`")
    text = f"{folder}: {left.free_bytes // MIB} MiB free"
    if left.free_bytes < LEAST_FREE_BYTES:
        why = "on a full disk nothing can be accepted: providers get 503"
        return wrong(DISK, text, *make_room, why=why)
    if left.free_files is not None and left.free_files < LEAST_FREE_FILES:
        return wrong(
            DISK,
            f"{folder}: only {left.free_files} more files can be made",
            f"df -i {folder}",
            why="without inodes no file can be made, however much room there is",
        )
    if left.free_bytes < min(LITTLE_BYTES, LITTLE_SHARE * left.all_bytes):
        return warning(DISK, text, *make_room, why="the disk will be full before long")
    return ok(DISK, text)


async def clock(installation: Installation) -> AsyncIterator[Finding]:
    """Check the clock: some providers sign the time, and retries depend on it."""
    why = clock_matters(installation)
    yield of_synchronisation(is_synchronised(), why)
    for url in installation.settings.server.public_url[:1]:
        sent = now()
        reply = await Sender(url).post(SignedRequest("/", {}, b""))
        if reply.date is not None:
            yield of_skew(url, (reply.date - sent).total_seconds(), why)


def clock_matters(installation: Installation) -> str:
    """Return what goes wrong with a wrong clock."""
    signers = [one.name for one in installation.providers if one.signs_time]
    if signers:
        return (
            f"signatures of {joined(signers)} carry the time: while this clock is behind, they are "
            "refused"
        )
    return "retries and retention depend on the clock"


def is_synchronised() -> bool | None:
    """Whether the clock is synchronised; None if the kernel does not say."""
    if SYNCHRONISED.exists():
        return True
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    state = adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # modes 0: change nothing
    return None if state < 0 else bool(state != _TIME_ERROR)


def of_synchronisation(synchronised: bool | None, why: str) -> Finding:
    """Return the finding on the clock's synchronisation."""
    if synchronised is None:
        return note(CLOCK, "the kernel does not say whether the clock is synchronised")
    if synchronised:
        return ok(CLOCK, "is synchronised")
    return warning(
        CLOCK,
        "is not synchronised with a time server",
        "timedatectl set-ntp true",
        "`timedatectl timesync-status`, or `chronyc tracking`",
        why=why,
    )


def of_skew(url: str, seconds: float, why: str) -> Finding:
    """Return the finding on the difference to the clock of the public URL's server."""
    if abs(seconds) <= MOST_SKEW_SECONDS:
        return ok(CLOCK, f"agrees with {url}")
    direction = "behind" if seconds > 0 else "ahead of"
    return wrong(
        CLOCK,
        f"is {duration(abs(seconds))} {direction} that of {url}",
        "`timedatectl set-ntp true`, on both machines",
        why=why,
    )
