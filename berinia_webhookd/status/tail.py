"""The last lines of a log file, read from its end: a huge file answers as fast as a small one, and
one endless line costs no more than `MAX_READ_BYTES`. It refuses to follow a symbolic link or to
open anything but a regular file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

MAX_READ_BYTES: Final = 16 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024
_BLOCK_BYTES: Final = 64 * 1024
_CUT: Final = b"..."


def tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines, oldest first, without their line ends; undecodable bytes replaced.

    A file that does not exist or is no regular file has no lines. A line over `MAX_LINE_BYTES` is
    cut and ends in three dots; lines that begin before the last `MAX_READ_BYTES` are left out, the
    newest one excepted, of which the end is given.
    """
    opened = open_log(path)
    if opened is None:
        return []
    try:
        return tail_of(opened, os.fstat(opened).st_size, lines)
    finally:
        os.close(opened)


def open_log(path: Path) -> int | None:
    """A descriptor to read a log file with; None if it does not exist or is no regular file."""
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
    """The same of an open file, up to `size` bytes from its beginning; `most_bytes` are read."""
    if lines < 1:
        return []
    return [
        _shortened(line).decode("utf-8", "replace")
        for line in _last_lines(descriptor, size, lines, most_bytes)
    ]


def _last_lines(descriptor: int, size: int, lines: int, most_bytes: int) -> list[bytes]:
    """Reads backwards block by block until enough line ends are seen."""
    blocks: list[bytes] = []
    ends = 0
    start = size
    earliest = max(0, size - most_bytes)
    while start > earliest and ends <= lines:
        begin = max(earliest, start - _BLOCK_BYTES)
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
