"""What an agent host prints, read at file-descriptor level and logged line by line.

It never lets an agent wait for long, keeps little in memory, and logs a bounded amount: what is
over is counted and left out.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

logger = structlog.get_logger()

CHUNK_BYTES: Final = 65_536
PIPE_BYTES: Final = 1 << 20  # a burst of an agent fits without waiting for us
TURN_BYTES: Final = 1 << 18  # read in one go before others have their turn
LINE_BYTES: Final = 4096  # of a line are logged
# A longer line is left out: hiding personal data in it takes seeing it whole.
LONGEST_LINE_BYTES: Final = 65_536
BURST_BYTES: Final = 1 << 18  # logged at once from one host …
REFILL_BYTES_PER_SECOND: Final = 1 << 15  # … and over time
PAUSE_SECONDS: Final = 0.02  # between reads of a host that is over its allowance


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose output it is: the log keys, and what hides the values of the event in a line."""

    keys: Mapping[str, object]
    mask: Callable[[str], str] = str


@dataclass(slots=True)
class _Pipe:
    stream: str
    fd: int
    pending: bytearray = field(default_factory=bytearray)
    skipping: bool = False  # within a line that is too long


class HostOutput:
    """Both output streams of one host; owns the two descriptors."""

    def __init__(self, *, stdout: int, stderr: int, silent: Speaker) -> None:
        """`silent` is who speaks when no attempt runs."""
        self._loop = asyncio.get_running_loop()
        self._silent = self._speaker = silent
        self._allowance = float(BURST_BYTES)
        self._refilled_at = self._loop.time()
        self._left_out_bytes = 0
        self.last_line = ""
        self._pipes = [_Pipe("stdout", stdout), _Pipe("stderr", stderr)]
        for pipe in self._pipes:
            os.set_blocking(pipe.fd, False)
            _enlarge(pipe.fd)
            self._loop.add_reader(pipe.fd, self._readable, pipe)

    def begin(self, speaker: Speaker) -> None:
        """What is printed from now on belongs to this speaker."""
        self.drain()
        self._speaker = speaker

    def end(self) -> None:
        """The attempt is over: what it printed is in the pipes by now.

        A thread it left behind may go on talking of the same event.
        """
        self.drain()
        self._speaker = Speaker(self._silent.keys, self._speaker.mask)

    def drain(self) -> None:
        """Log what was printed so far, half a line included."""
        for pipe in list(self._pipes):  # one that has ended leaves the list
            if self._read(pipe, PIPE_BYTES) and pipe.pending:
                self._say(pipe, bytes(pipe.pending))
                pipe.pending.clear()
        if self._left_out_bytes:
            logger.info("agent.output", **self._speaker.keys, left_out_bytes=self._left_out_bytes)
            self._left_out_bytes = 0

    def close(self) -> None:
        """Log what is left, and let go."""
        self.drain()
        for pipe in list(self._pipes):
            self._close(pipe)

    def _readable(self, pipe: _Pipe) -> None:
        self._read(pipe, TURN_BYTES)
        if pipe in self._pipes and self._left_out_bytes:
            self._loop.remove_reader(pipe.fd)
            self._loop.call_later(PAUSE_SECONDS, self._resume, pipe)

    def _resume(self, pipe: _Pipe) -> None:
        if pipe in self._pipes:
            self._loop.add_reader(pipe.fd, self._readable, pipe)

    def _read(self, pipe: _Pipe, most_bytes: int) -> bool:
        """Whether the pipe was read until it was empty."""
        for _ in range(most_bytes // CHUNK_BYTES):
            try:
                chunk = os.read(pipe.fd, CHUNK_BYTES)
            except BlockingIOError:
                return True
            if not chunk:
                self._say(pipe, bytes(pipe.pending))
                pipe.pending.clear()
                self._close(pipe)
                return True
            self._take(pipe, chunk)
        return False

    def _close(self, pipe: _Pipe) -> None:
        self._loop.remove_reader(pipe.fd)
        os.close(pipe.fd)
        self._pipes.remove(pipe)

    def _take(self, pipe: _Pipe, chunk: bytes) -> None:
        self._refill()
        if self._allowance > 0:
            *lines, rest = chunk.split(b"\n")
        else:  # every line is left out: only where the last one begins matters
            before, newline, rest = chunk.rpartition(b"\n")
            lines = [before] if newline else []
        for line in lines:
            whole = bytes(pipe.pending) + line
            pipe.pending.clear()
            self._say(pipe, whole)
        pipe.pending += rest
        if len(pipe.pending) > LONGEST_LINE_BYTES:
            self._left_out_bytes += len(pipe.pending)
            pipe.pending.clear()
            pipe.skipping = True

    def _refill(self) -> None:
        now = self._loop.time()
        earned = (now - self._refilled_at) * REFILL_BYTES_PER_SECOND
        self._allowance = min(BURST_BYTES, self._allowance + earned)
        self._refilled_at = now

    def _say(self, pipe: _Pipe, line: bytes) -> None:
        if pipe.skipping or self._allowance <= 0 or len(line) > LONGEST_LINE_BYTES:
            self._left_out_bytes += len(line)
            pipe.skipping = False
            return
        text = self._speaker.mask(line.decode("utf-8", "replace").rstrip())
        if not text:
            return
        self._allowance -= min(len(line), LINE_BYTES)
        text = text.encode()[:LINE_BYTES].decode("utf-8", "ignore")
        if pipe.stream == "stderr":
            self.last_line = text
        logger.info("agent.output", **self._speaker.keys, stream=pipe.stream, output=text)


def _enlarge(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        return  # the user's pipes are at their limit; the usual size does, with more waiting
