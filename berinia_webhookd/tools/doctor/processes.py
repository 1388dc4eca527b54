"""Reads `/proc`: which process listens on a port, as which user and with which environment it runs.
What this user may not see counts as unknown.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_LISTENS: Final = "0A"
_INODE: Final = 9
_MOST_BYTES: Final = 1024 * 1024
_SHOWN_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as it is shown."""

    pid: int
    name: str  # program and script, no options: those may hold secrets

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


def listening_inodes(port: int, *, proc: Path = PROC) -> set[int]:
    """Return the inodes of the sockets that listen on a TCP port, at any address."""
    found = set()
    for table in ("net/tcp", "net/tcp6"):
        for line in _text(proc / table).splitlines()[1:]:
            fields = line.split()
            # local address, remote address, state, …, and the inode as the tenth: see proc(5)
            listens = len(fields) > _INODE and fields[3] == _LISTENS
            if listens and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(int(fields[_INODE]))
    return found


def holders(inodes: set[int], *, proc: Path = PROC) -> list[Process]:
    """Return the processes that hold one of these sockets, as far as this user can see."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    return [describe(pid, proc=proc) for pid in _pids(proc) if wanted & set(_sockets(pid, proc))]


def describe(pid: int, *, proc: Path = PROC) -> Process:
    """Describe a process by its program and script."""
    arguments = _text(proc / str(pid) / "cmdline").split("\0")
    names = [Path(arguments[0]).name] if arguments[0] else [_text(proc / str(pid) / "comm").strip()]
    for argument in arguments[1:3]:
        if not re.fullmatch(r"-m|[\w./][\w./@+:-]{0,254}", argument):
            break
        names.append(Path(argument).name)
    return Process(pid, " ".join(names)[:_SHOWN_CHARACTERS] or "?")


def user_of(pid: int, *, proc: Path = PROC) -> int | None:
    """Return the effective user id of a process."""
    found = re.search(r"^Uid:\s+\d+\s+(\d+)", _text(proc / str(pid) / "status"), re.MULTILINE)
    return int(found[1]) if found else None


def is_within(pid: int, ancestor: int, *, proc: Path = PROC) -> bool:
    """Whether a process is another, or was started by it."""
    while pid > 1:
        if pid == ancestor:
            return True
        found = re.search(r"^PPid:\s+(\d+)", _text(proc / str(pid) / "status"), re.MULTILINE)
        pid = int(found[1]) if found else 0
    return False


def socket_unit_has(port: int, unit: str, folders: Iterable[Path]) -> bool:
    """Whether a socket unit, or what was laid over it, names a port."""
    for folder in folders:
        for file in (folder / unit, *sorted((folder / f"{unit}.d").glob("*.conf"))):
            if re.search(rf"^ListenStream=(?:.*:)?{port}\s*$", _text(file), re.MULTILINE):
                return True
    return False


def unit_of(pid: int, *, proc: Path = PROC) -> str | None:
    """Return the systemd service that started a process; None for one started by hand, also
    from a shell that is itself part of a service.
    """
    environment = environment_of(pid, proc=proc)
    if environment is not None and environment.get("SYSTEMD_EXEC_PID") != str(pid):
        return None
    groups = _text(proc / str(pid) / "cgroup")
    found = re.search(r"/system\.slice/(?:.*/)?([\w@.-]+)\.service$", groups, re.MULTILINE)
    return found[1] if found else None


def environment_of(pid: int, *, proc: Path = PROC) -> dict[str, str] | None:
    """Return the environment that a process was started with; None where it cannot be read."""
    try:
        raw = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    text = raw.decode(sys.getfilesystemencoding(), "surrogateescape")
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)


def folder_of(pid: int, *, proc: Path = PROC) -> Path | None:
    """Return the working folder of a process; None where it cannot be read."""
    try:
        return (proc / str(pid) / "cwd").readlink()
    except OSError:
        return None


def port_of(address: str) -> int | None:
    """Return the port of `host:port`; None for `unix:/path`."""
    port = address.rpartition(":")[2]
    return int(port) if port.isdigit() and not address.startswith("unix:") else None


def _pids(proc: Path) -> Iterator[int]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _sockets(pid: int, proc: Path) -> Iterator[str]:
    # The process may end, or be another user's.
    with contextlib.suppress(OSError):
        for descriptor in (proc / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(descriptor.readlink())


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
