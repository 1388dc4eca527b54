"""An agent that takes its time to be imported; each attempt is quick."""

from __future__ import annotations

import os
import time
from typing import Any

SECONDS = float(os.environ.get("SLOW_IMPORT_SECONDS", "3600"))

time.sleep(SECONDS)


def handle(event: dict[str, Any]) -> dict[str, str]:
    return {"response": "at last"}
