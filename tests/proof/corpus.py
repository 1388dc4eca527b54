"""The inputs that fuzzing found to reach different code, one file for each decoder, one input a
line, in Base64.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")


def read(decoder: str) -> list[bytes]:
    path = FOLDER / f"{decoder}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()]


def write(decoder: str, inputs: Iterable[bytes]) -> None:
    """Shortest first, so that a change shows as one."""
    lines = {base64.b64encode(found).decode() for found in inputs}
    in_order = sorted(lines, key=lambda line: (len(line), line))
    (FOLDER / f"{decoder}.txt").write_text("".join(f"{line}\n" for line in in_order))
