"""What every part of the benchmark is given, and how things take turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from absent import Absent
from machine import Cores
from messages import write_messages
from stores import Postgresql

# More than any server here takes on one core, so that no message is sent twice.
MOST_PER_SECOND = 12_000
FIRST_MESSAGES = 50

Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """How to measure. To be used in a `with` statement, which ends the servers that it started.

    Args:
        folder: on a disk, emptied afterwards.
        cores: who computes where.
        runs: of each.
        seconds: of each run.
        received: events after which memory is looked at.
        events: in the long journal.
        minutes: of the load under which memory must stay flat.
        absent: why something is not measured, by its name; filled by each part.
    """

    folder: Path
    cores: Cores
    runs: int
    seconds: int
    received: int
    events: int
    minutes: float
    absent: dict[str, str] = field(default_factory=dict)
    _servers: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    @cached_property
    def _numbers(self) -> count[int]:
        return count(1)

    def new_folder(self, name: str) -> Path:
        """A path that nobody has."""
        return self.folder / f"{next(self._numbers)}-{name.replace(' ', '-').replace(',', '')}"

    @cached_property
    def messages(self) -> Path:
        """Enough for one run of a server with an empty journal; made once."""
        return self.other_messages(self.seconds * MOST_PER_SECOND)

    @cached_property
    def first_messages(self) -> Path:
        """A few, which warm up whoever is measured; made once."""
        return self.other_messages(FIRST_MESSAGES)

    def other_messages(self, number: int) -> Path:
        """Messages that no other file has."""
        first = next(self._numbers) * 10_000_000
        return write_messages(self.folder / f"messages-{first}", number, first=first)

    @cached_property
    def pinned_postgresql(self) -> Postgresql:
        """One on the core of what is measured; raises `Absent`."""
        server = Postgresql(self.new_folder("postgresql"), core=self.cores.server)
        self._servers.callback(server.close)
        return server

    def take_turns(
        self, names: Sequence[str], run: Callable[[str], Result]
    ) -> dict[str, list[Result]]:
        """Each begins as often as the others: what the one before leaves behind hits all alike.
        Who is absent is said once, and left out.
        """
        taken: dict[str, list[Result]] = {name: [] for name in names}
        for turn in range(self.runs):
            first = turn % len(names)
            for name in (*names[first:], *names[:first]):
                if name in self.absent:
                    continue
                try:
                    taken[name].append(run(name))
                except Absent as reason:
                    self.leave_out(name, reason)
        return {name: results for name, results in taken.items() if results}

    def leave_out(self, name: str, reason: BaseException) -> None:
        """It is said in the report."""
        self.absent[name] = str(reason)
        say(f"  {name}: left out, {reason}")


def median(values: Iterable[float], digits: int = 3) -> float:
    """Rounded, so that the JSON can be read."""
    return round(statistics.median(values), digits)


def medians(results: Sequence[Result]) -> Result:
    """Of each figure that the runs have; of lists, of their members."""
    return {
        key: [median(points) for points in zip(*(one[key] for one in results), strict=True)]
        if isinstance(first, list)
        else median(one[key] for one in results)
        for key, first in results[0].items()
    }


def say(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)
