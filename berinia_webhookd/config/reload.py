"""What a reload changes: most keys at once, some only with a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from berinia_webhookd.config.keys import BY_NAME
from berinia_webhookd.config.load import DEFAULTS, Loaded, build
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.model import AgentName


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of what changed, and the settings that hold from now on."""

    effective: Settings
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def changes(running: Settings, old: Loaded, new: Loaded) -> Changes:
    """Compare what was loaded last with what is loaded now; `running` is what holds until now.

    What needs a restart is named at every reload until it has had one.
    """
    names = sorted(old.origins.keys() | new.origins.keys())
    changed = [name for name in names if _value(old, name) != _value(new, name)]
    stuck = [
        name
        for name, key in BY_NAME.items()
        if key.restart and new.origins[name].value != _running_value(running, name)
    ]
    pinned = [
        name
        for name in sorted(old.pinned.keys() | new.pinned.keys())
        if old.pinned.get(name) != new.pinned.get(name)
    ]
    values = {
        name: _running_value(running, name) if key.restart else new.origins[name].value
        for name, key in BY_NAME.items()
    }
    agents = {AgentName(DEFAULTS): new.settings.agents.defaults, **new.settings.agents.by_name}
    return Changes(
        effective=build(values, agents),
        applied=tuple(name for name in changed if not _needs_restart(name)),
        needs_restart=tuple(sorted({*stuck, *pinned})),
    )


def _needs_restart(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].restart


def _value(loaded: Loaded, name: str) -> Any:
    origin = loaded.origins.get(name)
    return None if origin is None else origin.value


def _running_value(running: Settings, name: str) -> Any:
    value: Any = running
    for part in name.split("."):
        value = getattr(value, part)
    return value
