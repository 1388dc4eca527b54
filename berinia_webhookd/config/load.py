"""The loader: reads and checks every setting, and reports all errors together, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NewType
from urllib.parse import urlsplit

from berinia_webhookd.addresses import is_loopback
from berinia_webhookd.config import checks
from berinia_webhookd.config.agent_settings import DEFAULTS, AgentSettings, AgentsSettings
from berinia_webhookd.config.channel_settings import ChannelSettings, Kinds
from berinia_webhookd.config.fields import Environ, Required, SameAs, Setting, T, settings_of
from berinia_webhookd.config.files import Files, read_files
from berinia_webhookd.config.settings import SECTIONS, Settings
from berinia_webhookd.config.sources import (
    Given,
    Keys,
    Layer,
    Source,
    colliding,
    gather,
    readable,
    unread,
)
from berinia_webhookd.config.tables import Tables, presets
from berinia_webhookd.errors import ConfigurationError
from berinia_webhookd.findings import Finding, Level, wrong
from berinia_webhookd.model import AgentName

PINNING: Final = ("flag", "environment", "credential")  # a reload does not read these again


@dataclass(frozen=True, slots=True)
class Origin:
    """A setting's value and where it came from."""

    value: Any
    source: Source
    where: str
    setting: Setting = field(repr=False)
    valid: bool = True  # False: the value is the default


@dataclass(frozen=True, slots=True)
class Examined:
    """A configuration, usable or not: settings with an invalid value have their default."""

    settings: Settings
    origins: Mapping[str, Origin]
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    config_file: Path | None
    complete: bool  # whether every source could be read
    read_from: frozenset[Path]  # the files of all sources
    # What the file and .env say on keys that a higher source sets: a change has no effect.
    pinned: Mapping[str, Any] = field(repr=False)


Loaded = NewType("Loaded", Examined)  # a configuration without problems


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    kinds: Kinds,
    environ: Environ,
    working_folder: Path,
    config_file: Path | None = None,
    before: Loaded | None = None,
) -> Loaded:
    """Read and check the configuration; `kinds` are those that channels can have. Every file that
    was read `before` must still exist: one that is just being replaced must not unset anything.

    Raises:
        ConfigurationError: with every problem found.
    """
    found = examine(
        flags, kinds=kinds, environ=environ, working_folder=working_folder, config_file=config_file
    )
    gone = sorted(before.read_from - found.read_from) if before else ()
    hint = "put it back, or restart the daemon to do without it"
    problems = (
        *(wrong(str(file), "does not exist any more", hint) for file in gone),
        *found.problems,
    )
    if problems:
        raise ConfigurationError(problems)
    return Loaded(found)


def examine(
    flags: Mapping[str, Any] | None = None,
    *,
    kinds: Kinds,
    environ: Environ,
    working_folder: Path,
    config_file: Path | None = None,
) -> Examined:
    """Read and check the configuration without refusing it, for `check-config` and `doctor`."""
    environ, broken = readable(environ)
    files = read_files(environ, working_folder, config_file)
    tables = Tables.of(files.table, kinds)
    keys = tables.keys()
    problems = [*files.problems, *tables.refused.values(), *colliding(keys)]
    layers = gather(
        flags or {},
        environ=environ,
        broken=broken,
        files=files,
        keys=keys,
        left_out=tables.refused,
        problems=problems,
    )
    layers.append(presets(files.table, kinds, problems))
    origins = _origins(keys, layers, environ, problems)
    settings, unfinished = _frozen(origins, tables)
    lines = list(unread(files, keys))
    problems += [line for line in lines if line.level is Level.WRONG]
    together = [*_unsigned(settings.agents), *checks.errors(settings)]
    warnings = [*checks.warnings(settings, origins, kinds, files.config_file)]
    for channel in unfinished:
        together += channel.errors()
        warnings += checks.about_channel(channel, settings, origins, kinds)
    # Of a setting that could not be read, the rest is about its default and no fault of its own.
    problems += [
        one for one in together if one.subject not in origins or origins[one.subject].valid
    ]
    return Examined(
        settings=settings,
        origins=origins,
        problems=tuple(problems),
        warnings=(*warnings, *(line for line in lines if line.level is Level.WARNING)),
        config_file=files.config_file,
        complete=not files.problems,
        read_from=_read_from(files, layers),
        pinned=_pinned(layers, origins),
    )


def _read_from(files: Files, layers: list[Layer]) -> frozenset[Path]:
    given = (one for layer in layers for one in layer.values() if one.source == "credential")
    named = {file for file in (files.config_file, files.dotenv_file) if file is not None}
    return frozenset(named.union(Path(one.where) for one in given))


def _origins(
    keys: Keys, layers: list[Layer], environ: Environ, problems: list[Finding]
) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}
    for key, setting in keys.items():
        given = _given(key, setting, layers)
        default = _default(setting, origins, environ)
        if given is None and setting.default is Required:
            hint = f"set it: {setting.meaning}; see contrib/config/berinia-webhookd.toml"
            problems.append(wrong(key, "is not set", hint))
        if given is None:
            origins[key] = default
            continue
        try:
            value = setting.read(given.raw)
        except ValueError as error:
            problems.append(wrong(key, f"{_wrong(setting, given)} is not valid", str(error)))
            origins[key] = replace(default, source=given.source, where=given.where, valid=False)
        else:
            origins[key] = Origin(value, given.source, given.where, setting)
    return origins


def _given(key: str, setting: Setting, layers: list[Layer]) -> Given | None:
    """Return the value of the highest source; of a table, with what lower ones say beside it."""
    every = [layer[key] for layer in layers if key in layer]
    if setting.by_key and len(every) > 1 and all(isinstance(one.raw, Mapping) for one in every):
        table = {name: raw for one in reversed(every) for name, raw in one.raw.items()}
        return replace(every[0], raw=table)
    return every[0] if every else None


def _default(setting: Setting, origins: Mapping[str, Origin], environ: Environ) -> Origin:
    default = setting.default
    if isinstance(default, SameAs):
        return replace(origins[default.key], setting=setting)
    if default is Required:
        return Origin(None, "default", "default", setting, valid=False)
    return Origin(default(environ) if callable(default) else default, "default", "default", setting)


def _wrong(setting: Setting, given: Given) -> str:
    """Describe a wrong value; one that may be secret by its place alone."""
    may_be_secret = setting.secret or "://" in str(given.raw)  # a URL may hold a password
    shown = json.dumps(given.raw, ensure_ascii=False, default=str)[:80]
    shown = "the value" if may_be_secret else shown
    return f"{shown} from {given.where}"


def _frozen(
    origins: Mapping[str, Origin], tables: Tables
) -> tuple[Settings, list[ChannelSettings]]:
    """Return the settings, and the channels that they do without, because what is required of them
    is missing; there it is None.
    """

    def of(section: type[T], prefix: str, **more: Any) -> T:
        fields = {name: origins[f"{prefix}{name}"].value for name in settings_of(section)}
        return section(**fields, **more)

    def agent(name: AgentName) -> AgentSettings:
        return of(AgentSettings, f"agents.{name}.", name=name)

    sections: dict[str, Any] = {
        name.replace(".", "_"): of(section, f"{name}.") for name, section in SECTIONS.items()
    }
    incomplete = {
        key.rpartition(".")[0]
        for key, origin in origins.items()
        if origin.setting.default is Required and origin.value is None
    }
    channels = {
        name: of(settings, f"channels.{name}.", name=name)
        for name, (_, settings) in tables.channels.items()
    }
    unfinished = [channels.pop(name) for name in [*channels] if f"channels.{name}" in incomplete]
    settings = of(
        Settings,
        "",
        **sections,
        agents=of(
            AgentsSettings,
            "agents.",
            defaults=agent(DEFAULTS),
            by_name={name: agent(name) for name in tables.agents},
        ),
        channels=channels,
    )
    return settings, unfinished


def _unsigned(agents: AgentsSettings) -> Iterator[Finding]:
    """Yield HTTP agents on other machines that have no secret to verify our requests by."""
    for agent in (agents.defaults, *agents.by_name.values()):
        if agent.target is None or not agent.target.startswith("http"):
            continue
        if agent.signing_secret is None and not is_loopback(urlsplit(agent.target).hostname or ""):
            hint = "set a Standard Webhooks secret (whsec_…) that the agent knows too"
            key = f"agents.{agent.name}.signing_secret"
            yield wrong(key, "is missing for an HTTP agent", hint)


def _pinned(layers: list[Layer], origins: Mapping[str, Origin]) -> dict[str, Any]:
    return {
        key: given.raw
        for layer in reversed(layers)
        for key, given in layer.items()
        if given.source in ("file", ".env") and origins[key].source in PINNING
    }
