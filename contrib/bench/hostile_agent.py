"""An agent that hurts itself and its surroundings, each time in another way; and `calm`, which does
not.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any


def handle(event: dict[str, Any]) -> None:
    """The number of the message says how."""
    number = int(event["data"]["body"].split()[-1])
    WAYS[number % len(WAYS)]()


def calm(event: dict[str, Any]) -> None:
    """What agents should do."""


def spin() -> None:
    while True:
        pass


def hang() -> None:
    time.sleep(3600)


def leave() -> None:
    os._exit(3)


def shout() -> None:
    sys.stdout.write("x" * 3_000_000)


def fill_memory() -> None:
    bytearray(400_000_000)
    raise BaseException("not even an Exception")  # noqa: TRY002


def leave_a_spinning_child() -> None:
    if os.fork() == 0:
        spin()


WAYS = (spin, hang, leave, shout, fill_memory, leave_a_spinning_child)
