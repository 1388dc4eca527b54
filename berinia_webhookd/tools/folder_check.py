"""Whether the folders and the interpreter can be used by who runs this command, and what else lies
in the log folder. It asks the kernel and writes nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding, wrong
from berinia_webhookd.logs.reading import NOT_OURS, log_types, tail

MOST_FILES_SEEN: Final = 10_000
MOST_FILES_NAMED: Final = 10
LINES_LOOKED_AT: Final = 50


@dataclass(frozen=True, slots=True)
class FolderFinding:
    """One path that the daemon needs; `refusal` says why it is of no use, or is None."""

    setting: str
    path: Path
    need: str  # "written", "read" or "executed"
    refusal: str | None
    problem: Finding | None = None


def check_folders(settings: Settings, state: Path) -> tuple[FolderFinding, ...]:
    """Every folder, and the agents' interpreter, as the current user finds them."""
    agents = settings.agents
    found = [
        _finding(
            "STATE_DIRECTORY",
            state,
            "written",
            folder_problem(state, makeable=True),
            "give the daemon's user this folder, or set STATE_DIRECTORY",
        ),
        _finding(
            "logs.dir",
            settings.logs.dir,
            "written",
            folder_problem(settings.logs.dir, makeable=True) or _closed_log(settings),
            "give the daemon's user this folder, or set logs.dir",
        ),
    ]
    if agents.path is not None:
        refusal = folder_problem(agents.path, makeable=False)
        hint = "let this user reach and read it, or move the agents"
        found.append(_finding("agents.path", agents.path, "read", refusal, hint))
    refusal = _program_problem(agents.python)
    hint = "name the interpreter of the agents' virtual environment, and let this user reach it"
    found.append(_finding("agents.python", agents.python, "executed", refusal, hint))
    return tuple(found)


def _finding(setting: str, path: Path, need: str, refusal: str | None, hint: str) -> FolderFinding:
    problem = None if refusal is None else wrong(setting, f"{path} {refusal}", hint)
    return FolderFinding(setting, path, need, refusal, problem)


def folder_problem(folder: Path, *, makeable: bool) -> str | None:
    """Why a folder cannot be used, or None; `makeable` ones are written, and made where absent."""
    if not os.path.lexists(folder):
        if not makeable:
            return "is not there, or this user cannot reach it"
        above = next(path for path in folder.parents if os.path.lexists(path))
        refusal = folder_problem(above, makeable=True)
        return None if refusal is None else f"is not there and cannot be made: {above} {refusal}"
    if not stat.S_ISDIR(_mode(folder)):
        return "is no folder, or leads to where this user cannot go"
    if makeable:
        return None if _may(folder, os.W_OK | os.X_OK) else "cannot be written by this user"
    return None if _may(folder, os.R_OK | os.X_OK) else "cannot be read by this user"


def file_problem(file: Path) -> str | None:
    """Why a file cannot be read and written together with what SQLite puts beside it, or None."""
    if not stat.S_ISREG(_mode(file)):
        return "is no file"
    if not _may(file, os.R_OK | os.W_OK):
        return "cannot be read and written by this user"
    refusal = folder_problem(file.parent, makeable=True)
    return None if refusal is None else f"its folder {refusal}"


def _program_problem(program: Path) -> str | None:
    if not os.path.lexists(program):
        return "is not there, or this user cannot reach it"
    if not stat.S_ISREG(_mode(program)):
        return "is no program, or leads to where this user cannot go"
    return None if _may(program, os.X_OK) else "cannot be executed by this user"


def our_logs(settings: Settings) -> re.Pattern[str]:
    """Return what the names of our logs are like, as they are and as logrotate names older ones:
    webhook.log, webhook.log.1, sms.log-2026.gz.
    """
    return re.compile(rf"(?:{'|'.join(log_types(settings.channels))})\.log(?:[.-].*)?")


def _closed_log(settings: Settings) -> str | None:
    """One of our logs that somebody else made in a folder that is open to us."""
    for name in log_types(settings.channels):
        file = settings.logs.dir / f"{name}.log"
        if name != NOT_OURS and _mode(file) and not _may(file, os.W_OK):
            return f"holds {file.name}, which cannot be written by this user"
    return None


def _mode(path: Path) -> int:
    """What `stat` says; 0 where it says nothing."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def foreign_logs(settings: Settings, folder: Path) -> Iterator[str]:
    """Notes on what other programs write into the log folder; they are left alone."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in islice(entries, MOST_FILES_SEEN))
    except OSError:
        return  # absent or closed: `check_folders` says so
    ours = our_logs(settings)
    others = [name for name in names if not ours.fullmatch(name)]
    if others:
        more = f" and {len(others) - MOST_FILES_NAMED} more" if others[MOST_FILES_NAMED:] else ""
        named = ", ".join(others[:MOST_FILES_NAMED])
        yield f"logs.dir holds files of other programs, which are left alone: {named}{more}"
    written = {f"{name}.log" for name in log_types(settings.channels) if name != NOT_OURS}
    shared = [name for name in names if name in written and _is_shared(folder / name)]
    if shared:
        yield f"another program writes into our logs, too: {', '.join(shared)}"


def _is_shared(log: Path) -> bool:
    """Whether one of the last lines of a log that only we should write is not ours."""
    return any(not line.startswith("{") for line in tail(log, LINES_LOOKED_AT))
