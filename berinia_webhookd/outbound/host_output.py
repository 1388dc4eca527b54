"""The output of an agent host, read at file-descriptor level and logged line by line.

One bounded read per turn of the event loop, so that neither the agent nor other tasks wait long. A
host has an allowance of log output; lines over it are counted and dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from berinia_webhookd.logs.control_characters import without_sequences

logger = structlog.get_logger()

PIPE_BYTES: Final = 1 << 20  # the pipe takes a burst of an agent without blocking it
TURN_BYTES: Final = 8192  # read at once; a hundred lines take milliseconds
TURN_SECONDS: Final = 0.005  # a turn ends after the first line that takes longer than this
LINE_BYTES: Final = 4096  # of a line are logged
LEAST_BYTES: Final = 64  # the least that a line counts: a short one takes as much time
# A longer line is dropped: masking personal data needs the whole line.
LONGEST_LINE_BYTES: Final = 65_536
BURST_BYTES: Final = 1 << 18  # logged at once from one host …
REFILL_BYTES_PER_SECOND: Final = 1 << 15  # … and over time
PAUSE_SECONDS: Final = 0.02  # between reads of a host that is over its allowance


class OutputOwner(NamedTuple):
    """The owner of output: the log keys, and the mask for the event's values in a line."""

    keys: Mapping[str, object]
    mask: Callable[[str], str] = str


@dataclass(slots=True, eq=False)
class _Pipe:
    stream: str
    fd: int
    unlogged: bytearray = field(default_factory=bytearray)
    skipping: bool = False  # within a line that is too long

    @property
    def has_line(self) -> bool:
        return b"\n" in self.unlogged


class HostOutput:
    """Both output streams of one host; owns the two descriptors."""

    def __init__(self, *, stdout: int, stderr: int, silent: OutputOwner) -> None:
        """`silent` is the owner while no attempt runs."""
        self._loop = asyncio.get_running_loop()
        self._silent = self._owner = silent
        self._allowance = float(BURST_BYTES)
        self._refilled_at = self._loop.time()
        self._dropped_bytes = 0
        self._draining = 0  # an attempt may end while its host is ending
        self.last_line = ""
        self._pipes = [_Pipe("stdout", stdout), _Pipe("stderr", stderr)]
        self._poll = select.poll()  # polls both at once: most attempts print nothing
        for pipe in self._pipes:
            self._poll.register(pipe.fd, select.POLLIN)
            os.set_blocking(pipe.fd, False)
            with contextlib.suppress(PermissionError):  # the user's pipe limit is reached
                fcntl.fcntl(pipe.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            self._loop.add_reader(pipe.fd, self._on_readable, pipe)

    async def begin(self, owner: OutputOwner) -> None:
        """Log output from now on as this owner's."""
        await self.drain()
        self._owner = owner

    async def end(self) -> None:
        """End the owner's output, all of which is in the pipes by now. A thread that the attempt
        left running may print more of the same event, so its mask stays.
        """
        await self.drain()
        self._owner = OutputOwner(self._silent.keys, self._owner.mask)

    async def drain(self) -> None:
        """Log the output so far, including an unfinished line."""
        if self._poll.poll(0) or any(pipe.unlogged for pipe in self._pipes):
            self._draining += 1
            try:
                for pipe in list(self._pipes):  # one that has ended leaves the list
                    await self._drain(pipe)
            finally:
                self._draining -= 1
        if self._dropped_bytes:
            logger.info("agent.output", **self._owner.keys, left_out_bytes=self._dropped_bytes)
            self._dropped_bytes = 0

    async def close(self) -> None:
        """Log what is left, and close the descriptors."""
        await self.drain()
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptors; unread output is lost."""
        for pipe in list(self._pipes):
            self._close(pipe)

    async def _drain(self, pipe: _Pipe) -> None:
        """Read no more than fits into a pipe, for it may go on printing meanwhile."""
        reads = PIPE_BYTES // TURN_BYTES + 1
        while reads or pipe.has_line:
            if not pipe.has_line:
                reads -= 1
                if not self._read(pipe):
                    self._log_rest(pipe)
                    return
            self._log_lines(pipe)
            await asyncio.sleep(0)

    def _on_readable(self, pipe: _Pipe) -> None:
        """Read for one turn, and pause if there is more than one turn's work."""
        if self._draining or pipe not in self._pipes:
            return
        if not pipe.has_line:
            self._read(pipe)
        self._log_lines(pipe)
        if pipe in self._pipes and (pipe.has_line or self._is_over()):
            self._loop.remove_reader(pipe.fd)
            self._loop.call_later(0 if pipe.has_line else PAUSE_SECONDS, self._resume, pipe)

    def _resume(self, pipe: _Pipe) -> None:
        if pipe in self._pipes:
            self._loop.add_reader(pipe.fd, self._on_readable, pipe)
            self._on_readable(pipe)

    def _read(self, pipe: _Pipe) -> bool:
        """Read once; return whether there was any data."""
        if pipe not in self._pipes:
            return False
        over = self._is_over()
        try:
            chunk = os.read(pipe.fd, PIPE_BYTES if over else TURN_BYTES)
        except BlockingIOError:
            return False
        if over:
            self._drop_lines(pipe, chunk)
        else:
            pipe.unlogged += chunk
        if not chunk:
            self._log_rest(pipe)
            self._close(pipe)
        return bool(chunk)

    def _drop_lines(self, pipe: _Pipe, chunk: bytes) -> None:
        """Drop complete lines; the rest may belong to the next attempt."""
        begins = chunk.rfind(b"\n") + 1
        if begins:
            self._dropped_bytes += len(pipe.unlogged) + begins
            pipe.unlogged.clear()
            pipe.skipping = False
        pipe.unlogged += chunk[begins:]

    def _log_lines(self, pipe: _Pipe) -> None:
        """Log lines for as long as a turn lasts."""
        ends_at = self._loop.time() + TURN_SECONDS
        while (end := pipe.unlogged.find(b"\n")) >= 0:
            line = bytes(pipe.unlogged[:end])
            del pipe.unlogged[: end + 1]
            self._log(pipe, line)
            if self._loop.time() >= ends_at:
                return
        if len(pipe.unlogged) > LONGEST_LINE_BYTES:
            self._allowance -= len(pipe.unlogged)
            self._dropped_bytes += len(pipe.unlogged)
            pipe.unlogged.clear()
            pipe.skipping = True

    def _log_rest(self, pipe: _Pipe) -> None:
        if pipe.unlogged:
            self._log(pipe, bytes(pipe.unlogged))
            pipe.unlogged.clear()

    def _log(self, pipe: _Pipe, line: bytes) -> None:
        if pipe.skipping or self._allowance <= 0 or len(line) > LONGEST_LINE_BYTES:
            self._dropped_bytes += len(line)
            pipe.skipping = False
            return
        self._allowance -= min(max(len(line), LEAST_BYTES), LINE_BYTES)
        # Before the mask: an escape sequence may be within a phone number.
        text = self._owner.mask(without_sequences(line.decode("utf-8", "replace")).rstrip())
        if not text:
            return
        text = text.encode()[:LINE_BYTES].decode("utf-8", "ignore")
        if pipe.stream == "stderr":
            self.last_line = text
        logger.info("agent.output", **self._owner.keys, stream=pipe.stream, output=text)

    def _is_over(self) -> bool:
        """Refill the allowance; return whether it is less than another turn's worth."""
        now = self._loop.time()
        earned = (now - self._refilled_at) * REFILL_BYTES_PER_SECOND
        self._allowance = min(BURST_BYTES, max(0.0, self._allowance) + earned)
        self._refilled_at = now
        return self._allowance < TURN_BYTES

    def _close(self, pipe: _Pipe) -> None:
        self._loop.remove_reader(pipe.fd)
        self._poll.unregister(pipe.fd)
        os.close(pipe.fd)
        self._pipes.remove(pipe)
