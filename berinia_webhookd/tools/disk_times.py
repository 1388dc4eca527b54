"""Measures how long a disk takes for what the journal does: flushes and commits."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from berinia_webhookd.journal import sqlite

MEASURED: Final = 300
BLOCK_BYTES: Final = 4096
# The fastest devices take about this long for a write: a faster flush did not reach a device.
LEAST_FLUSH_SECONDS: Final = 10e-6


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 99th percentile of durations."""

    median_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Summarise durations."""
        ordered = sorted(seconds) or [0.0]
        p99 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
        return cls(round(statistics.median(ordered) * 1000, 5), round(p99 * 1000, 5))

    def __str__(self) -> str:
        return f"median {in_words(self.median_ms)}, p99 {in_words(self.p99_ms)}"


def measure(folder: Path) -> tuple[Spread, Spread]:
    """Return how long flushes and commits took, one after another."""
    flushes, commits = _flushes(folder / "flush"), _commits(folder / "commit.db")
    return Spread.of(list(flushes)), Spread.of(list(commits))


def _flushes(file: Path) -> Iterator[float]:
    """Overwrite existing blocks, so that a flush has only the data to write."""
    block = os.urandom(BLOCK_BYTES)
    with file.open("wb", buffering=0) as stream:
        stream.write(block * MEASURED)
        os.fsync(stream.fileno())
        for number in range(MEASURED):
            stream.seek(number * BLOCK_BYTES)
            stream.write(block)
            began = perf_counter()
            os.fdatasync(stream.fileno())
            yield perf_counter() - began


def _commits(file: Path) -> Iterator[float]:
    """Commit as much as one message, as the journal does."""
    file.touch(mode=0o600)
    with closing(sqlite.connect(file)) as connection:
        connection.execute("CREATE TABLE written (content BLOB)")
        for _ in range(MEASURED):
            content = os.urandom(BLOCK_BYTES // 2)
            began = perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO written VALUES (?)", (content,))
            connection.execute("COMMIT")
            yield perf_counter() - began


def file_system(folder: Path) -> str:
    """Return the kind of the file system that a folder is on, and its device."""
    found = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place = before.split()[4].encode().decode("unicode_escape")
        kind, device, *_ = after.split()
        if folder.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, f"{kind}, {device}")
    return found[1]


def in_words(milliseconds: float) -> str:
    """Return a duration as `0.13 ms`, `17 ms` or `2.5 s`."""
    second = 1000
    if milliseconds >= second:
        return f"{milliseconds / second:.1f} s"
    return f"{milliseconds:.3g} ms"
