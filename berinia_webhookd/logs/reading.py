"""Reads the unified logs: their names, the last lines of one, and lines as they are added.

Files are read from the end, at most `MAX_READ_BYTES`, so that a huge one is as fast as a small one.
Only regular files are opened, and no symbolic links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

EVERYTHING: Final = "webhook"
NOT_OURS: Final = "system"  # another program's, which we only read
ERRORS: Final = "error"
OF_AGENTS: Final = "agents"
OTHER_THAN_CHANNELS: Final = frozenset({EVERYTHING, NOT_OURS, ERRORS, OF_AGENTS})
MAX_READ_BYTES: Final = 16 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
BLOCK_BYTES: Final = 64 * 1024
_CUT: Final = b"..."
_ROTATED: Final = ".1"  # suffix of the newest rotated file, which is not compressed yet


def log_types(channels: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all logs."""
    return (EVERYTHING, *channels, NOT_OURS, ERRORS, OF_AGENTS)


def log_file(folder: Path, log_type: str) -> Path:
    """Return the path of one of `log_types`."""
    return folder / f"{log_type}.log"


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines, oldest first, without line ends; undecodable bytes are replaced.

    A missing file, or one that is not regular, has no lines. Lines over `MAX_LINE_BYTES` are cut
    and end in three dots. Lines that begin before the last `MAX_READ_BYTES` are left out; of a
    single such line the end is returned.
    """
    opened = open_log(path)
    if opened is None:
        return []
    try:
        return tail_of(opened, os.fstat(opened).st_size, lines)
    finally:
        os.close(opened)


def open_log(path: Path) -> int | None:
    """Open a log file for reading; return None if it does not exist or is no regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def tail_of(
    descriptor: int, size: int, lines: int, *, most_bytes: int = MAX_READ_BYTES
) -> list[str]:
    """Return the last lines among the first `size` bytes of an open file."""
    if lines < 1:
        return []
    return [
        _shortened(line).decode("utf-8", "replace")
        for line in _last_lines(descriptor, size, lines, most_bytes)
    ]


def _last_lines(descriptor: int, size: int, lines: int, most_bytes: int) -> list[bytes]:
    """Read blocks from the end until there are enough lines."""
    blocks: list[bytes] = []
    ends = 0
    start = size
    earliest = max(0, size - most_bytes)
    while start > earliest and ends <= lines:
        begin = max(earliest, start - BLOCK_BYTES)
        block = os.pread(descriptor, start - begin, begin)
        blocks.append(block)
        ends += block.count(b"\n")
        start = begin
    text = b"".join(reversed(blocks))
    found = text.removesuffix(b"\n").split(b"\n") if text else []
    if start > 0 and len(found) <= lines:
        # The oldest line found lacks its beginning.
        found = found[1:] or [_CUT + found[0][-MAX_LINE_BYTES:]] if found else []
    return found[-lines:]


def _shortened(line: bytes) -> bytes:
    if len(line) <= MAX_LINE_BYTES + len(_CUT):
        return line
    return line[:MAX_LINE_BYTES] + _CUT


class Follower:
    """Follows a log across rotation, by rename and by truncation: `with Follower(path) as log`. The
    file need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rotated = path.with_name(path.name + _ROTATED)
        self._descriptor = open_log(path)
        if self._descriptor is None and not os.path.lexists(path):
            # Just rotated: the daemon writes to this one until it makes the new file.
            self._descriptor = open_log(self._rotated)
        self._position = 0 if self._descriptor is None else os.fstat(self._descriptor).st_size
        self._begun = b""  # the beginning of an unfinished line
        self._cut = False  # whether that line is too long, so that its rest is dropped

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def exists(self) -> bool:
        """Whether there is a file, if only a rotated one."""
        return self._descriptor is not None

    def last(self, lines: int) -> list[str]:
        """Return the last lines before following begins, if need be from the rotated file too."""
        if self._descriptor is None:
            return []
        found = tail_of(self._descriptor, self._position, lines)
        # If this file was too large to read whole, lines before it would leave a gap.
        room = MAX_READ_BYTES - self._position
        if len(found) < lines and room > 0:
            return self._before(lines - len(found), room) + found
        return found

    def _before(self, lines: int, most_bytes: int) -> list[str]:
        rotated = open_log(self._rotated)
        if rotated is None:
            return []
        try:
            if self._holds(os.fstat(rotated)):
                return []
            size = os.fstat(rotated).st_size
            return tail_of(rotated, size, lines, most_bytes=most_bytes)
        finally:
            os.close(rotated)

    def follow(self, pause: Callable[[], None]) -> Iterator[str]:
        """Yield every line that is added, for ever; call `pause` whenever there is none."""
        while True:
            found = False
            for line in self.added():
                found = True
                yield line
            if not found:
                pause()

    def added(self) -> Iterator[str]:
        """Yield the lines that were added by now."""
        yield from self._rest()
        if self._is_replaced():
            yield from self._rest()  # what was written between reading and renaming
            yield from self._unfinished()
            self._close()
            self._descriptor, self._position = open_log(self._path), 0
            yield from self._rest()

    def _rest(self) -> Iterator[str]:
        if self._descriptor is None:
            return
        if os.fstat(self._descriptor).st_size < self._position:
            self._position, self._begun, self._cut = 0, b"", False  # truncated: begin again
        while block := os.pread(self._descriptor, BLOCK_BYTES, self._position):
            self._position += len(block)
            yield from self._lines_of(block)

    def _lines_of(self, block: bytes) -> Iterator[str]:
        *ended, begun = block.split(b"\n")
        for line in ended:
            self._add(line)
            yield self._take()
        self._add(begun)

    def _add(self, part: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._begun)
        self._cut = self._cut or len(part) > room
        self._begun += part[:room]

    def _take(self) -> str:
        line = self._begun + (_CUT if self._cut else b"")
        self._begun, self._cut = b"", False
        return line.decode("utf-8", "replace")

    def _unfinished(self) -> Iterator[str]:
        if self._begun:
            yield self._take()

    def _is_replaced(self) -> bool:
        """Whether there is another file of this name now."""
        try:
            now = self._path.lstat()
        except OSError:
            return False
        return not self._holds(now)

    def _holds(self, file: os.stat_result) -> bool:
        if self._descriptor is None:
            return False
        return os.path.samestat(os.fstat(self._descriptor), file)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
