"""A registry, as BerinIA has one: finds every agent that has no target of its own.

    agents.path = "/opt/agents"
    agents.registry = "registry:registry"

`get_or_create(name)` returns an agent (with `run` or `handle`), or None after saying why: what it
logs is in agents.log, and `berinia-webhookd check-config` shows it.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

logger = logging.getLogger("registry")

MODULES = {
    "ResponseListenerAgent": ("berinia_run", "ResponseListenerAgent"),
    "MetaAgent": ("async_handle", "Assistant"),
}


class AgentRegistry:
    def __init__(self) -> None:
        self.agents: dict[str, Any] = {}

    def get_or_create(self, name: str) -> Any | None:
        if name not in self.agents:
            try:
                module, attribute = MODULES[name]
                self.agents[name] = getattr(importlib.import_module(module), attribute)()
            except Exception:
                logger.exception("cannot create %s", name)
                return None
        return self.agents[name]


registry = AgentRegistry()
