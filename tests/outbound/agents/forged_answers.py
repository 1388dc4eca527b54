"""An agent that answers the daemon's question itself while it is imported."""

from __future__ import annotations

import os
from typing import Any

REQUESTS_FD = 64

_answer = os.environ["FORGED_ANSWER"].encode()
os.write(REQUESTS_FD, len(_answer).to_bytes(4, "big") + _answer)


def handle(event: dict[str, Any]) -> None:
    pass
