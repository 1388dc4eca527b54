"""What an agent host prints, read at file-descriptor level and logged line by line.

It never lets an agent wait for long, nor anybody else: it logs a little at a time, and a bounded
amount. What is over is counted and left out.
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

PIPE_BYTES: Final = 1 << 20  # a burst of an agent fits without waiting for us
TURN_BYTES: Final = 8192  # read at once; a hundred lines take milliseconds
TURN_SECONDS: Final = 0.005  # after a line that ends later than this, others have their turn
LINE_BYTES: Final = 4096  # of a line are logged
LEAST_BYTES: Final = 64  # a line counts as at least so many: a short one takes as much time
# A longer line is left out: hiding personal data in it takes seeing it whole.
LONGEST_LINE_BYTES: Final = 65_536
BURST_BYTES: Final = 1 << 18  # logged at once from one host …
REFILL_BYTES_PER_SECOND: Final = 1 << 15  # … and over time
PAUSE_SECONDS: Final = 0.02  # between reads of a host that is over its allowance

_memory: Final = bytearray(PIPE_BYTES)  # what is read last, whichever pipe it comes from
_buffer: Final = memoryview(_memory)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose output it is: the log keys, and what hides the values of the event in a line."""

    keys: Mapping[str, object]
    mask: Callable[[str], str] = str


@dataclass(slots=True)
class _Pipe:
    stream: str
    fd: int
    unsaid: bytes = b""  # was read, and has its turn before more is read
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
        self._draining = 0
        self.last_line = ""
        self._pipes = [_Pipe("stdout", stdout), _Pipe("stderr", stderr)]
        for pipe in self._pipes:
            os.set_blocking(pipe.fd, False)
            _enlarge(pipe.fd)
            self._loop.add_reader(pipe.fd, self._readable, pipe)

    async def begin(self, speaker: Speaker) -> None:
        """What is printed from now on belongs to this speaker."""
        await self.drain()
        self._speaker = speaker

    async def end(self) -> None:
        """The attempt is over: what it printed is in the pipes by now.

        A thread it left behind may go on talking of the same event.
        """
        await self.drain()
        self._speaker = Speaker(self._silent.keys, self._speaker.mask)

    async def drain(self) -> None:
        """Log what was printed so far, half a line included."""
        self._draining += 1
        try:
            for pipe in list(self._pipes):  # one that has ended leaves the list
                if await self._is_drained(pipe) and pipe.pending:
                    self._say(pipe, bytes(pipe.pending))
                    pipe.pending.clear()
        finally:
            self._draining -= 1
        self._say_what_is_left_out()

    async def close(self) -> None:
        """Log what is left, and let go."""
        await self.drain()
        self.abandon()

    def abandon(self) -> None:
        """Let go; what was not read yet is lost."""
        for pipe in list(self._pipes):
            self._close(pipe)

    async def _is_drained(self, pipe: _Pipe) -> bool:
        """False if it goes on talking: more came than fits into a pipe."""
        reads = PIPE_BYTES // TURN_BYTES
        while reads >= 0 or pipe.unsaid:
            reads -= not pipe.unsaid
            if self._is_empty_after_reading(pipe):
                return True
            await asyncio.sleep(0)
        return False

    def _readable(self, pipe: _Pipe) -> None:
        if self._draining:
            return  # which ends because nobody else reads more
        self._is_empty_after_reading(pipe)
        if pipe not in self._pipes:
            return
        if pipe.unsaid:
            self._loop.remove_reader(pipe.fd)
            self._loop.call_soon(self._resume, pipe)
        elif self._is_over():
            self._loop.remove_reader(pipe.fd)
            self._loop.call_later(PAUSE_SECONDS, self._resume, pipe)

    def _resume(self, pipe: _Pipe) -> None:
        if pipe not in self._pipes:
            return
        self._loop.add_reader(pipe.fd, self._readable, pipe)
        if pipe.unsaid:
            self._readable(pipe)

    def _is_empty_after_reading(self, pipe: _Pipe) -> bool:
        """Whether there is nothing more for now, after reading a turn's worth."""
        if pipe not in self._pipes:
            return True
        if pipe.unsaid:
            self._take(pipe, pipe.unsaid)
            return False
        over = self._is_over()
        try:
            size = os.readv(pipe.fd, [_buffer if over else _buffer[:TURN_BYTES]])
        except BlockingIOError:
            return True
        if not size:
            self._say(pipe, bytes(pipe.pending))
            pipe.pending.clear()
            self._close(pipe)
        elif over:
            self._leave_out(pipe, size)
        else:
            self._take(pipe, bytes(_buffer[:size]))
        return not size

    def _leave_out(self, pipe: _Pipe, size: int) -> None:
        """Of what is in the buffer only where the last line begins matters."""
        begins = _memory.rfind(b"\n", 0, size) + 1
        if begins:
            self._left_out_bytes += len(pipe.pending) + begins
            pipe.pending.clear()
            pipe.skipping = False
        self._keep(pipe, _buffer[begins:size])

    def _say_what_is_left_out(self) -> None:
        if self._left_out_bytes:
            logger.info("agent.output", **self._speaker.keys, left_out_bytes=self._left_out_bytes)
            self._left_out_bytes = 0

    def _close(self, pipe: _Pipe) -> None:
        self._loop.remove_reader(pipe.fd)
        os.close(pipe.fd)
        self._pipes.remove(pipe)

    def _take(self, pipe: _Pipe, chunk: bytes) -> None:
        """Log its lines for as long as a turn lasts."""
        ends_at = self._loop.time() + TURN_SECONDS
        begins = 0
        while (end := chunk.find(b"\n", begins)) >= 0:
            whole = bytes(pipe.pending) + chunk[begins:end]
            pipe.pending.clear()
            self._say(pipe, whole)
            begins = end + 1
            if self._loop.time() >= ends_at:
                pipe.unsaid = chunk[begins:]
                return
        pipe.unsaid = b""
        self._keep(pipe, chunk[begins:])

    def _keep(self, pipe: _Pipe, rest: bytes | memoryview) -> None:
        """The beginning of a line, until its end comes."""
        size = len(pipe.pending) + len(rest)
        if size <= LONGEST_LINE_BYTES:
            pipe.pending += rest
            return
        self._left_out_bytes += size
        self._allowance -= size
        pipe.pending.clear()
        pipe.skipping = True

    def _is_over(self) -> bool:
        """Whether it talked too much to have another turn's worth logged."""
        now = self._loop.time()
        earned = (now - self._refilled_at) * REFILL_BYTES_PER_SECOND
        self._allowance = min(BURST_BYTES, max(0.0, self._allowance) + earned)
        self._refilled_at = now
        return self._allowance < TURN_BYTES

    def _say(self, pipe: _Pipe, line: bytes) -> None:
        if pipe.skipping or self._allowance <= 0 or len(line) > LONGEST_LINE_BYTES:
            self._left_out_bytes += len(line)
            pipe.skipping = False
            return
        self._allowance -= min(max(len(line), LEAST_BYTES), LINE_BYTES)
        text = self._speaker.mask(line.decode("utf-8", "replace").rstrip())
        if not text:
            return
        text = text.encode()[:LINE_BYTES].decode("utf-8", "ignore")
        if pipe.stream == "stderr":
            self.last_line = text
        logger.info("agent.output", **self._speaker.keys, stream=pipe.stream, output=text)


def _enlarge(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        return  # the user's pipes are at their limit; the usual size does, with more waiting
