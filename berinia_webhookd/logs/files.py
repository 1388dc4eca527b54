"""Writes the log files in a background thread, in batches, appending, and reopens them after a
rotation. A full, read-only or missing disk loses lines, but never makes a caller wait.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from berinia_webhookd.clock import now

QUEUE_LINES: Final = 20_000
LINGER_SECONDS: Final = 0.02  # lines of this time are written together …
BATCH_LINES: Final = 512  # … at most so many at once
CLOSE_SECONDS: Final = 5.0  # for a writer that makes no progress
COMPLAIN_SECONDS: Final = 60.0
# A link must not lead us elsewhere, and a pipe without a reader must not block us.
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Line(NamedTuple):
    """One log line."""

    files: tuple[str, ...]  # that it goes to, without ".log"
    text: bytes  # JSON, ends in a newline
    screen: bytes  # for stderr


Draft = Callable[[], Line]  # makes a line later

_FILES, _TEXT, _SCREEN = map(attrgetter, Line._fields)


class LogWriter:
    """The files and the thread that writes them."""

    def __init__(
        self,
        folder: Path | None,
        *,
        stderr: Callable[[bytes], None] | None,
        stderr_json: bool = False,
        creates: bool = True,
    ) -> None:
        """Without `folder` there are no files, without `stderr` nothing is written there. Unless it
        `creates` files, only those that are there get their lines.
        """
        self._folder = folder
        self._creates = creates
        self._stderr_json = stderr_json
        self._stderr = stderr
        self._lines: deque[Line | Draft] = deque()
        self._files: dict[str, _AppendFile] = {}
        self._work = threading.Event()
        self._called = False  # set with it: asking an event costs as much as the rest of `put`
        self._idle = threading.Condition()
        self._written = 0
        self._put = 0
        self._dropped = 0
        self._complained_at = -COMPLAIN_SECONDS
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def put(self, line: Line | Draft) -> None:
        """Queue a line, or a function that makes it, without blocking. If the queue is full it is
        dropped and counted.
        """
        if len(self._lines) >= QUEUE_LINES:
            self._dropped += 1
            return
        self._put += 1
        self._lines.append(line)
        if not self._called:
            self._called = True
            self._work.set()

    def flush(self, timeout_seconds: float = 5.0) -> bool:
        """Wait until everything queued so far is written; return whether it was."""
        target = self._put
        with self._idle:
            return self._idle.wait_for(lambda: self._written >= target, timeout_seconds)

    def close(self) -> None:
        """Write what is queued, as long as that makes progress, and close the files."""
        self._closing = True
        self._work.set()
        written = -1
        while self._thread.is_alive() and self._written > written:
            written = self._written
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not (self._closing and not self._lines):
            self._work.wait()
            if not self._closing:
                time.sleep(LINGER_SECONDS)
            self._work.clear()
            self._called = False  # before it is counted what came
            waiting = len(self._lines)
            for begun in range(0, waiting, BATCH_LINES):
                many = min(BATCH_LINES, waiting - begun)
                self._write(self._made([self._lines.popleft() for _ in range(many)]))
                with self._idle:
                    self._written += many
                    self._idle.notify_all()
            self._report_dropped()
        for file in self._files.values():
            file.close()

    def _made(self, batch: list[Line | Draft]) -> list[Line]:
        lines: list[Line] = []
        for put in batch:
            try:
                lines.append(put if isinstance(put, Line) else put())
            except Exception as error:  # noqa: BLE001 - other lines must still be written
                self._complain(f"a line could not be made and is lost: {type(error).__name__}")
        return lines

    def _write(self, batch: list[Line]) -> None:
        if self._folder is not None:
            self._to_files(self._folder, batch)
        if batch:
            self._to_stderr(b"".join(map(_SCREEN, batch)))

    def _report_dropped(self) -> None:
        if self._dropped and self._complain(
            f"{self._dropped} log lines were dropped: more came than could be written"
        ):
            self._dropped = 0

    def _to_files(self, folder: Path, batch: list[Line]) -> None:
        texts: dict[str, list[bytes]] = {}
        for names, lines in groupby(batch, _FILES):  # neighbours mostly go to the same files
            text = b"".join(map(_TEXT, lines))
            for name in names:
                texts.setdefault(name, []).append(text)
        for name, parts in texts.items():
            file = self._files.get(name)
            if file is None:
                path = folder / f"{name}.log"
                file = self._files[name] = _AppendFile(path, creates=self._creates)
            try:
                file.append(b"".join(parts))
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not self._creates:
                    continue
                self._complain(f"{file.path}: {error.strerror}; lines are lost")

    def _complain(self, text: str) -> bool:
        """Write to stderr, at most once a minute; return whether it was written."""
        now = time.monotonic()
        if now - self._complained_at < COMPLAIN_SECONDS:
            return False
        self._complained_at = now
        self._to_stderr(self._complaint(text).encode("utf-8", "backslashreplace") + b"\n")
        return True

    def _complaint(self, text: str) -> str:
        if not self._stderr_json:
            return f"berinia-webhookd: logs: {text}"
        at = now().isoformat().replace("+00:00", "Z")
        line = {"timestamp": at, "level": "error", "event": "logs.lines_lost", "detail": text}
        return json.dumps(line)

    def _to_stderr(self, text: bytes) -> None:
        if self._stderr is None:
            return
        try:
            self._stderr(text)
        except BrokenPipeError:
            # Nobody reads our stderr any more.
            self._stderr = None
        except OSError:
            # Full at present; the files have these lines.
            return


class _AppendFile:
    """One file, opened when first needed, and again after it was rotated."""

    def __init__(self, path: Path, *, creates: bool) -> None:
        self.path = path
        self._creates = creates
        self._descriptor: int | None = None
        self._torn = False  # it ends in the middle of a line, as the disk was full

    def append(self, text: bytes) -> None:
        descriptor = self._current()
        if self._torn and os.fstat(descriptor).st_size:
            text = b"\n" + text
        done = 0
        while done < len(text):
            done += os.write(descriptor, text[done:] if done else text)
            self._torn = text[done - 1] != ord("\n")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _current(self) -> int:
        if self._descriptor is not None:
            try:
                there, here = os.stat(self.path), os.fstat(self._descriptor)  # noqa: PTH116
            except FileNotFoundError:
                self.close()
            else:
                if (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev):
                    self.close()
        if self._descriptor is None:
            flags = _FLAGS
            if self._creates:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags |= os.O_CREAT
            self._descriptor = os.open(self.path, flags, 0o600)
            self._torn = False
        return self._descriptor


def to_stderr(text: bytes) -> None:
    """Write to the stderr of the process."""
    view = memoryview(text)
    while view:
        view = view[os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, view) :]
