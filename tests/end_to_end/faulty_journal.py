"""The daemon with one seam opened: what happens inside a commit, by files in the folder that
`JOURNAL_FAULTS` names. Everything else is the real thing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from berinia_webhookd import cli
from berinia_webhookd.journal import group_commit
from berinia_webhookd.journal.batch import Done, Work, apply
from berinia_webhookd.journal.database import Transaction

from .daemon import Daemon


class Unforeseen(BaseException):
    """What nothing in the daemon expects."""


def hang(fault: Path) -> None:
    while fault.exists():
        time.sleep(0.01)


async def faulty_apply(transaction: Transaction, batch: Sequence[Work]) -> list[Done]:
    """Hang in the journal's thread, as where a disk does, or break."""
    faults = Path(os.environ["JOURNAL_FAULTS"])
    accepts = any(work.step.name == "accept" for work in batch)
    if accepts:
        hang(faults / "hang")
    if accepts and (faults / "break").exists():
        raise Unforeseen
    return await apply(transaction, batch)


class FaultyDaemon(Daemon):
    """A daemon whose commits can be interfered with."""

    def fault(self, name: str) -> Path:
        """The file that brings a fault about."""
        return self.folder / name

    @property
    def environment(self) -> dict[str, str]:
        root = str(Path(__file__).parents[2])
        return {**super().environment, "JOURNAL_FAULTS": str(self.folder), "PYTHONPATH": root}

    def command(self, *words: str) -> list[str]:
        command = super().command(*words)
        if "serve" in words:
            command[command.index("berinia_webhookd")] = __name__
        return command


@contextmanager
def faulty_daemon(folder: Path, settings: str = "") -> Iterator[FaultyDaemon]:
    """One that runs."""
    with closing(FaultyDaemon(folder, settings)) as daemon:
        daemon.start()
        yield daemon


if __name__ == "__main__":
    vars(group_commit)["apply"] = faulty_apply
    cli.main()
