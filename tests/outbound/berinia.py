"""A small BerinIA as it stands on a server: its own folders, registry, configuration and habits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

REGISTRY: Final = """
import importlib
import logging
import sys

from utils.colours import setup

setup()
logger = logging.getLogger("BerinIA-Registry")
FOUND = {
    "ResponseListenerAgent": "agents.response_listener.response_listener_agent",
    "MetaAgent": "agents.meta.meta_agent",
    "BrokenAgent": "agents.broken.broken_agent",
}


class AgentRegistry:
    def __init__(self):
        self.agents = {}

    def get_or_create(self, name, config_path=None):
        if name in self.agents:
            return self.agents[name]
        try:
            module = importlib.import_module(FOUND[name])
            self.agents[name] = getattr(module, name)()
        except Exception as error:
            logger.error(f"cannot create {name}: {error}")
            return None
        return self.agents[name]


registry = AgentRegistry()
"""

COLOURS: Final = """
import logging
import sys


class Coloured(logging.Formatter):
    def format(self, record):
        return f"\\033[32m{record.levelname}\\033[0m {record.name}: {record.getMessage()}"


def setup():
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Coloured())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
"""

LISTENER: Final = """
import json
import logging
import os

from core.agent_base import Agent

os.makedirs("logs/agents", exist_ok=True)


class ResponseListenerAgent(Agent):
    def __init__(self, config_path=None):
        config_path = config_path or "agents/response_listener/config.json"
        super().__init__("ResponseListenerAgent", config_path)
        self.memory = {}

    def run(self, input_data):
        data = input_data["data"]
        heard = self.memory.setdefault(data["sender"], [])
        heard.append(data["body"])
        self.speak(f"{data['sender']} says {data['body']}")
        with open("logs/agents/heard.txt", "a") as file:
            file.write(data["body"] + "\\n")
        return {"status": "success", "message": f"{self.config['greeting']} {len(heard)}"}
"""

AGENT_BASE: Final = """
import json
import logging
from abc import ABC, abstractmethod


class Agent(ABC):
    def __init__(self, name, config_path):
        self.name = name
        with open(config_path) as file:
            self.config = json.load(file)
        self.logger = logging.getLogger(f"BerinIA-{name}")

    def speak(self, message):
        self.logger.info(message)

    @abstractmethod
    def run(self, input_data):
        ...
"""

META: Final = """
from core.agent_base import Agent


class MetaAgent(Agent):
    def __init__(self):
        super().__init__("MetaAgent", "agents/meta/config.json")

    def run(self, input_data):
        return {"status": "error", "message": f"Je ne comprends pas : {input_data['content']}"}
"""


def write_berinia(folder: Path) -> Path:
    """Write it into a folder; returns what `agents.path` is to name."""
    files = {
        "core/__init__.py": "",
        "core/agent_base.py": AGENT_BASE,
        "utils/__init__.py": "",
        "utils/colours.py": COLOURS,
        "agents/__init__.py": "",
        "agents/registry.py": REGISTRY,
        "agents/response_listener/__init__.py": "",
        "agents/response_listener/response_listener_agent.py": LISTENER,
        "agents/response_listener/config.json": json.dumps({"greeting": "message"}),
        "agents/meta/__init__.py": "",
        "agents/meta/meta_agent.py": META,
        "agents/meta/config.json": "{}",
        "agents/broken/__init__.py": "",
        "agents/broken/broken_agent.py": "import a_module_that_nobody_installed\n",
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder
