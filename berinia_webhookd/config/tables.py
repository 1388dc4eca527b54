"""All keys that can be set: of the fixed sections, and of each agent and channel in the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from berinia_webhookd.config.agent_settings import DEFAULTS, AgentSettings, AgentsSettings
from berinia_webhookd.config.channel_settings import ChannelSettings, Kinds
from berinia_webhookd.config.fields import SameAs, Setting, settings_of
from berinia_webhookd.config.settings import SECTIONS, Settings
from berinia_webhookd.config.sources import Given, Layer
from berinia_webhookd.config.values import AGENT_NAME, one_of
from berinia_webhookd.findings import Finding, wrong
from berinia_webhookd.logs.reading import OTHER_THAN_CHANNELS
from berinia_webhookd.model import AgentName, ChannelName

CHANNEL_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
# Logs and metrics use these names for other things.
TAKEN_NAMES: Final = OTHER_THAN_CHANNELS | {"health", "logs", "other"}


@dataclass(frozen=True, slots=True)
class Tables:
    """The agents and channels that have settings of their own."""

    agents: tuple[AgentName, ...]
    channels: Mapping[ChannelName, tuple[str, type[ChannelSettings]]]  # kind, and its settings
    refused: Mapping[str, Finding]  # other tables, by key

    @classmethod
    def of(cls, table: Mapping[str, Any], kinds: Kinds) -> Tables:
        """Find them in a file's content; built-in channels need not be there."""
        agents = [name for name in _tables(table, "agents") if name != DEFAULTS]
        channels = {
            kind.settings.built_in.name: (name, kind.settings)
            for name, kind in kinds.items()
            if kind.settings.built_in is not None
        }
        refused = {
            f"agents.{name}": wrong(
                f"agents.{name}",
                "is not a name for an agent",
                "agents' names start with a capital: [agents.ResponseListenerAgent]",
            )
            for name in agents
            if not AGENT_NAME.fullmatch(name)
        }
        for name, content in _tables(table, "channels").items():
            kind = content.get("kind", kind_of_presets(kinds) if "preset" in content else None)
            if name in channels:
                continue
            if isinstance(kind, str) and kind in kinds and _may_be_called(name):
                channels[ChannelName(name)] = (kind, kinds[kind].settings)
            else:
                refused[f"channels.{name}"] = _refused(name, kind, kinds, [*channels])
        named = tuple(AgentName(name) for name in agents if f"agents.{name}" not in refused)
        return cls(named, channels, refused)

    def keys(self) -> dict[str, Setting]:
        """Return every key that can be set."""
        keys = {
            f"{name}.{field}": setting
            for name, section in (*SECTIONS.items(), ("agents", AgentsSettings))
            for field, setting in settings_of(section).items()
        }
        for field, setting in settings_of(AgentSettings).items():
            keys[f"agents.{DEFAULTS}.{field}"] = replace(setting, file_only=True)
        for agent in self.agents:
            for field, setting in settings_of(AgentSettings).items():
                default = SameAs(f"agents.{DEFAULTS}.{field}")
                keys[f"agents.{agent}.{field}"] = replace(setting, default=default, file_only=True)
        for channel, (kind, settings) in self.channels.items():
            for field, setting in _of_channel(channel, kind, settings):
                keys[f"channels.{channel}.{field}"] = setting
        return keys | settings_of(Settings)


def kind_of_presets(kinds: Kinds) -> str | None:
    """Return the kind that has presets: a channel with a preset need not say its kind."""
    return next((name for name, kind in kinds.items() if kind.preset is not None), None)


def presets(table: Mapping[str, Any], kinds: Kinds, problems: list[Finding]) -> Layer:
    """Return the values of the channels' presets, the lowest source."""
    given: dict[str, Given] = {}
    for name, content in _tables(table, "channels").items():
        preset = content.get("preset")
        kind = kinds.get(str(content.get("kind", kind_of_presets(kinds))))
        if not isinstance(preset, str) or kind is None or kind.preset is None:
            continue
        try:
            declared = kind.preset(preset)
        except ValueError as error:
            problems.append(wrong(f"channels.{name}.preset", "is not a preset", str(error)))
            continue
        for key, raw in declared.items():
            given[f"channels.{name}.{key}"] = Given(raw, "preset", f"preset {preset}")
    return given


def _tables(table: Mapping[str, Any], section: str) -> dict[str, Mapping[str, Any]]:
    found = table.get(section)
    inside = found.items() if isinstance(found, Mapping) else ()
    return {name: content for name, content in inside if isinstance(content, Mapping)}


def _may_be_called(name: str) -> bool:
    return CHANNEL_NAME.fullmatch(name) is not None and name not in TAKEN_NAMES


def _refused(name: str, kind: Any, kinds: Kinds, known: list[str]) -> Finding:
    """Return why a table is not a channel."""
    key, choices = f"channels.{name}", " or ".join(f'kind = "{one}"' for one in kinds)
    if not _may_be_called(name):
        taken = f"; {', '.join(sorted(TAKEN_NAMES))} are taken"
        fix = f"use small letters, digits and -: [channels.crm]{taken}"
        return wrong(key, "is not a name for a channel", fix)
    if kind is not None:
        return wrong(f"{key}.kind", "is not a kind of channel", f"give {choices}")
    nearest = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean channels.{nearest[0]}? If not: " if nearest else ""
    preset = 'preset = "…" (docs/declaring-a-channel.md has the list)'
    fix = f"{meant}give it {preset}, or {choices}"
    return wrong(key, "is a channel without a kind or a preset", fix)


def _of_channel(
    name: ChannelName, kind: str, settings: type[ChannelSettings]
) -> Iterator[tuple[str, Setting]]:
    """Yield a channel's settings; its name decides its path and legacy variables."""
    defaults: dict[str, Any] = {"kind": kind, "path": f"/webhook/{name}"}
    built_in = settings.built_in if settings.built_in and settings.built_in.name == name else None
    if built_in is not None:
        defaults |= {"path": built_in.path, "agent": built_in.agent}
    for field, setting in settings_of(settings).items():
        yield (
            field,
            replace(
                setting,
                read=one_of(kind) if field == "kind" else setting.read,
                default=defaults.get(field, setting.default),
                legacy=setting.legacy if built_in else (),
            ),
        )
