"""`serve --dev --reload`: notices that a file of the agents was saved."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from berinia_webhookd.supervision import in_thread_of_its_own

LOOK_SECONDS: Final = 0.3
# Folders that hold no code of theirs, besides those whose name begins with a dot.
OTHERS: Final = frozenset({"__pycache__", "node_modules"})
ENVIRONMENT: Final = "pyvenv.cfg"  # in a virtual environment

Stamps = Mapping[str, tuple[int, int, int]]


async def watch_agents(folder: Callable[[], Path | None], changed: asyncio.Event) -> None:
    """Set `changed`, for ever, once what changed below the folder has come to rest: editors write
    in several steps.
    """
    known = before = await _look(folder())
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        found = await _look(folder())
        if found == before != known:
            known = found
            changed.set()
        before = found


async def _look(folder: Path | None) -> Stamps:
    return {} if folder is None else await in_thread_of_its_own(lambda: stamps(folder))


def stamps(folder: Path) -> Stamps:
    """Return what tells each Python file below the folder from what it was before."""
    found: dict[str, tuple[int, int, int]] = {}
    for path, folders, files in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in OTHERS
            and not Path(path, name, ENVIRONMENT).exists()
        ]
        for name in files:
            if name.endswith(".py"):
                file = Path(path, name)
                try:
                    stamp = file.stat()
                except OSError:
                    continue  # it is being replaced, or leads nowhere
                found[str(file)] = (stamp.st_mtime_ns, stamp.st_size, stamp.st_ino)
    return found
