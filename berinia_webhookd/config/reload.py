"""What a reload changes: most settings take effect at once, some only after a restart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from berinia_webhookd.config.agent_settings import DEFAULTS
from berinia_webhookd.config.load import Loaded
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.model import ChannelName

CHANNELS: Final = "channels."
AGENTS: Final = "agents."


@dataclass(frozen=True, slots=True)
class Changes:
    """The keys that changed, and the settings from now on."""

    effective: Settings
    applied: tuple[str, ...]  # none of channels that were not there before, or are not any more:
    come: tuple[ChannelName, ...]
    gone: tuple[ChannelName, ...]
    needs_restart: tuple[str, ...]


def changes(running: Settings, old: Loaded, new: Loaded) -> Changes:
    """Compare what was loaded before with what is loaded now; `running` is what is in effect.

    A setting that needs a restart is named at every reload until there was one.
    """
    names = sorted(old.origins.keys() | new.origins.keys())
    changed = [name for name in names if _value(old, name) != _value(new, name)]
    come = new.settings.channels.keys() - old.settings.channels.keys()
    gone = old.settings.channels.keys() - new.settings.channels.keys()
    fixed = {name for name, origin in new.origins.items() if origin.setting.restart}
    effective, stuck = new.settings, []
    for name in fixed:
        section, _, key = name.rpartition(".")
        before, wanted = _section(running, section), new.origins[name].value
        if before is None:  # a new channel
            if wanted != new.origins[name].setting.default:
                stuck.append(name)
        elif getattr(before, key) != wanted:
            stuck.append(name)
            effective = _with(effective, section, key, getattr(before, key))
    pinned = [
        name
        for name in old.pinned.keys() | new.pinned.keys()
        if old.pinned.get(name) != new.pinned.get(name)
    ]
    return Changes(
        effective=effective,
        applied=tuple(name for name in changed if name not in fixed and not _of(name, come | gone)),
        come=tuple(sorted(come)),
        gone=tuple(sorted(gone)),
        needs_restart=tuple(sorted({*stuck, *pinned})),
    )


def _of(name: str, channels: Collection[ChannelName]) -> bool:
    return any(name.startswith(f"{CHANNELS}{channel}.") for channel in channels)


def _section(settings: Settings, name: str) -> Any:
    if name.startswith(CHANNELS):
        return settings.channels.get(ChannelName(name.removeprefix(CHANNELS)))
    return getattr(settings, name) if name else settings


def _with(settings: Settings, section: str, key: str, value: Any) -> Settings:
    if not section:
        return replace(settings, **{key: value})
    changed = replace(_section(settings, section), **{key: value})
    if section.startswith(CHANNELS):
        name = ChannelName(section.removeprefix(CHANNELS))
        return replace(settings, channels={**settings.channels, name: changed})
    return replace(settings, **{section: changed})


def _value(loaded: Loaded, name: str) -> Any:
    """Return a setting's value; that of an agent without a table is that of all agents."""
    origin = loaded.origins.get(name)
    if origin is None and name.startswith(AGENTS):
        origin = loaded.origins.get(f"{AGENTS}{DEFAULTS}.{name.rpartition('.')[2]}")
    return None if origin is None else origin.value
