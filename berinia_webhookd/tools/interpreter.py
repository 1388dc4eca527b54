"""How Python itself runs in a process that lives long: once everything is imported."""

from __future__ import annotations

import gc
import sys
from typing import Final

# How long the event loop keeps the journal's thread waiting for its turn between two statements:
# with Python's 5 ms, a commit under load takes twice as long.
SWITCH_SECONDS: Final = 0.0005
# Nearly everything that a request makes is freed without the collector. By default it looks every
# 700 objects, and time and again at all that was imported, while callers wait.
OBJECTS_UNTIL_COLLECTED: Final = 20_000


def settle_in() -> None:
    """Short turns of threads, and a collector that leaves alone what stays."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_UNTIL_COLLECTED, *gc.get_threshold()[1:])
