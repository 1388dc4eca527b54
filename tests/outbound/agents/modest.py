"""An agent whose import lowers a limit of its process, as it may."""

from __future__ import annotations

import os
import resource
from typing import Any

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def handle(event: dict[str, Any]) -> dict[str, str]:
    return {"response": str(os.getpid())}
