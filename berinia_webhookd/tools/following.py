"""Follows a log file over its rotation, by rename and by truncation, as long as somebody reads. It
reads in bounded blocks, and holds no more of one line than is shown of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from berinia_webhookd.status.tail import MAX_LINE_BYTES, MAX_READ_BYTES, open_log, tail_of

BLOCK_BYTES: Final = 64 * 1024
_CUT: Final = b"..."
_ROTATED: Final = ".1"  # added to the name of the newest rotated file, which is not compressed yet


class Follower:
    """One file by its name: `with Follower(path) as log`; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rotated = path.with_name(path.name + _ROTATED)
        self._descriptor = open_log(path)
        if self._descriptor is None and not os.path.lexists(path):
            # Just rotated: until the daemon makes the new file, it writes to this one.
            self._descriptor = open_log(self._rotated)
        self._position = 0 if self._descriptor is None else os.fstat(self._descriptor).st_size
        self._begun = b""  # the beginning of a line whose end is not written yet
        self._cut = False  # that line is too long: the rest of it is not kept

    def __enter__(self) -> Self:
        """Itself."""
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
        """Whether there is a file, be it a rotated one."""
        return self._descriptor is not None

    def last(self, lines: int) -> list[str]:
        """The lines before where following begins; what the file lacks, from the rotated one."""
        if self._descriptor is None:
            return []
        found = tail_of(self._descriptor, self._position, lines)
        # Of a file too large to be read whole, the lines between are missing: none are put before.
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
        """Every line that is added, for ever; `pause` is called when there is none at present."""
        while True:
            found = False
            for line in self._news():
                found = True
                yield line
            if not found:
                pause()

    def _news(self) -> Iterator[str]:
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
        """Whether another file has the name now. While none has it, the old one is kept."""
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
