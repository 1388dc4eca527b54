"""Whether folders, files and the agents' interpreter can be used by this user and by the daemon,
and what else is in the log folder. It writes nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.logs.reading import NOT_OURS, log_file, log_types, tail
from berinia_webhookd.status.durations import counted
from berinia_webhookd.status.findings.installation import Installation

LOGS: Final = "logs"
MOST_FILES_SEEN: Final = 10_000
MOST_FILES_NAMED: Final = 10
LINES_LOOKED_AT: Final = 50
MIB: Final = 1024 * 1024
LARGE_BYTES: Final = 1024 * MIB
LOGROTATE: Final = Path("/etc/logrotate.d/berinia-webhookd")
_OTHERS: Final = 0o077
_OWNER_WRITES: Final = stat.S_IWUSR | stat.S_IXUSR


# ---- for the current user


def usable_folders(settings: Settings, state: Path) -> Iterator[Finding]:
    """Yield a finding for each folder that `serve` needs, and for the agents' interpreter."""
    logs, agents = settings.logs.dir, settings.agents
    writable = "give the daemon's user this folder, or set {}"
    refusal = folder_refusal(state, writing=True)
    subject = "STATE_DIRECTORY"
    yield _usable(subject, state, "written", refusal, writable.format(subject))
    refusal = folder_refusal(logs, writing=True) or _closed_log(settings)
    yield _usable("logs.dir", logs, "written", refusal, writable.format("logs.dir"))
    if agents.path is not None:
        refusal = folder_refusal(agents.path, writing=False)
        hint = "let this user reach and read it, or move the agents"
        yield _usable("agents.path", agents.path, "read", refusal, hint)
    refusal = _program_refusal(agents.python)
    hint = "name the interpreter of the agents' virtual environment, and let this user reach it"
    yield _usable("agents.python", agents.python, "executed", refusal, hint)


def _usable(setting: str, path: Path, need: str, refusal: str | None, hint: str) -> Finding:
    if refusal is None:
        return ok(setting, f"{path} can be {need}")
    return wrong(setting, f"{path} {refusal}", hint)


def folder_refusal(folder: Path, *, writing: bool) -> str | None:
    """Return why a folder cannot be used, or None; one to write to may be made."""
    if not os.path.lexists(folder):
        if not writing:
            return "does not exist, or this user cannot reach it"
        above = next(path for path in folder.parents if os.path.lexists(path))
        refusal = folder_refusal(above, writing=True)
        return None if refusal is None else f"does not exist and cannot be made: {above} {refusal}"
    if not stat.S_ISDIR(_mode(folder)):
        return "is no folder, or leads to where this user cannot go"
    if writing:
        return None if _may(folder, os.W_OK | os.X_OK) else "cannot be written by this user"
    return None if _may(folder, os.R_OK | os.X_OK) else "cannot be read by this user"


def file_refusal(file: Path) -> str | None:
    """Return why SQLite cannot use a file and put others beside it, or None."""
    if not stat.S_ISREG(_mode(file)):
        return "is no file"
    if not _may(file, os.R_OK | os.W_OK):
        return "cannot be read and written by this user"
    refusal = folder_refusal(file.parent, writing=True)
    return None if refusal is None else f"lies in a folder that {refusal}"


def _program_refusal(program: Path) -> str | None:
    if not os.path.lexists(program):
        return "does not exist, or this user cannot reach it"
    if not stat.S_ISREG(_mode(program)):
        return "is no program, or leads to where this user cannot go"
    return None if _may(program, os.X_OK) else "cannot be executed by this user"


def _closed_log(settings: Settings) -> str | None:
    """Return the log that another user made in our folder, or None."""
    for name in log_types(settings.channels):
        file = log_file(settings.logs.dir, name)
        if name != NOT_OURS and _mode(file) and not _may(file, os.W_OK):
            return f"holds {file.name}, which cannot be written by this user"
    return None


def _mode(path: Path) -> int:
    """Return the mode of a file; 0 if it is unknown."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


# ---- for the daemon: the logs


async def logs(installation: Installation) -> AsyncIterator[Finding]:
    """Check that the daemon can write its logs, and that they are rotated."""
    folder = installation.logs
    if not folder.exists():
        yield _missing(installation, folder)
        return
    next(folder.iterdir(), None)  # raises where this user may not look
    channels = installation.settings.channels
    files = _log_files(folder, channels)
    findings = [
        *_of_writing(installation, folder, files),
        *_of_reading(folder, files),
        *of_growth(files),
        *foreign_logs(folder, channels),
    ]
    if not findings:
        size = sum(found.st_size for found in files.values())
        findings = [ok(LOGS, f"{folder}: {counted(len(files), 'file')}, {size / MIB:.1f} MiB")]
    for finding in findings:
        yield finding


def _missing(installation: Installation, folder: Path) -> Finding:
    if installation.process is None:
        return note(LOGS, f"{folder} does not exist yet; `serve` makes it")
    return wrong(
        LOGS,
        f"{folder} does not exist, although the daemon runs",
        f"`install -d -m 700 -o {installation.user} {folder}`",
        why="log lines are lost; receiving goes on",
    )


def _our_logs(channels: Iterable[str]) -> re.Pattern[str]:
    """Match our logs and rotated ones: webhook.log, webhook.log.1, sms.log-2026.gz."""
    return re.compile(rf"(?:{'|'.join(map(re.escape, log_types(channels)))})\.log(?:[.-].*)?")


def _log_files(folder: Path, channels: Iterable[str]) -> dict[Path, os.stat_result]:
    """Return our own files; none if this user may not look."""
    found = {}
    ours = _our_logs(channels)
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, MOST_FILES_SEEN):
                if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found[Path(entry.path)] = entry.stat(follow_symlinks=False)
    except OSError:
        return {}
    return found


def _of_writing(
    installation: Installation, folder: Path, files: Mapping[Path, os.stat_result]
) -> Iterator[Finding]:
    user = installation.user
    if installation.process is None or user == 0:
        return
    here = folder.stat()
    why = "log lines are lost; receiving goes on"
    if here.st_uid != user or here.st_mode & _OWNER_WRITES != _OWNER_WRITES:
        fix = f"`chown {user} {folder}; chmod 700 {folder}`"
        yield wrong(LOGS, f"{folder} cannot be written by the daemon's user", fix, why=why)
    foreign = [
        path
        for path, found in files.items()
        if path.suffix == ".log" and path.stem != NOT_OURS and found.st_uid != user
    ]
    if foreign:
        fix = f"`chown {user} {' '.join(map(str, foreign))}`"
        yield wrong(LOGS, f"{foreign[0]} belongs to another user than the daemon's", fix, why=why)


def _of_reading(folder: Path, files: Mapping[Path, os.stat_result]) -> Iterator[Finding]:
    if folder.stat().st_mode & _OTHERS and any(
        found.st_mode & _OTHERS for path, found in files.items() if path.suffix == ".log"
    ):
        yield warning(
            LOGS,
            f"{folder} and files in it can be read by other users",
            f"`chmod 700 {folder}; chmod 600 {folder}/*.log`",
            why="the logs say what happened to whom",
        )


def of_growth(files: Mapping[Path, os.stat_result]) -> Iterator[Finding]:
    """Yield a warning where the largest log was not rotated."""
    largest = max(files, key=lambda path: files[path].st_size, default=None)
    if largest is not None and (size := files[largest].st_size) > LARGE_BYTES:
        look = f"`logrotate -d {LOGROTATE}`"
        install = f"`cp contrib/logrotate/berinia-webhookd {LOGROTATE}`"
        yield warning(
            LOGS,
            f"{largest} has grown to {size // MIB} MiB",
            look if LOGROTATE.exists() else install,
            why="nothing rotates it; it will fill the disk of the journal as well",
        )


def foreign_logs(folder: Path, channels: Iterable[str]) -> Iterator[Finding]:
    """Yield notes on what other programs write into the log folder."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in islice(entries, MOST_FILES_SEEN))
    except OSError:
        return  # absent or closed, which other findings say
    ours = _our_logs(channels)
    others = [name for name in names if not ours.fullmatch(name)]
    if others:
        more = f" and {len(others) - MOST_FILES_NAMED} more" if others[MOST_FILES_NAMED:] else ""
        named = ", ".join(others[:MOST_FILES_NAMED])
        yield note(LOGS, f"{folder} holds files of other programs: {named}{more}")
    written = {f"{name}.log" for name in log_types(channels) if name != NOT_OURS}
    shared = [name for name in names if name in written and _is_shared(folder / name)]
    if shared:
        yield note(LOGS, f"another program writes into our logs, too: {', '.join(shared)}")


def _is_shared(log: Path) -> bool:
    """Whether one of the last lines of a log that only we should write is not ours."""
    return any(not line.startswith("{") for line in tail(log, LINES_LOOKED_AT))
