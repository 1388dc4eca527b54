"""What every part of the benchmark is given."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from machine import Cores
from messages import write_messages

# More than any server here takes on one core, so that no message is sent twice.
MOST_PER_SECOND = 12_000

Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Args:
        folder: on a disk, emptied afterwards.
        cores: who computes where.
        runs: of each peer.
        seconds: of each run.
        events: in the long journal.
    """

    folder: Path
    cores: Cores
    runs: int
    seconds: int
    events: int

    @cached_property
    def _numbers(self) -> count[int]:
        return count(1)

    def new_folder(self, name: str) -> Path:
        """A path that nobody has."""
        return self.folder / f"{next(self._numbers)}-{name.replace(' ', '-')}"

    @cached_property
    def messages(self) -> Path:
        """Enough for one run of a server with an empty journal; made once."""
        return self.other_messages(self.seconds * MOST_PER_SECOND)

    def other_messages(self, number: int) -> Path:
        """Messages that no other file has."""
        first = next(self._numbers) * 10_000_000
        return write_messages(self.folder / f"messages-{first}", number, first=first)


def median(values: Iterable[float], digits: int = 3) -> float:
    """Rounded, so that the JSON can be read."""
    return round(statistics.median(values), digits)


def say(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)
